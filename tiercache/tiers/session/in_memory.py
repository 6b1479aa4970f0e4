"""Sessions of a cache without Valkey: a dict, and not L1, which may evict what nobody else keeps.

Nothing here waits, so every change is atomic. What has expired goes when it is next looked for, and all of it whenever
the number of fields has doubled; what has no lifetime stays until it is deleted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...engine.call import Call, LoadFunction
from ...engine.engine import Engine
from ...engine.entries.entry import Entry
from ...engine.entries.policy import TierPolicy
from ...engine.memory.fences import Fence
from ...engine.operations.get_or_load import Loads
from .entry import FieldValue
from .fields import FieldKey, ThreadKeys, Threads

__all__ = ["MemorySessions"]

_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")
_FIRST_SWEEP: Final = 1024


@dataclass(slots=True)
class _Value:
    text: str
    window: float
    expires_at: float


class MemorySessions:
    """A SessionStore in a dict. Windows and lives are in seconds, inf for no end."""

    def __init__(self, engine: Engine, policy: TierPolicy) -> None:
        self._engine = engine
        self._loads = Loads(engine)
        self._policy = policy
        self._counters = policy.counters.of(policy.tier)
        self._threads: dict[str, dict[str, _Value]] = {}
        self._count = 0
        self._sweep_at = _FIRST_SWEEP

    def peek(self, place: FieldKey) -> FieldValue | None:
        return None  # It may be asked on a closed cache, or from the wrong loop.

    async def get(self, place: FieldKey, *, fresh: bool) -> FieldValue | None:
        await self._engine.open()
        value = self._find(place)
        if value is None:
            self._counters.misses += 1
            return None
        return self._hit(value)

    async def get_or_load(self, place: FieldKey, load: LoadFunction, window: float) -> FieldValue:
        await self._engine.open()
        value = self._find(place)
        if value is not None:
            return self._hit(value)

        async def fill(fence: Fence, entry: Entry) -> None:
            if fence.holds:
                self._put(place, entry.value.text, window)
            else:
                self._counters.overtaken += 1

        groups = (self._policy.group, place.thread.group)
        call = Call(self._policy, place.key, groups, self._counters, fill=fill)
        found = await self._loads.get_or_load(call, load, "use")
        assert found.entry is not None
        return FieldValue(found.entry.value.text, self._engine.now() + window, "loader", found.coalesced)

    async def set(self, place: FieldKey, text: str, window: float) -> None:
        await self._overtake(place)
        self._put(place, text, window)

    async def delete(self, place: FieldKey) -> bool:
        await self._overtake(place)
        return self._remove(place)

    async def get_all(self, thread: ThreadKeys, *, sweep: bool) -> dict[str, str]:
        await self._engine.open()
        found = {}
        for place, value in self._values_of(thread):
            self._slide(value)
            found[place.field] = value.text
        return found

    async def touch(self, thread: ThreadKeys, *, sweep: bool) -> int:
        return len(await self.get_all(thread, sweep=sweep))

    async def destroy(self, thread: ThreadKeys, *, sweep: bool) -> int:
        runtime = await self._engine.open()
        runtime.fences.break_group(thread.group)
        return sum(self._remove(place) for place, _ in self._values_of(thread))

    async def clear(self, threads: Threads) -> int:
        runtime = await self._engine.open()
        runtime.fences.break_group(self._policy.group)
        self._sweep()
        count = self._count
        self._threads.clear()
        self._count = 0
        return count

    async def append(self, place: FieldKey, item: str, window: float | None) -> int | None:
        await self._overtake(place)
        value = self._find(place)
        text, count = f"[{item}]", 1
        if value is not None:
            try:
                items = json.loads(value.text)
            except (ValueError, RecursionError):
                return None
            if not isinstance(items, list):
                return None
            if items:
                text, count = f"{value.text.rstrip()[:-1]},{item}]", len(items) + 1
        self._change(place, value, text, window)
        return count

    async def incr(self, place: FieldKey, by: int, window: float | None) -> int | None:
        await self._overtake(place)
        value = self._find(place)
        if value is not None and not _INTEGER.fullmatch(value.text):
            return None
        before = 0 if value is None else int(value.text)
        if not (_is_int64(before) and _is_int64(before + by)):
            return None
        self._change(place, value, str(before + by), window)
        return before + by

    async def compare_and_set(self, place: FieldKey, expected: str | None, text: str, window: float | None) -> bool:
        await self._overtake(place)
        value = self._find(place)
        if (None if value is None else value.text) != expected:
            return False
        self._change(place, value, text, window)
        return True

    async def _overtake(self, place: FieldKey) -> None:
        runtime = await self._engine.open()
        runtime.fences.break_key(place.key)

    def _find(self, place: FieldKey) -> _Value | None:
        value = self._threads.get(place.thread.id, {}).get(place.field)
        if value is not None and value.expires_at <= self._engine.now():
            self._remove(place)
            return None
        return value

    def _hit(self, value: _Value) -> FieldValue:
        self._counters.l1_hits += 1
        self._slide(value)
        return FieldValue(value.text, value.expires_at, "l1")

    def _slide(self, value: _Value) -> None:
        value.expires_at = self._engine.now() + value.window

    def _change(self, place: FieldKey, value: _Value | None, text: str, window: float | None) -> None:
        if window is None:
            lifetime = self._policy.lifetime()
            window = value.window if value is not None else math.inf if lifetime is None else lifetime
        self._put(place, text, window)

    def _put(self, place: FieldKey, text: str, window: float) -> None:
        fields = self._threads.setdefault(place.thread.id, {})
        self._count += place.field not in fields
        fields[place.field] = _Value(text, window, self._engine.now() + window)
        self._counters.stored_bytes += len(text)
        if self._count >= self._sweep_at:
            self._sweep()

    def _remove(self, place: FieldKey) -> bool:
        fields = self._threads.get(place.thread.id, {})
        if fields.pop(place.field, None) is None:
            return False
        self._count -= 1
        if not fields:
            del self._threads[place.thread.id]
        return True

    def _values_of(self, thread: ThreadKeys) -> Iterator[tuple[FieldKey, _Value]]:
        for field in tuple(self._threads.get(thread.id, ())):
            place = FieldKey(thread, field, thread.prefix + field)
            value = self._find(place)
            if value is not None:
                yield place, value

    def _sweep(self) -> None:
        now = self._engine.now()
        for thread_id, fields in tuple(self._threads.items()):
            kept = {field: value for field, value in fields.items() if value.expires_at > now}
            self._count -= len(fields) - len(kept)
            if kept:
                self._threads[thread_id] = kept
            else:
                del self._threads[thread_id]
        self._sweep_at = max(_FIRST_SWEEP, 2 * self._count)


def _is_int64(number: int) -> bool:
    return -(2**63) <= number < 2**63
