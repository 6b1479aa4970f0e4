"""Sessions of a cache without Valkey: a dict, not L1, because L1 evicts entries and no other copy of a field exists.

After ``Engine.open`` no method awaits until its change is made, so every change is atomic. A field whose window has
ended is removed by the next lookup of the field, and all such fields are removed whenever the number of fields has
doubled. A field without an end stays until it is deleted.
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
from ...engine.entries.rules import TierRules
from ...engine.memory.fences import Fence
from ...engine.operations.get_or_load import Loads
from .entry import FieldValue
from .key import FieldKey, ThreadKeys, Threads
from .store import Checkpoints, SessionStore

__all__ = ["MemorySessions"]

# The forms that INCRBY of Valkey accepts as an integer.
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")
# Number of fields at which the first sweep runs.
_FIRST_SWEEP: Final = 1024


@dataclass(slots=True)
class _Field:
    """A field with its value.

    Attributes:
        window: Seconds, inf for no end.
        expires_at: Monotonic second at which the field ends.
        item_count: The number of items if an append has made the text, else None.
    """

    text: str
    window: float
    expires_at: float
    item_count: int | None = None


class MemorySessions(SessionStore):
    """The session store in a dict of this process."""

    def __init__(self, engine: Engine, rules: TierRules, checkpoints: Checkpoints) -> None:
        self._engine = engine
        self._loads = Loads(engine)
        self._rules = rules
        self._checkpoints = checkpoints
        self._counters = rules.counters.of(rules.tier)
        self._threads: dict[str, dict[str, _Field]] = {}
        self._count = 0
        self._sweep_at = _FIRST_SWEEP

    def hit(self, key: FieldKey) -> FieldValue | None:
        return None  # The cache may be closed, or belong to another loop: only ``Engine.open`` checks this.

    async def get(self, key: FieldKey, *, fresh: bool) -> FieldValue | None:
        await self._engine.open()
        field = self._find(key)
        if field is None:
            self._counters.misses += 1
            return None
        return self._read(field)

    async def get_or_load(self, key: FieldKey, load: LoadFunction, window: float) -> FieldValue:
        await self._engine.open()
        field = self._find(key)
        if field is not None:
            return self._read(field)

        async def fill(fence: Fence, entry: Entry) -> None:
            if fence.holds:
                self._put(key, entry.value.text, window)
            else:
                self._counters.overtaken += 1

        groups = (self._rules.group, key.thread.group)
        call = Call(self._rules, key.key, groups, self._counters, fill=fill)
        lookup = await self._loads.get_or_load(call, load, "use")
        assert lookup.entry is not None
        return FieldValue(lookup.entry.value.text, self._engine.now() + window, "loader", lookup.coalesced)

    async def set(self, key: FieldKey, text: str, window: float) -> None:
        await self._overtake(key)
        self._put(key, text, window)

    async def delete(self, key: FieldKey) -> bool:
        await self._overtake(key)
        return self._remove(key)

    async def append(self, key: FieldKey, item: str, window: float | None) -> int | None:
        await self._overtake(key)
        field = self._find(key)
        before = 0 if field is None else _count_items(field)
        if before is None:
            return None
        text = f"[{item}]" if field is None or not before else f"{field.text.rstrip()[:-1]},{item}]"
        self._change(key, field, text, window, before + 1)
        return before + 1

    async def incr(self, key: FieldKey, by: int, window: float | None) -> int | None:
        await self._overtake(key)
        field = self._find(key)
        if field is not None and not _INTEGER.fullmatch(field.text):
            return None
        before = 0 if field is None else int(field.text)
        if not (_is_int64(before) and _is_int64(before + by)):
            return None
        self._change(key, field, str(before + by), window)
        return before + by

    async def compare_and_set(self, key: FieldKey, expected: str | None, text: str, window: float | None) -> bool:
        await self._overtake(key)
        field = self._find(key)
        if (None if field is None else field.text) != expected:
            return False
        self._change(key, field, text, window)
        return True

    async def get_all(self, thread: ThreadKeys, *, sweep: bool) -> dict[str, str]:
        await self._engine.open()
        texts = {}
        for key, field in self._fields_of(thread):
            self._slide(field)
            texts[key.field] = field.text
        return texts

    async def touch(self, thread: ThreadKeys, *, sweep: bool) -> int:
        return len(await self.get_all(thread, sweep=sweep))

    async def destroy(self, thread: ThreadKeys, *, sweep: bool) -> int:
        runtime = await self._engine.open()
        runtime.fences.break_group(thread.group)
        count = sum(self._remove(key) for key, _ in self._fields_of(thread))
        return count + await self._checkpoints.destroy_thread(thread.id)

    async def clear(self, threads: Threads) -> int:
        runtime = await self._engine.open()
        runtime.fences.break_group(self._rules.group)
        self._sweep()
        count = self._count
        self._threads.clear()
        self._count = 0
        return count

    async def _overtake(self, key: FieldKey) -> None:
        """Break the fences of loads of the field, so that a loaded value does not replace the change that follows."""
        runtime = await self._engine.open()
        runtime.fences.break_key(key.key)

    def _find(self, key: FieldKey) -> _Field | None:
        """Return the field, or None if the field is absent; remove the field if its window has ended."""
        field = self._threads.get(key.thread.id, {}).get(key.field)
        if field is not None and field.expires_at <= self._engine.now():
            self._remove(key)
            return None
        return field

    def _read(self, field: _Field) -> FieldValue:
        """Return the value of a field that was found; restart the window, and count a hit."""
        self._counters.l1_hits += 1
        self._slide(field)
        return FieldValue(field.text, field.expires_at, "l1")

    def _slide(self, field: _Field) -> None:
        field.expires_at = self._engine.now() + field.window

    def _change(
        self, key: FieldKey, before: _Field | None, text: str, window: float | None, item_count: int | None = None
    ) -> None:
        """Set the field. Without a ``window`` the field keeps its window ``before``, or gets the tier's window."""
        if window is None:
            lifetime = self._rules.lifetime()
            window = before.window if before is not None else math.inf if lifetime is None else lifetime
        self._put(key, text, window, item_count)

    def _put(self, key: FieldKey, text: str, window: float, item_count: int | None = None) -> None:
        fields = self._threads.setdefault(key.thread.id, {})
        self._count += key.field not in fields
        fields[key.field] = _Field(text, window, self._engine.now() + window, item_count)
        self._counters.stored_bytes += len(text)
        if self._count >= self._sweep_at:
            self._sweep()

    def _remove(self, key: FieldKey) -> bool:
        """Remove the field; return whether it existed."""
        fields = self._threads.get(key.thread.id, {})
        if fields.pop(key.field, None) is None:
            return False
        self._count -= 1
        if not fields:
            del self._threads[key.thread.id]
        return True

    def _fields_of(self, thread: ThreadKeys) -> Iterator[tuple[FieldKey, _Field]]:
        """Yield the fields of a thread whose windows have not ended."""
        for name in tuple(self._threads.get(thread.id, ())):
            key = FieldKey(thread, name, thread.prefix + name)
            field = self._find(key)
            if field is not None:
                yield key, field

    def _sweep(self) -> None:
        """Remove every field whose window has ended; sweep again when the number of fields has doubled."""
        now = self._engine.now()
        for thread_id, fields in tuple(self._threads.items()):
            kept = {name: field for name, field in fields.items() if field.expires_at > now}
            self._count -= len(fields) - len(kept)
            if kept:
                self._threads[thread_id] = kept
            else:
                del self._threads[thread_id]
        self._sweep_at = max(_FIRST_SWEEP, 2 * self._count)


def _count_items(field: _Field) -> int | None:
    """Return the number of items of the JSON list in ``field``, or None if ``field`` holds something else."""
    if field.item_count is not None:
        return field.item_count
    try:
        items = json.loads(field.text)
    except (ValueError, RecursionError):
        return None
    return len(items) if isinstance(items, list) else None


def _is_int64(number: int) -> bool:
    return -(2**63) <= number < 2**63
