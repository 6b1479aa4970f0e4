"""Scans of keys: each key once, although SCAN may yield a key twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from tiercache.engine.operations.key_scan import distinct_pages


class Pages:
    """A second level whose scan yields given pages."""

    def __init__(self, *pages: list[bytes]) -> None:
        self._pages = pages

    async def scan(self, *prefixes: str, match: str | None = None) -> AsyncIterator[list[bytes]]:
        for page in self._pages:
            yield page


async def test_key_scan_yields_each_key_once() -> None:
    level2: Any = Pages([b"a", b"b", b"a"], [b"b"], [b"c", b"a"])
    assert [page async for page in distinct_pages(level2, "*")] == [[b"a", b"b"], [b"c"]]


async def test_key_scan_remembers_a_bounded_number_of_keys() -> None:
    pages = [[b"%d" % (page * 1000 + number) for number in range(1000)] for page in range(102)]
    level2: Any = Pages(*pages, pages[0], pages[-1])
    # The first page is forgotten by then; the last page is not.
    assert [page async for page in distinct_pages(level2, "*")] == [*pages, pages[0]]
