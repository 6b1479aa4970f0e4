"""The write pipe: order, batches, a bounded queue, an outcome for each write, no write lost on a clean close."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.engine.level2.ledger import Ledger, ignore, write
from tests.requests import turns
from tests.support import NOT_EAGER
from tiercache import L2CommandError, L2UnavailableError
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Delete, Run, Write
from tiercache.options import WriteOptions


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def pipe(ledger: Ledger) -> WritePipe:
    return WritePipe(ledger, WriteOptions(max_queue_bytes=1000))


async def test_write_pipe_batches_concurrent_writes_in_order(pipe: WritePipe, ledger: Ledger) -> None:
    assert await asyncio.gather(*(pipe.write(write(n)) for n in range(250))) == [1] * 250
    assert [len(batch) for batch in ledger.batches] == [100, 100, 50]
    assert ledger.keys == [str(n) for n in range(250)]


async def test_write_pipe_keeps_one_order_of_fills_writes_and_deletes(pipe: WritePipe, ledger: Ledger) -> None:
    assert pipe.fill(write("a"), ignore)
    waiting = asyncio.create_task(pipe.write(write("b")))
    await asyncio.sleep(0)
    assert pipe.fill(write("c"), ignore)
    await pipe.write(Delete(("a",)))
    assert ledger.keys == ["a", "b", "c", "-a"]
    assert await waiting == 1


async def test_write_pipe_sends_oversized_write_in_batch_of_its_own(ledger: Ledger) -> None:
    pipe = WritePipe(ledger, WriteOptions(max_queue_bytes=1000))
    three_megabytes = 3 * 1024 * 1024
    await asyncio.gather(
        pipe.write(write("a")), pipe.write(write("b", 2 * three_megabytes)), pipe.write(write("c", three_megabytes))
    )
    assert [len(batch) for batch in ledger.batches] == [1, 1, 1]


async def test_write_pipe_fails_only_the_refused_write_of_a_batch(pipe: WritePipe, ledger: Ledger) -> None:
    ledger.refused = {"2"}
    results = await asyncio.gather(*(pipe.write(write(n)) for n in range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [int, int, L2CommandError, int]


@pytest.mark.parametrize("error", [L2UnavailableError("away"), RuntimeError("a defect in the store")])
async def test_write_pipe_continues_after_failed_batch(pipe: WritePipe, ledger: Ledger, error: Exception) -> None:
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


async def test_write_pipe_continues_after_level2_raises_before_its_first_await() -> None:
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


async def test_write_pipe_answers_other_writes_when_a_callback_raises(pipe: WritePipe, ledger: Ledger) -> None:
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


async def test_write_pipe_drops_fills_and_no_awaited_write_when_full(pipe: WritePipe, ledger: Ledger) -> None:
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


async def test_write_pipe_sends_write_of_cancelled_caller(pipe: WritePipe, ledger: Ledger) -> None:
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


async def test_write_pipe_flush_waits_for_queued_writes(pipe: WritePipe, ledger: Ledger) -> None:
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


async def test_write_pipe_loses_no_write_when_its_task_is_cancelled(pipe: WritePipe, ledger: Ledger) -> None:
    """The end of ``asyncio.run`` does so: it cancels every task before the cache can close."""
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


async def test_write_pipe_drain_fails_unsent_writes_after_timeout(pipe: WritePipe, ledger: Ledger) -> None:
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


@NOT_EAGER
async def test_write_pipe_continues_when_its_task_is_cancelled_before_its_first_step(
    pipe: WritePipe, ledger: Ledger
) -> None:
    """A signal handler may do so: it cancels every task, and the loop continues."""
    writing = asyncio.create_task(pipe.write(write("a")))
    await asyncio.sleep(0)  # In this step the write is queued,
    await asyncio.sleep(0)  # and in this step the pipe creates the task that sends it.
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "tiercache-writes")
    task.cancel()
    async with asyncio.timeout(10):
        assert await pipe.write(write("b")) == 1
        assert await writing == 1
    assert ledger.keys == ["a", "b"]


async def test_write_pipe_fails_whole_queue_at_once_when_server_is_silent(pipe: WritePipe, ledger: Ledger) -> None:
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
    assert ledger.calls == 2  # The batch in flight, and the late write: not one timeout for each 100 writes.
    assert not pipe.is_writing("0")


async def test_write_pipe_reports_keys_of_writes_in_flight(pipe: WritePipe, ledger: Ledger) -> None:
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
