"""The portal: tasks on a private loop, plain functions in the threads of the callers."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support import until
from tests.sync.threads import all_of, started
from tiercache import UsageError
from tiercache.portal.blocked_loops import blocking_own_loop
from tiercache.portal.call import in_thread, run_plain
from tiercache.portal.portal import Portal

COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.close()


async def in_caller(function: Any) -> Any:
    return await run_plain(function)


async def hold(seen: threading.Event, ended: threading.Event) -> None:
    seen.set()
    try:
        await asyncio.sleep(1000)
    finally:
        ended.set()


def test_portal_returns_the_result_and_raises_the_error(portal: Portal) -> None:
    error = LookupError("same object")

    async def fail() -> None:
        raise error

    async def value() -> str:
        return threading.current_thread().name

    assert portal.run(value) == "tiercache-sync"
    with pytest.raises(LookupError) as raised:
        portal.run(fail)
    assert raised.value is error


def test_portal_starts_no_thread_before_its_first_use() -> None:
    portal = Portal()
    assert not portal.is_alive
    assert portal.loop is None
    assert not portal.post(lambda: None)
    portal.close()


def test_portal_runs_the_task_and_the_plain_function_in_the_context_of_the_caller(portal: Portal) -> None:
    async def colours() -> tuple[str, str]:
        mine = COLOUR.get()
        COLOUR.set("blue")
        return mine, await run_plain(COLOUR.get)

    token = COLOUR.set("red")
    assert portal.run(colours) == ("red", "blue")
    assert COLOUR.get() == "red"
    COLOUR.reset(token)


def test_portal_calls_plain_functions_in_the_thread_of_the_caller(portal: Portal) -> None:
    def ask() -> bool:
        return portal.run(lambda: in_caller(threading.get_ident)) == threading.get_ident()

    assert all_of([ask] * 20) == [True] * 20


def test_portal_calls_nested_plain_functions_without_further_threads(portal: Portal) -> None:
    def nest(depth: int) -> int:
        return portal.run(lambda: in_caller(lambda: nest(depth - 1))) + 1 if depth else 0

    before = threading.active_count()
    assert nest(50) == 50
    assert threading.active_count() <= before + 1


def test_portal_raises_the_error_of_a_plain_function_unchanged(portal: Portal) -> None:
    error = LookupError("same object")

    def fail() -> None:
        raise error

    with pytest.raises(LookupError) as raised:
        portal.run(lambda: in_caller(fail))
    assert raised.value is error


def test_portal_cancels_the_task_of_an_interrupted_caller(portal: Portal) -> None:
    began, ended = threading.Event(), threading.Event()

    async def interrupt() -> None:
        await run_plain(lambda: (_ for _ in ()).throw(KeyboardInterrupt))

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hold(began, ended))
            tasks.create_task(interrupt())

    with pytest.raises(KeyboardInterrupt):
        portal.run(both)
    assert ended.wait(10)


def test_portal_gives_the_functions_of_a_caller_that_has_left_to_new_threads(portal: Portal) -> None:
    """The task of an interrupted caller has started a second task, which goes on."""
    release: list[asyncio.Event] = []
    names: list[str] = []
    done = threading.Event()

    async def later() -> None:
        await release[0].wait()
        names.append(await run_plain(lambda: threading.current_thread().name))
        done.set()

    async def begin() -> None:
        release.append(asyncio.Event())
        tasks.append(asyncio.create_task(later()))
        await run_plain(lambda: (_ for _ in ()).throw(KeyboardInterrupt))

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(KeyboardInterrupt):
        portal.run(begin)
    assert portal.post(lambda: release[0].set())
    assert done.wait(10)
    assert names == ["tiercache-sync-loader"]


def test_portal_gives_a_function_that_its_caller_has_not_begun_to_a_new_thread(portal: Portal) -> None:
    names: list[str] = []
    both_offered = threading.Event()
    done = threading.Event()

    async def name_of_thread() -> None:
        names.append(await run_plain(lambda: threading.current_thread().name))
        done.set()

    def leave() -> None:
        both_offered.wait(10)
        raise KeyboardInterrupt

    async def begin() -> None:
        first = asyncio.create_task(in_caller(leave))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(name_of_thread()))
        await asyncio.sleep(0)
        both_offered.set()
        await first

    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(KeyboardInterrupt):
        portal.run(begin)
    assert done.wait(10)
    assert names == ["tiercache-sync-loader"]


def test_portal_keeps_running_after_a_task_that_raises_system_exit(portal: Portal) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def value() -> int:
        return 1

    with pytest.raises(SystemExit):
        portal.run(leave)
    assert portal.run(value) == 1


def test_portal_runs_a_blocking_function_in_a_thread_of_its_own(portal: Portal) -> None:
    async def names() -> list[str]:
        barrier = threading.Barrier(30, timeout=30)

        def meet() -> str:
            barrier.wait()
            return threading.current_thread().name

        return list(await asyncio.gather(*(in_thread(meet) for _ in range(30))))

    assert portal.run(names) == ["tiercache-sync-loader"] * 30


def test_portal_refuses_its_own_thread(portal: Portal) -> None:
    async def value() -> int:
        return 1

    async def nested() -> int:
        return portal.run(value)

    with pytest.raises(UsageError, match="private event loop"):
        portal.run(nested)


def test_portal_iterates_and_ends_an_async_iterator(portal: Portal) -> None:
    ended = threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(1000):
                yield number
        finally:
            ended.set()

    assert list(zip(range(3), portal.iterate(numbers), strict=False)) == [(0, 0), (1, 1), (2, 2)]
    assert ended.wait(10), "a dropped iterator ends"
    ended.clear()
    iterator = portal.iterate(numbers)
    assert next(iterator) == 0
    iterator.close()
    assert ended.is_set()

    async def three() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    assert list(portal.iterate(three)) == [0, 1, 2]


def test_portal_raises_the_error_of_an_async_iterator(portal: Portal) -> None:
    async def failing() -> AsyncIterator[int]:
        yield 1
        raise LookupError

    iterator = portal.iterate(failing)
    assert next(iterator) == 1
    with pytest.raises(LookupError):
        next(iterator)


def test_portal_ends_waiting_callers_when_it_closes(portal: Portal) -> None:
    began, ended = threading.Event(), threading.Event()
    waiting = started(lambda: portal.run(lambda: hold(began, ended)))
    assert began.wait(10)
    portal.close()
    with pytest.raises(UsageError, match="closed"):
        waiting.result()
    assert ended.is_set()
    with pytest.raises(UsageError, match="closed"):
        portal.run(lambda: hold(began, ended))
    portal.close()


def test_portal_answers_every_caller_that_calls_while_it_closes() -> None:
    async def value() -> int:
        return 1

    for _ in range(20):
        portal = Portal()
        portal.run(value)

        def call_until_closed(portal: Portal = portal) -> bool:
            try:
                while True:
                    portal.run(value)
            except UsageError:
                return True

        callers = [started(call_until_closed) for _ in range(4)]
        portal.close()
        assert all(caller.result() for caller in callers)


async def test_portal_works_inside_a_running_loop(portal: Portal) -> None:
    async def value() -> int:
        return 1

    assert portal.run(value) == 1
    await until(lambda: portal.is_alive)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_portal_starts_anew_in_a_forked_process(portal: Portal) -> None:
    async def value() -> int:
        return os.getpid()

    assert portal.run(value) == os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, str(portal.run(value)).encode())
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(writer)
    assert int(os.read(reader, 100)) == pid
    os.close(reader)
    assert portal.run(value) == os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_portal_raises_in_a_process_that_was_forked_inside_a_plain_function(portal: Portal) -> None:
    parent = os.getpid()
    pids: list[int] = []

    def fork() -> int:
        pids.append(os.fork())
        return os.getpid()

    try:
        here = portal.run(lambda: in_caller(fork))
    except RuntimeError as error:
        os._exit(0 if "forked" in str(error) else 1)
    except BaseException:
        os._exit(2)
    assert here == parent
    assert os.waitpid(pids[0], 0)[1] == 0


def test_error_of_a_call_is_shown_without_another_error() -> None:
    """A thread without an event loop is no error."""
    with pytest.raises(KeyError) as caught, blocking_own_loop():
        raise KeyError
    assert caught.value.__context__ is None
