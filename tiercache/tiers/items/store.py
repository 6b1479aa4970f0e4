"""ItemStore: the place where the items of a store are, Valkey or process memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from .key import Namespace

__all__ = ["Append", "Find", "Get", "Item", "ItemStore", "Namespaces", "Operation", "Put", "stored_bytes"]


class Item(Struct, frozen=True):
    """An item as it is stored.

    Attributes:
        data: The JSON of the value.
        stored_at: Seconds since the epoch at which the item was put.
        window: Seconds for which the item lives after its last use, or None for no end.
    """

    namespace: Namespace
    key: str
    data: bytes
    stored_at: float
    window: float | None


class Get(Struct, frozen=True):
    """Read one item: ``Item``, or None for an absent one. ``renew``: whether the window of the item restarts."""

    namespace: Namespace
    key: str
    renew: bool = False


class Find(Struct, frozen=True):
    """Read the items of all namespaces that begin with ``prefix``: a list of ``Item``.

    The namespaces come in the order in which they got their first item, the items of each in the order in which they
    were put first.

    Attributes:
        skip: The number of items to leave out at the beginning.
        count: Most items, or None for all.
    """

    prefix: Namespace
    skip: int = 0
    count: int | None = None


class Namespaces(Struct, frozen=True):
    """List the namespaces that have items and begin with ``prefix``: a list of namespaces, in any order."""

    prefix: Namespace = ()


class Put(Struct, frozen=True):
    """Store an item, or remove it if ``data`` is None. A stored item keeps its place in the order.

    The result is whether the item was stored, or whether there was one that was removed.

    Attributes:
        data: The JSON of the value.
        window: Seconds for which the item lives after its last use, or None for no end.
        expected: The JSON that the item must have, or None if it must be absent: with any other item, the operation
            does nothing and its result is False.
    """

    namespace: Namespace
    key: str
    data: bytes | None
    window: float | None = None
    expected: bytes | UnsetType | None = UNSET


class Append(Struct, frozen=True):
    """Append elements to the JSON list of an item, or store the list if there is no item.

    The result is whether that was done: it is False if the value of the item is no list.

    Attributes:
        data: A JSON list without spaces around its elements, such as ``orjson`` writes.
        window: As for ``Put``.
    """

    namespace: Namespace
    key: str
    data: bytes
    window: float | None = None


Operation: TypeAlias = Get | Find | Namespaces | Put | Append


def stored_bytes(operations: Sequence[Operation]) -> int:
    """Return the bytes of JSON that ``operations`` store."""
    return sum(len(each.data) for each in operations if isinstance(each, Put | Append) and each.data is not None)


class ItemStore(Protocol):
    """The store of items.

    An item whose window has ended is absent, in each result.

    Raises:
        UsageError, WrongLoopError: As for ``Engine.open``; or a name is wrong, and nothing was done.
        L2UnavailableError: Valkey did not answer; each change may or may not have happened.
        L2CommandError: Valkey refused; some changes may have happened.
    """

    async def run(self, operations: Sequence[Operation]) -> list[object]:
        """Do ``operations`` in order, in one exchange with Valkey; return the result of each."""
        ...

    def renew(self, items: Sequence[Item]) -> None:
        """Restart the windows of those of ``items`` that have one and are still there, without waiting.

        Called after ``run``, on the same event loop. While Valkey is unavailable, no window is restarted.
        """
        ...
