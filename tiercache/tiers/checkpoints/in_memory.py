"""Checkpoints of a cache without Valkey: dicts, because L1 evicts entries, and no other copy of a checkpoint exists.

After ``Engine.open`` no method awaits, so every change is atomic. A thread whose lifetime has ended is removed by the
next lookup, and all such threads whenever the number of threads has doubled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from ...engine.engine import Engine
from ...engine.entries.rules import TierRules
from .checkpoint import NewCheckpoint, PendingWrite, Place, StoredCheckpoint, TypedBytes, Version, sorted_writes
from .key import ThreadKeys
from .store import CheckpointStore

__all__ = ["MemoryCheckpoints"]

# Number of threads at which the first sweep runs.
_FIRST_SWEEP: Final = 256


class _Record(Struct, frozen=True):
    parent: str | None
    checkpoint: TypedBytes
    metadata: TypedBytes
    versions: Mapping[str, Version]
    run_id: str


class _Thread(Struct):
    """The checkpoints of one thread.

    Attributes:
        expires_at: Monotonic second at which the thread ends.
        values: The values by namespace, channel and version.
        writes: The pending writes of each checkpoint by task and number.
    """

    expires_at: float = math.inf
    records: dict[Place, _Record] = field(default_factory=dict)
    values: dict[tuple[str, str, Version], TypedBytes] = field(default_factory=dict)
    writes: dict[Place, dict[tuple[str, int], PendingWrite]] = field(default_factory=dict)

    def copy(self) -> _Thread:
        """Return a thread with the same checkpoints."""
        writes = {place: dict(writes) for place, writes in self.writes.items()}
        return _Thread(self.expires_at, dict(self.records), dict(self.values), writes)

    def remove(self, places: Sequence[Place]) -> int:
        """Remove checkpoints, and the values that only they had; return how many there were."""
        count = len([record for place in places if (record := self.records.pop(place, None)) is not None])
        for place in places:
            self.writes.pop(place, None)
        kept = {(at.ns, *of) for at, record in self.records.items() for of in record.versions.items()}
        self.values = {of: value for of, value in self.values.items() if of in kept}
        return count


class MemoryCheckpoints(CheckpointStore):
    """The checkpoint store in dicts of this process."""

    def __init__(self, engine: Engine, rules: TierRules) -> None:
        self._engine = engine
        self._rules = rules
        self._threads: dict[str, _Thread] = {}
        self._sweep_at = _FIRST_SWEEP

    async def put(self, thread: ThreadKeys, new: NewCheckpoint) -> None:
        await self._engine.open()
        kept = self._renewed(thread)
        ns = new.place.ns
        lost = {channel for channel in new.unchanged if (ns, channel, new.versions[channel]) not in kept.values}
        again = new.dump_unchanged() if lost else {}
        for channel, value in {**again, **new.fresh}.items():
            kept.values[ns, channel, new.versions[channel]] = value
        for channel in new.cleared:
            kept.values.pop((ns, channel, new.versions[channel]), None)
        kept.records[new.place] = _Record(new.parent, new.checkpoint, new.metadata, dict(new.versions), new.run_id)

    async def put_writes(self, thread: ThreadKeys, place: Place, writes: Sequence[PendingWrite]) -> None:
        await self._engine.open()
        kept = self._renewed(thread).writes.setdefault(place, {})
        for write in writes:
            if write.number < 0:
                kept[write.task_id, write.number] = write
            else:
                kept.setdefault((write.task_id, write.number), write)

    async def get(self, thread: ThreadKeys, ns: str, checkpoint_id: str | None) -> StoredCheckpoint | None:
        await self._engine.open()
        kept = self._find(thread.id)
        if kept is None:
            return None
        if checkpoint_id is None:
            checkpoint_id = max((place.id for place in kept.records if place.ns == ns), default="")
        place = Place(ns, checkpoint_id)
        record = kept.records.get(place)
        if record is None:
            return None
        values = {
            channel: value
            for channel, version in record.versions.items()
            if (value := kept.values.get((ns, channel, version))) is not None
        }
        writes = sorted_writes([*kept.writes.get(place, {}).values()])
        return StoredCheckpoint(place, record.parent, record.checkpoint, record.metadata, values, writes)

    async def places(self, thread: ThreadKeys) -> list[Place]:
        await self._engine.open()
        kept = self._find(thread.id)
        return [] if kept is None else sorted(kept.records)

    async def threads(self) -> list[str]:
        await self._engine.open()
        self._sweep()
        return [thread_id for thread_id, kept in self._threads.items() if kept.records]

    async def destroy(self, thread: ThreadKeys) -> int:
        await self._engine.open()
        kept = self._find(thread.id)
        self._threads.pop(thread.id, None)
        return 0 if kept is None else len(kept.records)

    async def copy(self, source: ThreadKeys, target: ThreadKeys) -> int:
        await self._engine.open()
        kept = self._find(source.id)
        if kept is None or not kept.records:
            return 0
        self._threads[target.id] = kept.copy()
        return len(self._renewed(target).records)

    async def remove(self, thread: ThreadKeys, places: Sequence[Place]) -> int:
        await self._engine.open()
        kept = self._find(thread.id)
        if kept is None:
            return 0
        count = kept.remove(places)
        if not kept.records:
            del self._threads[thread.id]
        return count

    async def remove_run(self, run_id: str) -> int:
        await self._engine.open()
        count = 0
        for thread_id in tuple(self._threads):
            kept = self._find(thread_id)
            if kept is not None:
                count += kept.remove([place for place, record in kept.records.items() if record.run_id == run_id])
                if not kept.records and not kept.writes:
                    del self._threads[thread_id]
        return count

    def _find(self, thread_id: str) -> _Thread | None:
        """Return the checkpoints of a thread; remove them if their lifetime has ended."""
        kept = self._threads.get(thread_id)
        if kept is not None and kept.expires_at <= self._engine.now():
            del self._threads[thread_id]
            return None
        return kept

    def _renewed(self, thread: ThreadKeys) -> _Thread:
        """Return the checkpoints of a thread, made if absent, with a lifetime that begins now."""
        kept = self._find(thread.id)
        if kept is None:
            kept = self._threads[thread.id] = _Thread()
            if len(self._threads) >= self._sweep_at:
                self._sweep()
        lifetime = self._rules.default_lifetime()
        kept.expires_at = math.inf if lifetime is None else self._engine.now() + lifetime
        return kept

    def _sweep(self) -> None:
        now = self._engine.now()
        self._threads = {thread_id: kept for thread_id, kept in self._threads.items() if kept.expires_at > now}
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._threads))
