"""The tables of docs/request-keys.md, which the tests hold against the code."""

from __future__ import annotations

import re
from typing import Final

from tests.docs.pages import DOCS

_CODE: Final = re.compile(r"`([^`]+)`")


def table(first: str, second: str) -> list[list[str]]:
    """Return the rows of the one table whose header begins with two names."""
    lines = (DOCS / "request-keys.md").read_text("utf-8").splitlines()
    found = [number for number, line in enumerate(lines) if cells(line)[:2] == [first, second]]
    assert len(found) == 1, (first, second)
    rows: list[list[str]] = []
    for line in lines[found[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    assert rows
    return rows


def cells(line: str) -> list[str]:
    """Return the cells of a row, or an empty list for another line."""
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []


def names(cell: str) -> list[str]:
    """Return the names in the code spans of a cell."""
    return _CODE.findall(cell)


def pairs(first: str, second: str) -> set[tuple[str, str]]:
    """Return (API, name) of each row of a table."""
    return {(names(row[0])[0], name) for row in table(first, second) for name in names(row[1])}


LEFT_OUT: Final = pairs("API", "left out")
BYPASSED: Final = pairs("API", "a request with")
OWN_TOOLS: Final = pairs("API", "tools that your program runs")
