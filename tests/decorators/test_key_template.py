"""Key templates: their fields, their separators, and texts of arguments that look like a part of the template."""

from __future__ import annotations

import enum
from datetime import date
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from tiercache import UsageError
from tiercache.decorators.key_template import KeyTemplate


class Unit(enum.Enum):
    METRIC = "m"


def key_of(text: str, **arguments: Any) -> str:
    return KeyTemplate(text, tuple(arguments)).key(arguments)


def test_template_has_the_texts_of_arguments_and_of_their_parts() -> None:
    assert key_of("user:{user_id}", user_id=42) == "user:42"
    assert key_of("{a}:{b.value}:{c[key]}", a="x", b=Unit.METRIC, c={"key": 5}) == "x:m:5"
    assert key_of("{a}/{b}/{c}", a=UUID(int=1), b=date(2026, 1, 2), c=Unit.METRIC) == f"{UUID(int=1)}/2026-01-02/m"
    assert key_of("{{a}}:{a}", a=1) == "{a}:1"


def test_hash_of_an_argument_has_its_type() -> None:
    values = [1, True, 1.0, "1", (1,), [1], None]
    for text in ("a:{value:hash}", "a:{value_hash}"):
        keys = {key_of(text, value=value) for value in values}
        assert len(keys) == len(values)
        assert {len(key) for key in keys} == {2 + 32}
    assert key_of("{value:hash}", value=1) == key_of("{value_hash}", value=1)


def test_parameter_whose_name_ends_with_hash_is_no_hash() -> None:
    assert key_of("{value_hash}", value=1, value_hash="given") == "given"


TEXTS = ["", "a", "b", ":", "a:b", "-", "a-b", "%", "%3A", "%2D", "é:", "::", "a:", ":a"]


@pytest.mark.parametrize("template", ["{a}:{b}", "x{a}-{b}", "{a}y-y{b}", "{a}-:{b}-", "{a}é-{b}", "{a:hash}:{b}"])
def test_other_texts_never_make_the_same_key(template: str) -> None:
    keys = {key_of(template, a=a, b=b) for a, b in product(TEXTS, TEXTS)}
    assert len(keys) == len(TEXTS) ** 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key must not be empty"),
        ("{b}", "has 'b', and the parameters of the key are: a"),
        ("{}", "has ''"),
        ("{b_hash}", "has 'b_hash'"),
        ("{a!r}", "in a form that is not known"),
        ("{a:>5}", "in a form that is not known"),
        ("{a", "is no template"),
        ("{a}{a}", "needs a character such as ':' between two fields"),
        ("{a}x{a}", "needs a character such as ':' between two fields"),
    ],
)
def test_wrong_template_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KeyTemplate(text, ("a",))


@pytest.mark.parametrize("value", [True, None, 1.5, [1], object(), b"a"])
def test_argument_without_a_plain_text_must_be_hashed(value: Any) -> None:
    with pytest.raises(UsageError, match=r"write \{a:hash\}"):
        key_of("{a}", a=value)


def test_part_that_the_argument_does_not_have_is_an_error() -> None:
    for text, value in (("{a.name}", 5), ("{a[key]}", {}), ("{a[key]}", 5)):
        with pytest.raises(UsageError, match="which the argument does not have"):
            key_of(text, a=value)
