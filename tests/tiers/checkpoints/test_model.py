"""Checkpoints in Valkey, by two processes that take turns, have the results of the checkpoints in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tests.support import MakeCache
from tiercache import AgentCache, L1Options
from tiercache.tiers.checkpoints.checkpoint import NewCheckpoint, PendingWrite, Place, StoredCheckpoint, TypedBytes

THREADS = ("a", "a:b", "{a}%")
NAMESPACES = ("", "x", "x\1", "x|y:1")
CHANNELS = ("messages", "m\0", "%00")
RUNS = ("", "run", "r:{2}")


class Graphs:
    """Random changes of threads, as graphs and their users make them.

    It keeps the values of every checkpoint that it has made, for the checkpoint that follows.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._made: dict[tuple[str, Place], tuple[dict[str, Any], dict[str, TypedBytes]]] = {}
        self._count = 0

    def change(self) -> Callable[[AgentCache], Any]:
        """Return a change of one thread."""
        rng = self._random
        thread, ns, run = rng.choice(THREADS), rng.choice(NAMESPACES), rng.choice(RUNS)
        places = [place for of, place in self._made if of == thread]
        kind = rng.choice(["put"] * 10 + ["writes"] * 4 + ["destroy", "copy", "remove", "remove", "run"])
        if kind == "put":
            new = self.new(thread, ns, run)
            return lambda cache: cache.checkpoints.put(thread, new)
        if kind == "writes":
            place = rng.choice(places) if places and rng.random() < 0.9 else Place(ns, "unknown")
            writes = [self._write() for _ in range(rng.randint(1, 3))]
            return lambda cache: cache.checkpoints.put_writes(thread, place, writes)
        if kind == "copy":
            target = rng.choice(THREADS)
            for (of, place), values in list(self._made.items()):
                if of == thread:
                    self._made[target, place] = values
            return lambda cache: cache.checkpoints.copy_thread(thread, target)
        if kind == "remove":
            gone = rng.sample(places, min(len(places), rng.randint(0, 4)))
            return lambda cache: cache.checkpoints.remove(thread, gone)
        if kind == "run":
            return lambda cache: cache.checkpoints.remove_run(run or "absent")
        return lambda cache: cache.checkpoints.destroy_thread(thread)

    def new(self, thread: str, ns: str, run: str) -> NewCheckpoint:
        """Return a checkpoint that follows another one of the thread, or begins it."""
        rng = self._random
        self._count += 1
        earlier = [place for of, place in self._made if of == thread and place.ns == ns]
        parent = None
        if earlier and rng.random() < 0.9:
            # Mostly the latest one; sometimes a fork.
            parent = max(earlier) if rng.random() < 0.8 else rng.choice(earlier)
        versions, values = self._made[thread, parent] if parent else ({}, {})
        versions, values = dict(versions), dict(values)
        fresh: dict[str, TypedBytes] = {}
        cleared = set()
        for channel in rng.sample(CHANNELS, rng.randint(0, len(CHANNELS))):
            versions[channel] = self._count << 40 | rng.getrandbits(40)
            if rng.random() < 0.2:
                cleared.add(channel)
                values.pop(channel, None)
            else:
                before = values.get(channel, TypedBytes("msgpack", b"")).data
                more = rng.randbytes(rng.randint(0, 90))
                values[channel] = fresh[channel] = TypedBytes(rng.choice(["msgpack", "json", "own"]), before + more)
        unchanged = frozenset(channel for channel in versions if channel in values and channel not in fresh)
        place = Place(ns, f"{self._count:06}")
        self._made[thread, place] = versions, values
        kept = dict(values)
        return NewCheckpoint(
            place=place,
            parent=parent.id if parent else None,
            checkpoint=TypedBytes("msgpack", rng.randbytes(20)),
            metadata=TypedBytes("json", b"{}"),
            versions=versions,
            fresh=fresh,
            cleared=frozenset(cleared),
            unchanged=unchanged,
            dump_unchanged=lambda: {channel: kept[channel] for channel in unchanged},
            run_id=run,
        )

    def _write(self) -> PendingWrite:
        rng = self._random
        value = TypedBytes("msgpack", rng.randbytes(rng.randint(0, 60)))
        task = rng.choice(["t", "t\0", "u%"])
        return PendingWrite(task, rng.randint(-2, 2), rng.choice(CHANNELS), value, rng.choice(["", "p"]))


async def state_of(cache: AgentCache, thread: str) -> list[Any]:
    """Return every checkpoint of a thread."""
    places = await cache.checkpoints.places(thread)
    found: list[StoredCheckpoint | None] = [await cache.checkpoints.get(thread, *place) for place in places]
    latest = [await cache.checkpoints.get(thread, ns) for ns in NAMESPACES]
    return [places, found, latest]


@pytest.mark.parametrize("seed", range(12))
async def test_checkpoints_of_two_processes_have_the_results_of_checkpoints_in_memory(
    seed: int, make_cache: MakeCache, memory: AgentCache, plain: valkey.Valkey
) -> None:
    # One process keeps a few entries in L1, so that it reads most of a thread from Valkey.
    processes = [make_cache(name="test"), make_cache(name="test", l1=L1Options(max_entries=8))]
    graphs, rng = Graphs(seed), random.Random(seed)
    for _ in range(12):
        change = graphs.change()
        assert await change(rng.choice(processes)) == await change(memory)
        thread = rng.choice(THREADS)
        reader = rng.choice(processes)
        assert await state_of(reader, thread) == await state_of(memory, thread)
        assert set(await memory.checkpoints.threads()) <= set(await reader.checkpoints.threads())
    for thread in THREADS:
        for process in processes:
            assert await state_of(process, thread) == await state_of(memory, thread)
        await processes[0].checkpoints.destroy_thread(thread)
    assert list(plain.scan_iter("*:__tc:cp*")) == []
