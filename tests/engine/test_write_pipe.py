"""The write pipe: order, batches, a bounded queue, errors for each write, nothing lost on a clean close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.requests import turns
from tiercache import L2CommandError, L2UnavailableError
from tiercache.engine.level2.level2 import Stored
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Delete, Run, Write, WriteResult, WriteSet
from tiercache.options import WriteOptions


class Ledger:
    """A Level2 that writes down what it is told, in the batches in which it is told."""

    def __init__(self) -> None:
        self.batches: list[list[Write]] = []
        self.calls = 0
        self.error: Exception | None = None
        self.refused: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()

    async def apply(self, writes: Sequence[Write]) -> list[WriteResult]:
        await self.open.wait()
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.batches.append(list(writes))
        return [
            L2CommandError("no") if isinstance(write, WriteSet) and write.key in self.refused else 1 for write in writes
        ]

    @property
    def keys(self) -> list[str]:
        return [
            write.key if isinstance(write, WriteSet) else f"-{write.keys[0]!s}" for b in self.batches for write in b
        ]

    @property
    def stored(self) -> list[str]:
        return [write.key for b in self.batches for write in b if isinstance(write, WriteSet)]

    async def ping(self) -> None: ...

    async def get(self, key: str) -> Stored | None: ...

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return []

    async def scan(self, prefix: str) -> AsyncIterator[list[bytes]]:
        yield []

    async def aclose(self) -> None: ...


def write(key: object, size: int = 1) -> WriteSet:
    return WriteSet(str(key), b"x" * size, None)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def pipe(ledger: Ledger) -> WritePipe:
    return WritePipe(ledger, WriteOptions(max_queue_bytes=1000))


def ignore(outcome: int | Exception) -> None: ...


async def test_writes_made_together_leave_together_and_in_order(pipe: WritePipe, ledger: Ledger) -> None:
    assert await asyncio.gather(*(pipe.write(write(n)) for n in range(250))) == [1] * 250
    assert [len(batch) for batch in ledger.batches] == [100, 100, 50]
    assert ledger.keys == [str(n) for n in range(250)]


async def test_fills_writes_and_deletes_share_one_order(pipe: WritePipe, ledger: Ledger) -> None:
    assert pipe.fill(write("a"), ignore)
    waiting = asyncio.create_task(pipe.write(write("b")))
    await asyncio.sleep(0)
    assert pipe.fill(write("c"), ignore)
    await pipe.write(Delete(("a",)))
    assert ledger.keys == ["a", "b", "c", "-a"]
    assert await waiting == 1


async def test_a_batch_is_bounded_in_bytes_and_a_write_larger_than_that_goes_alone(ledger: Ledger) -> None:
    pipe = WritePipe(ledger, WriteOptions(max_queue_bytes=1000))
    three_megabytes = 3 * 1024 * 1024
    await asyncio.gather(
        pipe.write(write("a")), pipe.write(write("b", 2 * three_megabytes)), pipe.write(write("c", three_megabytes))
    )
    assert [len(batch) for batch in ledger.batches] == [1, 1, 1]


async def test_one_refused_write_does_not_fail_the_rest(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.refused = {"2"}
    results = await asyncio.gather(*(pipe.write(write(n)) for n in range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [int, int, L2CommandError, int]


@pytest.mark.parametrize("error", [L2UnavailableError("away"), RuntimeError("a defect in the store")])
async def test_a_failed_batch_fails_its_writes_and_not_the_pipe(
    pipe: WritePipe, ledger: Ledger, error: Exception
) -> None:
    ledger.error = error
    outcomes: list[int | Exception] = []
    assert pipe.fill(write("a"), outcomes.append)
    with pytest.raises(type(error)):
        await pipe.write(write("b"))
    assert outcomes == [error]
    ledger.error = None
    assert await pipe.write(write("c")) == 1
    assert ledger.keys == ["c"]
    assert (pipe.queued_count, pipe.queued_bytes) == (0, 0)


async def test_a_store_that_raises_before_it_waits_blocks_nothing() -> None:
    class Defective(Ledger):
        def apply(self, writes: Sequence[Write]) -> Any:
            if self.error is not None:
                raise self.error
            return super().apply(writes)

    ledger = Defective()
    pipe = WritePipe(ledger, WriteOptions())
    ledger.error = RuntimeError("a defect in the store")
    async with asyncio.timeout(10):
        with pytest.raises(RuntimeError, match="a defect"):
            await pipe.write(write("a"))
        ledger.error = None
        assert await pipe.write(write("b")) == 1
    assert ledger.keys == ["b"]


async def test_a_defect_in_what_is_told_of_an_outcome_keeps_no_answer_from_the_others(
    pipe: WritePipe, ledger: Ledger
) -> None:
    loop, raised = asyncio.get_running_loop(), list[Any]()

    def fail(_: object) -> None:
        raise ZeroDivisionError

    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    try:
        pipe.post(write("a"), fail)
        waiting = [asyncio.create_task(pipe.write(write(key))) for key in "bc"]
        async with asyncio.timeout(10):
            assert await asyncio.gather(*waiting) == [1, 1]
    finally:
        loop.set_exception_handler(handler)
    assert [type(error) for error in raised] == [ZeroDivisionError]


async def test_a_full_queue_drops_fills_and_never_what_is_awaited(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    assert pipe.fill(write("a", 900), ignore)
    assert not pipe.fill(write("b", 200), ignore)
    waiting = [asyncio.create_task(pipe.write(w)) for w in (write("c", 5000), Delete(("a",)))]
    await turns()
    assert pipe.queued_count == 3
    ledger.open.set()
    assert [await task for task in waiting] == [1, 1]
    assert ledger.keys == ["a", "c", "-a"]
    assert pipe.fill(write("d", 900), ignore)
    await pipe.flush()


async def test_a_cancelled_writer_takes_nothing_back(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    outcomes: list[int | Exception] = []
    writing = asyncio.create_task(pipe.write(write("a"), outcomes.append))
    await turns()
    writing.cancel()
    await turns()
    assert writing.cancelled()
    ledger.open.set()
    await pipe.flush()
    assert (ledger.keys, outcomes) == (["a"], [1])


async def test_flush_waits_for_what_was_queued_and_not_for_what_comes_later(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    for n in range(150):
        pipe.fill(write(n), ignore)
    flushing = asyncio.create_task(pipe.flush())
    await turns()
    assert not flushing.done()
    ledger.open.set()
    await flushing
    assert len(ledger.keys) == 150
    await pipe.flush()


async def test_a_task_cancelled_from_outside_loses_no_write(pipe: WritePipe, ledger: Ledger) -> None:
    """As at the end of ``asyncio.run``, which cancels every task before it lets the cache close."""
    ledger.open.clear()
    for n in range(3):
        pipe.fill(write(n), ignore)
    await turns()
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "tiercache-writes")
    task.cancel()
    await turns()
    ledger.open.set()
    await pipe.drain(10)
    assert ledger.keys == ["0", "1", "2"]


async def test_a_drain_ends_in_time_and_fails_what_is_left(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    outcomes: list[int | Exception] = []
    pipe.fill(write("a"), outcomes.append)
    writing = asyncio.create_task(pipe.write(write("b")))
    await turns()
    await pipe.drain(0.01)
    assert isinstance(outcomes[0], L2UnavailableError)
    with pytest.raises(L2UnavailableError, match="closed before"):
        await writing
    assert (pipe.queued_count, pipe.queued_bytes) == (0, 0)


async def test_a_task_cancelled_before_its_first_step_stops_nothing(pipe: WritePipe, ledger: Ledger) -> None:
    """As by a signal handler that cancels every task and lets the loop go on."""
    writing = asyncio.create_task(pipe.write(write("a")))
    await asyncio.sleep(0)  # The write is queued,
    await asyncio.sleep(0)  # and the task that sends it made.
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "tiercache-writes")
    task.cancel()
    async with asyncio.timeout(10):
        assert await pipe.write(write("b")) == 1
        assert await writing == 1
    assert ledger.keys == ["a", "b"]


async def test_a_silent_server_fails_at_once_everything_that_was_queued(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    ledger.error = L2UnavailableError("away")
    waiting = [asyncio.create_task(pipe.write(write(n))) for n in range(350)]
    await turns()
    late = asyncio.create_task(pipe.write(write("late")))
    await turns()
    ledger.calls = 0
    ledger.open.set()
    outcomes = await asyncio.gather(*waiting, late, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {L2UnavailableError}
    assert ledger.calls == 2  # The batch under way, and what came while it was: not four, and not one for each hundred.
    assert not pipe.is_writing("0")


async def test_it_is_known_what_is_on_its_way(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.open.clear()
    pipe.fill(write("a"), ignore)
    pipe.fill(write("b"), ignore)
    waiting = [asyncio.create_task(pipe.write(w)) for w in (write("b"), Delete(("c", "d")), Run(("INCR", "e")))]
    await turns()
    assert [pipe.is_writing(key) for key in "abcde"] == [True, True, True, True, False]
    assert [pipe.is_changing(key) for key in "abcde"] == [False, True, True, True, False]
    ledger.open.set()
    await asyncio.gather(*waiting)
    assert not any(pipe.is_writing(key) or pipe.is_changing(key) for key in "abcde")
