"""Items of a cache without Valkey: dicts, not L1, because L1 evicts entries and no other copy of an item exists.

After ``Engine.open`` no method awaits until its work is done, so that every call is one step. All items
whose windows have ended are removed when the number of items has doubled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from msgspec import UNSET

from ...engine.engine import Engine
from ...identity import KeepsIdentity
from .key import Namespace, StoreKeys
from .store import Append, Find, Get, Item, ItemStore, Namespaces, Operation, Put, stored_bytes

__all__ = ["MemoryItems"]

# The number of items at which the first sweep runs.
_FIRST_SWEEP: Final = 1024


class _Place:
    """An item with the monotonic second at which it ends."""

    __slots__ = ("expires_at", "item")

    def __init__(self, item: Item, now: float) -> None:
        self.item = item
        self.expires_at = math.inf
        self.renew(now)

    def renew(self, now: float) -> None:
        if self.item.window is not None:
            self.expires_at = now + self.item.window


class MemoryItems(KeepsIdentity, ItemStore):
    """The item store in dicts of this process."""

    def __init__(self, engine: Engine, keys: StoreKeys) -> None:
        self._engine = engine
        self._keys = keys
        # No namespace is empty.
        self._spaces: dict[Namespace, dict[str, _Place]] = {}
        self._sweep_at = _FIRST_SWEEP

    async def run(self, operations: Sequence[Operation]) -> list[object]:
        for operation in operations:
            self._check(operation)
        with self._engine.operation("items.run", bytes=stored_bytes(operations)):
            await self._engine.open()
            return [self._do(operation) for operation in operations]

    def renew(self, items: Sequence[Item]) -> None:
        for item in items:
            self._get(Get(item.namespace, item.key, renew=True))

    def _check(self, operation: Operation) -> None:
        """Refuse the names that Valkey's store refuses."""
        self._keys.text(operation.namespace if isinstance(operation, Get | Put | Append) else operation.prefix)
        if isinstance(operation, Get | Put | Append):
            self._keys.field(operation.key)

    def _do(self, operation: Operation) -> object:
        if isinstance(operation, Get):
            return self._get(operation)
        if isinstance(operation, Find):
            last = None if operation.count is None else operation.skip + operation.count
            return list(islice(self._items(operation.prefix), operation.skip, last))
        if isinstance(operation, Namespaces):
            return list(dict.fromkeys(item.namespace for item in self._items(operation.prefix)))
        return self._put(operation)

    def _get(self, operation: Get) -> Item | None:
        place = self._spaces.get(operation.namespace, {}).get(operation.key)
        now = self._engine.now()
        if place is None or place.expires_at <= now:
            return None
        if operation.renew:
            place.renew(now)
        return place.item

    def _put(self, operation: Put | Append) -> bool:
        namespace, key, now = operation.namespace, operation.key, self._engine.now()
        before = self._get(Get(namespace, key))
        if isinstance(operation, Append):
            data = _appended(before, operation.data)
            holds = data is not None
        else:
            data = operation.data
            holds = operation.expected is UNSET or operation.expected == (before and before.data)
        if not holds:
            return False
        space = self._spaces.get(namespace, {})
        if not any(place.expires_at > now for place in space.values()):
            # A namespace, and an item, that is stored after its end comes last.
            self._spaces.pop(namespace, None)
            space = {}
        known = space.get(key)
        if known is not None and (data is None or known.expires_at <= now):
            del space[key]
        if data is not None:
            item = Item(namespace, key, data, self._engine.wall(), operation.window)
            self._spaces.setdefault(namespace, space)[key] = _Place(item, now)
        elif not space:
            self._spaces.pop(namespace, None)
        if operation.window is not None and self._count() >= self._sweep_at:
            self._sweep(now)
        return data is not None or before is not None

    def _items(self, prefix: Namespace) -> Iterator[Item]:
        now = self._engine.now()
        for namespace, space in self._spaces.items():
            if namespace[: len(prefix)] == prefix:
                yield from (place.item for place in space.values() if place.expires_at > now)

    def _sweep(self, now: float) -> None:
        for namespace, space in list(self._spaces.items()):
            for key in [key for key, place in space.items() if place.expires_at <= now]:
                del space[key]
            if not space:
                del self._spaces[namespace]
        self._sweep_at = max(_FIRST_SWEEP, 2 * self._count())

    def _count(self) -> int:
        return sum(map(len, self._spaces.values()))


def _appended(before: Item | None, elements: bytes) -> bytes | None:
    """Return the list of an item with ``elements``, or None if the item has no list."""
    if before is None or before.data == b"[]":
        return elements
    if not (before.data.startswith(b"[") and before.data.endswith(b"]")):
        return None
    return before.data if elements == b"[]" else before.data[:-1] + b"," + elements[1:]
