"""Recordings: every follower gets every part, late or early; memory stays bounded; errors come after the parts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.requests import turns
from tests.support import until
from tiercache.streams.recording import Follower, Recording

KIB = 1024
WINDOW = 256 * KIB


def recording_of(*parts: bytes, max_bytes: float = math.inf) -> Recording:
    """Return a recording that has ``parts``, and has not ended."""
    recording = Recording("head", max_bytes=max_bytes)
    for part in parts:
        recording.append(part, len(part))
    return recording


async def read(follower: Follower) -> bytes:
    """Return everything that a follower gets up to the end, and close it."""
    try:
        return b"".join([part async for parts in follower for part in parts])
    finally:
        follower.close()


async def write(recording: Recording, parts: int, size_bytes: int, bound: int) -> None:
    """Write ``parts`` numbered parts, waiting for room; fail if the recording ever has more than ``bound`` bytes."""
    for number in range(parts):
        part = b"%08d" % number * (size_bytes // 8)
        recording.append(part, len(part))
        assert recording.kept_bytes <= bound
        await recording.wait_for_room()
        await asyncio.sleep(0)
    recording.end()


def numbered(parts: int, size_bytes: int) -> bytes:
    """Return the bytes that ``write`` writes."""
    return b"".join(b"%08d" % number * (size_bytes // 8) for number in range(parts))


async def test_recording_gives_a_part_to_its_followers_before_the_writer_asks_for_the_next() -> None:
    recording = Recording("head", max_bytes=math.inf)
    seen: list[str] = []

    async def reader() -> None:
        follower = recording.follow()
        async for parts in follower:
            seen.extend(part.decode() for part in parts)

    readers = [asyncio.create_task(reader()) for _ in range(2)]
    await turns(3)
    for number in (1, 2):
        seen.append(f"ask for {number}")
        recording.append(b"part %d" % number, 6)
        await recording.wait_for_room()
    recording.end()
    await asyncio.gather(*readers)
    assert seen == ["ask for 1", "part 1", "part 1", "ask for 2", "part 2", "part 2"]


async def test_writer_goes_on_if_its_followers_have_a_large_part_before_it_waits_for_room() -> None:
    recording = Recording("head", max_bytes=0)
    readers = [asyncio.create_task(read(recording.follow())) for _ in range(2)]
    await turns(3)
    for _ in range(3):
        recording.append(b"x" * (WINDOW + 1), WINDOW + 1)
        async with asyncio.timeout(10):
            await recording.wait_for_room()
        assert recording.kept_bytes == 0
    recording.end()
    assert await asyncio.gather(*readers) == [b"x" * (3 * WINDOW + 3)] * 2


async def test_recording_gives_a_late_follower_the_parts_so_far_at_once_and_then_each_part() -> None:
    recording = recording_of(b"a", b"b")
    follower = recording.follow()
    assert await anext(follower) == [b"a", b"b"]
    waiting = asyncio.ensure_future(anext(follower))
    await turns(3)
    assert not waiting.done()
    recording.append(b"c", 1)
    assert await waiting == [b"c"]
    recording.end()
    with pytest.raises(StopAsyncIteration):
        await anext(follower)
    follower.close()
    # After the end, too.
    assert await read(recording.follow()) == b"abc"
    assert recording.parts() == [b"a", b"b", b"c"]
    assert recording.is_whole


async def test_recording_wakes_five_hundred_followers_for_each_part() -> None:
    recording = recording_of()
    readers = [asyncio.create_task(read(recording.follow())) for _ in range(500)]
    for number in range(20):
        recording.append(b"%d," % number, 3)
        await asyncio.sleep(0)
    recording.end()
    assert set(await asyncio.gather(*readers)) == {b"".join(b"%d," % number for number in range(20))}


async def test_recording_raises_its_error_in_each_follower_after_the_parts() -> None:
    recording = recording_of(b"a")
    followers = [recording.follow() for _ in range(3)]
    error = ConnectionError("the provider has gone")
    recording.append(b"b", 1)
    recording.end(error)
    recording.end()  # The first end counts.
    for follower in followers:
        assert await anext(follower) == [b"a", b"b"]
        for _ in range(2):
            with pytest.raises(ConnectionError) as raised:
                await anext(follower)
            assert raised.value is error
            # The frames of one follower, not of all that have raised it.
            assert len(raised.traceback) == 2
        follower.close()


async def test_recording_that_failed_cannot_be_followed_by_another_caller() -> None:
    recording = recording_of(b"a")
    recording.end(ConnectionError())
    assert not recording.is_whole


async def test_recording_larger_than_its_bound_keeps_no_more_than_the_slowest_follower_needs() -> None:
    recording = recording_of(max_bytes=WINDOW)
    fast, slow = recording.follow(), recording.follow()
    writing = asyncio.create_task(write(recording, 100, 64 * KIB, bound=2 * WINDOW + 64 * KIB))
    reading = asyncio.create_task(read(fast))
    received = b""
    while not writing.done() or recording.kept_bytes:
        # The slow reader takes one step while the fast one and the writer could take many.
        await turns(20)
        try:
            received += b"".join(await anext(slow))
        except StopAsyncIteration:
            break
    slow.close()
    await writing
    expected = numbered(100, 64 * KIB)
    assert received == expected
    assert await reading == expected
    assert not recording.is_whole
    assert recording.kept_bytes <= WINDOW + 64 * KIB


async def test_recording_keeps_the_writer_waiting_for_a_follower_that_reads_nothing() -> None:
    recording = recording_of(max_bytes=WINDOW)
    fast, idle = recording.follow(), recording.follow()
    writing = asyncio.create_task(write(recording, 100, 64 * KIB, bound=2 * WINDOW))
    reading = asyncio.create_task(read(fast))
    await turns(500)
    assert not writing.done()
    assert not reading.done()
    idle.close()
    await writing
    assert await reading == numbered(100, 64 * KIB)


async def test_recording_without_followers_keeps_nothing_beyond_its_bound_and_never_waits() -> None:
    recording = recording_of(max_bytes=WINDOW)
    await write(recording, 100, 64 * KIB, bound=WINDOW)
    assert recording.kept_bytes == 0


async def test_recording_of_any_size_lets_the_writer_go_on_while_it_is_whole() -> None:
    recording = recording_of(max_bytes=10 * WINDOW)
    follower = recording.follow()
    await write(recording, 40, 64 * KIB, bound=10 * WINDOW)
    assert await read(follower) == numbered(40, 64 * KIB)


async def test_recording_says_once_that_it_has_become_too_large() -> None:
    recording = Recording("head", max_bytes=10)
    said = []
    recording.on_overflow = lambda: said.append(recording.is_whole)
    follower = recording.follow()
    for _ in range(5):
        recording.append(b"12345", 5)
    recording.end()
    assert said == [False]
    assert await read(follower) == b"12345" * 5


async def test_recording_encloses_the_wait_of_its_writer_alone() -> None:
    recording = Recording("head", max_bytes=WINDOW)
    waits = []

    @asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        waits.append("begun")
        yield
        waits.append("ended")

    recording.waiting = waiting
    follower = recording.follow()
    recording.append(bytes(WINDOW), WINDOW)
    await recording.wait_for_room()
    assert not waits
    recording.append(b"1", 1)
    writer = asyncio.create_task(recording.wait_for_room())
    await until(lambda: waits)
    assert waits == ["begun"]
    await anext(follower)
    await writer
    assert waits == ["begun", "ended"]
    follower.close()


async def test_recording_leaves_other_followers_alone_when_one_is_cancelled_while_it_waits() -> None:
    recording = recording_of()
    cancelled, other = (asyncio.create_task(read(recording.follow())) for _ in range(2))
    await turns(3)
    cancelled.cancel()
    await turns(3)
    assert cancelled.cancelled()
    recording.append(b"a", 1)
    recording.end()
    assert await other == b"a"


async def test_recording_loses_no_part_of_a_follower_that_is_cancelled_and_reads_on() -> None:
    recording = recording_of()
    follower = recording.follow()
    for number in range(50):
        waiting = asyncio.create_task(anext(follower))
        await turns(2)
        recording.append(b"%d" % number, 1)
        # The follower has been woken, and has not run yet.
        waiting.cancel()
        await turns(2)
        if not waiting.cancelled():
            assert waiting.result() == [b"%d" % number]
        else:
            assert await anext(follower) == [b"%d" % number]
    follower.close()


async def test_recording_closes_a_follower_twice_without_harm() -> None:
    recording = recording_of(max_bytes=1)
    follower = recording.follow()
    recording.append(bytes(WINDOW + 1), WINDOW + 1)
    writer = asyncio.create_task(recording.wait_for_room())
    await turns(2)
    follower.close()
    follower.close()
    await writer
    assert recording.kept_bytes == 0
