"""The README and the pages of the site as text: their examples, links, headings and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
README: Final = ROOT / "README.md"

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>.*)$")
_NOT_RUN: Final = re.compile(r"<!-- not run: (?P<reason>.+) -->")
_LINK: Final = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)")
_REFERENCE: Final = re.compile(r"\[[^\]]+\]\[(?P<name>[^\]]+)\]")
_HEADING: Final = re.compile(r"^#{1,6} (?P<text>.+?)(?: *\{#(?P<anchor>[\w.-]+)\})?$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: The first word after the fence.
        code: The lines of the block.
        line: The line of the page on which the code begins, from 1.
        reason: The reason of a comment ``<!-- not run: reason -->`` in the line above, or None if the block is run.
    """

    language: str
    code: str
    line: int
    reason: str | None


def pages() -> list[Path]:
    """Return the README and every page of the site."""
    return [README, *sorted(DOCS.glob("*.md"))]


def name_of(page: Path) -> str:
    """Return the path of a page from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        number += 1
        if fence is None:
            continue
        begin = number
        while number < len(lines) and lines[number].strip() != fence["marks"]:
            number += 1
        above = _NOT_RUN.search(lines[begin - 2]) if begin > 1 else None
        code = [line.removeprefix(fence["indent"]) for line in lines[begin:number]]
        words = fence["info"].split()
        yield Block(words[0] if words else "", "\n".join(code) + "\n", begin + 1, above and above["reason"])
        number += 1


def prose(text: str) -> str:
    """Return a page without its code, fenced or inline."""
    kept = []
    fence = None
    for line in text.splitlines():
        match = _FENCE.match(line)
        if fence is None and match is None:
            kept.append(re.sub(r"(`+)[^`].*?\1", "", line))
        elif fence is None and match is not None:
            fence = match["marks"]
        elif line.strip() == fence:
            fence = None
    return "\n".join(kept)


def links(text: str) -> list[str]:
    """Return the targets of all links and pictures of a page."""
    return [match["target"] for match in _LINK.finditer(prose(text))]


def pictures(text: str) -> list[str]:
    """Return the targets of the pictures of a page."""
    return [match["target"] for match in _LINK.finditer(prose(text)) if match[0].startswith("!")]


def references(text: str) -> list[str]:
    """Return the Python names that a page links to as ``[text][package.name]``."""
    return [match["name"] for match in _REFERENCE.finditer(prose(text))]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as the toc extension of Python-Markdown makes them."""
    kept = re.sub(r"^(`{3,}|~{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {match["anchor"] or _slug(match["text"]) for match in _HEADING.finditer(kept)}


def _slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield the tables of a page: rows of cells, the header first, without the line of dashes."""
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            yield [row for row in rows if not all(re.fullmatch(r":?-*:?", cell) for cell in row)]
            rows = []
