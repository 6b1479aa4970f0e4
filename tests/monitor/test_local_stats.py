"""Local statistics: any thread reads them while the event loop counts."""

from __future__ import annotations

import threading

import pytest

from tests.seams import act_during_snapshot
from tiercache import AgentCache


async def test_local_stats_are_read_while_a_label_is_added(memory: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    added = iter(range(1000))
    for tool in ("a", "b"):
        await memory.tool.check(tool, None)
    counters = memory.local_stats().tiers["tool"]

    def look_up() -> None:
        # A check of a new tool, up to its first await, is the work of the event loop between two steps of the reader.
        checking = memory.tool.check(f"t{next(added)}", None)
        with pytest.raises(StopIteration):
            checking.send(None)

    act_during_snapshot(monkeypatch, look_up)
    assert memory.local_stats().tiers["tool"].misses >= counters.misses == 2


async def test_local_stats_are_read_by_a_thread_under_load(memory: AgentCache) -> None:
    failures: list[BaseException] = []
    read = threading.Event()
    stop = threading.Event()
    reads = 0

    def read_all() -> None:
        nonlocal reads
        while not stop.is_set():
            try:
                stats = memory.local_stats()
                assert stats.tiers["tool"].misses <= stats.operations["tool.check"].calls + 1
                reads += 1
            except BaseException as error:
                failures.append(error)
                break
            read.set()
        read.set()

    await memory.tool.check("first", None)
    thread = threading.Thread(target=read_all)
    thread.start()
    number = 0
    while reads < 50 and not failures:
        for _ in range(200):
            number += 1
            await memory.tool.check(f"t{number % 5000}", None)
            await memory.kv.get(f"k{number}")
    stop.set()
    thread.join()
    assert not failures
    assert reads >= 50
    assert memory.local_stats().tiers["tool"].misses == number + 1
