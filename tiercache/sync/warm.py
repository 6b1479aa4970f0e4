"""Warm-ups on the sync face: the items are read in the thread of the caller."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from functools import partial
from typing import Any, Final, Generic, TypeVar

from ..portal.call import run_plain
from ..tiers.warm import Items

__all__ = ["items_of_caller"]

I = TypeVar("I")  # noqa: E741 - an item

_END: Final[Any] = object()


class _ItemsOfCaller(Generic[I]):
    """Items that the thread of the caller reads: a generator may block, or belong to that thread."""

    def __init__(self, items: Iterable[I]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]

    async def __aiter__(self) -> AsyncIterator[I]:
        iterator = await run_plain(partial(iter, self._items))
        while (item := await run_plain(partial(next, iterator, _END))) is not _END:
            yield item


def items_of_caller(items: Items[I]) -> Items[I]:
    """Return ``items`` for a warm-up on the private loop."""
    is_plain = isinstance(items, Iterable) and not isinstance(items, AsyncIterable | str | bytes)
    return _ItemsOfCaller(items) if is_plain else items  # type: ignore[arg-type]
