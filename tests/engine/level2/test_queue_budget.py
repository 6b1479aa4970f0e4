"""Backpressure: explicit stores wait in FIFO order while the queue is full."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.level2.ledger import NEVER, Ledger, ignore, store, write
from tests.requests import turns
from tests.seams import PipeView
from tiercache import L2UnavailableError
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Delete
from tiercache.options import WriteOptions


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def pipe(ledger: Ledger) -> WritePipe:
    """Return a pipe that sends write-behind stores only with another write."""
    return WritePipe(ledger, WriteOptions(max_delay=NEVER, max_ops=10, max_bytes=1000, max_queue_bytes=2000))


async def test_backpressure_admits_waiting_stores_in_fifo_order(pipe: WritePipe, ledger: Ledger) -> None:
    order: list[str] = []

    async def store_when_there_is_room(key: str, size: int) -> None:
        await pipe.wait_room(size + 1)
        order.append(key)
        await pipe.write(store(key, b"x" * size))

    ledger.open.clear()
    assert pipe.fill(write("full", 1500), ignore)
    storing = [
        asyncio.create_task(store_when_there_is_room(key, size))
        for key, size in (("large", 1500), ("cancelled", 1500), ("small", 10))
    ]
    await turns()
    assert order == []
    # Only an invalidation may overtake a waiting store.
    assert not pipe.fill(write("fill"), ignore)
    deleting = pipe.submit(Delete(("full",)))
    assert pipe.queued_count == 2
    storing[1].cancel()
    ledger.open.set()
    await deleting
    await asyncio.gather(*storing, return_exceptions=True)
    assert order == ["large", "small"]
    assert ledger.stored == ["full", "large", "small"]
    assert pipe.fill(write("fill"), ignore)
    await pipe.flush()


async def test_backpressure_passes_room_on_when_admitted_store_is_cancelled(pipe: WritePipe, ledger: Ledger) -> None:
    # When the callback runs, the first waiter has been admitted, and its task has not run since.
    pipe.store_behind(store("full", b"x" * 900), lambda _: waiting[0].cancel())
    waiting = [asyncio.create_task(pipe.wait_room(1900)) for _ in range(2)]
    await turns()
    assert not any(task.done() for task in waiting)
    await pipe.flush()
    async with asyncio.timeout(10):
        await waiting[1]
    assert waiting[0].cancelled()
    assert not PipeView(pipe).is_room_wanted


async def test_backpressure_admits_oversized_value_when_queue_is_empty(pipe: WritePipe, ledger: Ledger) -> None:
    await pipe.wait_room(5000)
    await pipe.write(store("a", b"x" * 5000))
    assert not pipe.fill(write("b", 5000), ignore)


async def test_backpressure_bounds_unacknowledged_write_behind_stores(pipe: WritePipe, ledger: Ledger) -> None:
    returned = 0
    most = 0

    async def store_all() -> None:
        nonlocal returned, most
        for n in range(95):
            await pipe.wait_room(10, is_behind=True)
            pipe.store_behind(store(n), ignore)
            returned += 1
            most = max(most, returned - len(ledger.stored))

    # The event loop runs other tasks only when there is no room.
    await store_all()
    assert most == 10
    await pipe.flush()
    assert len(ledger.stored) == 95


async def test_backpressure_fails_waiting_store_when_pipe_closes(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    pipe.store_behind(store("a", b"x" * 1999), ignore)
    waiting = asyncio.create_task(pipe.wait_room(100))
    await turns()
    await pipe.drain(0.01)
    with pytest.raises(L2UnavailableError, match="closed before"):
        await waiting
