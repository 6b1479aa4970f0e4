"""The page of all options names every option of every option class, with its default."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pytest

from tests.docs.pages import DOCS, tables
from tiercache import AgentCache, clock, options, tier_options

OWNERS = [
    getattr(module, name) for module in (options, tier_options) for name in module.__all__ if name.endswith("Options")
]
NAMES_IN_DEFAULTS = {"SYSTEM_CLOCK": clock.SYSTEM_CLOCK}
HEAD = ["type", "default", "unit", "meaning"]


def shown_tables() -> dict[str, list[list[str]]]:
    """Return the rows of the tables of options on the page, by the name of their class."""
    found = list(tables((DOCS / "options.md").read_text("utf-8")))
    return {head[0].strip("`"): rows for head, *rows in found if head[1:] == HEAD}


def shown_defaults(owner: str) -> dict[str, Any]:
    """Return the options in the table of ``owner``, with their defaults."""
    rows = shown_tables()[owner]
    return {name.strip("`"): eval(default.strip("`"), dict(NAMES_IN_DEFAULTS)) for name, _, default, *_ in rows}


def own_defaults(owner: type) -> dict[str, Any]:
    """Return the options of ``owner`` that no documented class above it has, with their defaults."""
    above = {field.name for base in owner.__mro__[1:] if base in OWNERS for field in fields(base)}
    return {field.name: default_of(field) for field in fields(owner) if field.name not in above}


def default_of(field: Any) -> Any:
    return field.default if field.default is not MISSING else field.default_factory()


def test_the_option_classes_were_found() -> None:
    assert len(OWNERS) >= 10
    assert all(is_dataclass(owner) for owner in OWNERS)


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_the_page_has_every_option_of_a_class_with_its_default(owner: type) -> None:
    assert shown_defaults(owner.__name__) == own_defaults(owner)


def test_the_page_has_every_keyword_argument_of_the_cache_with_its_default() -> None:
    parameters = inspect.signature(AgentCache).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert shown_defaults("AgentCache") == keywords
    assert list(shown_defaults("AgentCache")) == list(keywords)


@pytest.mark.parametrize("owner", sorted(shown_tables()))
def test_every_option_on_the_page_has_a_meaning_of_one_sentence(owner: str) -> None:
    for name, *_, meaning in shown_tables()[owner]:
        assert meaning.endswith("."), name
