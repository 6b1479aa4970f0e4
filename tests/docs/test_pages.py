"""The pages of the docs agree with the package and with each other: links, navigation, options and their defaults."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import tiercache
from tests.docs.pages import DOCS, README, anchors, blocks, links, name_of, pages, pictures, prose, references, tables
from tiercache.engine.entries.counters import TierCounters

SITE = sorted(DOCS.glob("*.md"))


def is_outside(target: str) -> bool:
    """Return whether a link leaves the repository."""
    return re.match(r"[a-z]+:", target) is not None


def exists(name: str) -> bool:
    """Return whether Python can find ``name``: ``tiercache.AgentCache.open``."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        return all(hasattr(found, part) and (found := getattr(found, part), True) for part in parts[length:])
    return False


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Yield each link of a page that leads nowhere, with the reason."""
    for target in links(text):
        path, _, anchor = target.partition("#")
        if is_outside(target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{target}: no such file"
        elif anchor and "." in anchor:
            if not exists(anchor):
                yield f"{target}: no such name"
        elif anchor and anchor not in anchors(text if file == page else file.read_text("utf-8")):
            yield f"{target}: no such heading"
    yield from (f"[{name}]: no such name" for name in references(text) if not exists(name))


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_docs_links_have_targets(page: Path) -> None:
    assert not list(broken_links(page, page.read_text("utf-8")))


@pytest.mark.parametrize(
    "text",
    [
        "[x](nowhere.md)",
        "[x](llm.md#nothing)",
        "[x](#nothing)",
        "![x](assets/no.svg)",
        "[x](api.md#tiercache.No)",
        "[x][tiercache.No]",
    ],
)
def test_docs_links_check_notices_broken_link(text: str) -> None:
    assert len(list(broken_links(DOCS / "index.md", text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[x](llm.md#the-key)",
        "# A b\n[x](#a-b)",
        "`[x](nowhere.md)`",
        "[x](api.md#tiercache.AgentCache.open)",
        "[x][tiercache.LlmTier]",
    ],
)
def test_docs_links_check_accepts_good_link(text: str) -> None:
    assert not list(broken_links(DOCS / "index.md", text))


def test_docs_navigation_contains_every_page_once() -> None:
    config = tomllib.loads((DOCS / "zensical.toml").read_text("utf-8"))
    (*sections,) = config["project"]["nav"]
    files = [
        file for section in sections for entries in section.values() for entry in entries for file in entry.values()
    ]
    assert sorted(files) == [page.name for page in SITE]


def test_docs_index_links_every_page() -> None:
    linked = {target.partition("#")[0] for target in links((DOCS / "index.md").read_text("utf-8"))}
    assert not {page.name for page in SITE} - linked - {"index.md"}


def test_docs_index_lists_every_tier() -> None:
    rows = [row for head, *rows in tables((DOCS / "index.md").read_text("utf-8")) if head[0] == "tier" for row in rows]
    listed = {name for row in rows for name in re.findall(r"`cache\.(\w+)`", row[0])}
    assert listed == {"llm", "tool", "session", "kv"}


def test_docs_index_repeats_the_numbers_of_the_demo() -> None:
    index = (DOCS / "index.md").read_text("utf-8").partition("## A worked number")[2]
    table = next(block.code for block in blocks((DOCS / "demo.md").read_text("utf-8")) if block.language == "text")
    counts = {name: int(count.replace(",", "")) for name, count in re.findall(r"^  (.+?)  .*?  ([\d,]+)", table, re.M)}
    hits, joined = counts["L1 hit"] + counts["L2 hit"], counts["Follower"] + counts["Lease wait"]
    saved = re.search(r"Model calls +[\d,]+ +[\d,]+ +[\d,]+ +([\d.]+ %)", table)
    dollars = re.search(r"Dollars +\$([\d.]+) +\$([\d.]+)", table)
    assert saved is not None
    assert dollars is not None
    total = hits + joined + counts["Load"]
    assert f"sends {total:,} requests, {counts['Load']} of them different" in " ".join(index.split())
    said = {
        f"{hits:,}",
        f"{joined:,}",
        f"{counts['Load']:,}",
        saved[1],
        f"{float(dollars[2]):.2f}",
        dollars[1],
    }
    assert not {number for number in said if not re.search(rf"(?<![\d,.]){re.escape(number)}(?![\d,%])", index)}


@pytest.mark.parametrize("page", SITE, ids=name_of)
def test_docs_pages_open_with_one_sentence(page: Path) -> None:
    title, opening, *_ = prose(page.read_text("utf-8")).split("\n\n")
    assert re.fullmatch(r"# [^\n]+", title)
    opening = opening.replace("\n", " ")
    assert opening.endswith((".", ":"))
    assert len(re.findall(r"[.!?](?= |$)", opening)) <= 1


@pytest.mark.parametrize(
    "page",
    [page for page in SITE if page.name not in ("getting-started.md", "design.md", "api.md", "glossary.md")],
    ids=name_of,
)
def test_docs_feature_pages_have_why_how_and_worked_number(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE)
    assert [heading for heading in headings if heading in ("Why", "How", "A worked number")] == [
        "Why",
        "How",
        "A worked number",
    ]


def test_docs_reference_contains_every_public_name() -> None:
    documented = set(re.findall(r"^::: tiercache\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE))
    assert documented >= set(tiercache.__all__) - {"__version__"}
    assert "`tiercache.__version__`" in (DOCS / "api.md").read_text("utf-8")


OPTION_TABLES = [
    pytest.param(getattr(tiercache, name), rows, id=name)
    for page in SITE
    for (head, *rows) in tables(page.read_text("utf-8"))
    if head[1:2] == ["default"] and (name := head[0].strip("`")) in tiercache.__all__
]


@pytest.mark.parametrize(("owner", "rows"), OPTION_TABLES)
def test_docs_option_table_lists_every_option_with_default(owner: type, rows: list[list[str]]) -> None:
    parameters = list(inspect.signature(owner).parameters.values())
    options = {p.name: p.default for p in parameters if p.name != "client"}
    shown = {row[0].strip("`"): row[1] for row in rows}
    assert list(shown) == list(options)
    for name, default in shown.items():
        if default.startswith("`"):
            assert eval(default.strip("`")) == options[name], name


def test_docs_option_tables_are_found() -> None:
    found = {table.id for table in OPTION_TABLES}
    assert found == {
        "AgentCache",
        "TierOptions",
        "LlmOptions",
        "SessionOptions",
        "L1Options",
        "CoherenceOptions",
        "ResilienceOptions",
        "RuntimeSettings",
        "WriteOptions",
        "LlmResponse",
        "TelemetryOptions",
    }


def test_docs_statistics_page_names_every_counter() -> None:
    rows = [row for table in tables((DOCS / "statistics.md").read_text("utf-8")) for row in table]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named >= {field.name for owner in (tiercache.LocalStats, TierCounters) for field in fields(owner)}


@pytest.mark.parametrize("page", SITE, ids=name_of)
def test_docs_pages_load_nothing_from_other_hosts(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not [target for target in pictures(text) if is_outside(target)]
    assert "<script" not in prose(text)
    # The theme would fetch the library that draws mermaid diagrams.
    assert not [block for block in blocks(text) if block.language == "mermaid"]


def test_docs_pages_include_readme() -> None:
    assert README in pages()
