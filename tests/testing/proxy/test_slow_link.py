"""Slow links: the speed, the round trip, the slow start, and the sender that notices the speed."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from itertools import pairwise

import pytest
import valkey

from tiercache.testing import ChaosProxy
from tiercache.testing.proxy.slow_link import Schedule, SlowLink

from .wire import Connect, by_word, command, until

KB = 1000


def passings(link: SlowLink, size: int, *, schedule: Schedule | None = None, now: float = 0.0) -> list[float]:
    """Return the moments at which the pieces of ``size`` bytes that are ready at ``now`` have passed."""
    schedule = schedule or Schedule()
    moments = []
    while size:
        piece, at = schedule.next_piece(link, now, size)
        assert schedule.next_piece(link, now, size) == (piece, at), "the same question has another answer"
        schedule.passed(piece, at)
        moments.append(at)
        size -= piece
    return moments


def test_slow_link_passes_bytes_at_its_speed() -> None:
    assert abs(passings(SlowLink(12_500 * KB, 0.0), 4000 * KB)[-1] - 0.32) < 1e-6
    assert abs(passings(SlowLink(100.0, 0.0), 50)[-1] - 0.5) < 1e-6


def test_slow_link_starts_with_ten_packets_and_doubles_them_in_each_round_trip() -> None:
    moments = passings(SlowLink(1e12, 0.08), 2000 * KB)
    rounds = sorted({round(moment, 3) for moment in moments})
    # 14.6 KB, 29.2 KB, and so on: the eighth round trip ends the two million bytes.
    assert rounds == [round(0.08 * number, 3) for number in range(8)]


def test_slow_link_sends_long_windows_without_a_break_once_they_fill_the_link() -> None:
    link = SlowLink(1000 * KB, 0.02)
    moments = passings(link, 2000 * KB)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert max(gaps) < link.round_trip + 0.011
    assert abs(moments[-1] - 2.0) < 0.02


def test_slow_link_starts_slowly_again_after_a_pause() -> None:
    link, schedule = SlowLink(1e12, 0.08), Schedule()
    assert passings(link, 1000 * KB, schedule=schedule)[-1] > 0.4
    soon = passings(link, 100 * KB, schedule=schedule, now=0.6)
    assert soon[-1] - soon[0] < 0.001
    late = passings(link, 100 * KB, schedule=schedule, now=10.0)
    assert late[-1] - late[0] > 0.15


async def test_slow_link_limits_each_direction(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.slow_link(200 * KB)
    begun = time.monotonic()
    assert await client.ask("SET", "k", "v" * 60 * KB) == b"+OK"
    set_at = time.monotonic()
    assert set_at - begun >= 0.3
    client.send("GET", "k")
    assert await client.bulk() == b"v" * 60 * KB
    assert time.monotonic() - set_at >= 0.3


def test_shared_slow_link_lets_connections_take_turns() -> None:
    link = SlowLink(1000 * KB, 0.0, defaultdict(float))
    schedules = [Schedule("to_client"), Schedule("to_client")]
    passed = []
    for _ in range(50):
        for schedule in schedules:  # Both wait at the same time.
            schedule.next_piece(link, 0.0, 10 * KB)
        for schedule in schedules:
            piece, at = schedule.next_piece(link, 0.0, 10 * KB)
            assert schedule.next_piece(link, 0.0, 10 * KB) == (piece, at), "the same question has another answer"
            schedule.passed(piece, at)
            passed.append((at, piece))
    assert passed == sorted(passed)
    assert abs(passed[-1][0] - sum(piece for _, piece in passed) / (1000 * KB)) < 1e-6
    # The other direction is free.
    assert Schedule("to_server").next_piece(link, 0.0, KB)[1] < 0.01


@pytest.mark.parametrize("shared", [True, False])
async def test_slow_link_is_shared_by_connections_if_asked(proxy: ChaosProxy, connect: Connect, shared: bool) -> None:
    clients = [await connect(proxy, "PING") for _ in range(4)]
    assert await clients[0].ask("SET", "k", "v" * 60 * KB) == b"+OK"
    proxy.slow_link(400 * KB, shared=shared)
    begun = time.monotonic()
    for client in clients:
        client.send("GET", "k")
    assert await asyncio.gather(*(client.bulk() for client in clients)) == [b"v" * 60 * KB] * 4
    assert time.monotonic() - begun >= (0.59 if shared else 0.14)


async def test_slow_link_takes_its_round_trip(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.slow_link(1000 * KB, 0.1)
    for _ in range(3):
        begun = time.monotonic()
        assert await client.ask("PING") == b"+PONG"
        assert time.monotonic() - begun >= 0.1 - 0.001


async def test_slow_link_leaves_unsent_bytes_with_the_sender(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.slow_link(KB)
    client.send("SET", "k", "v" * 16_000 * KB)
    await until(proxy.held_bytes)
    for _ in range(20):
        assert proxy.held_bytes() < 100 * KB
        await asyncio.sleep(0.01)
    assert client.writer.transport.get_write_buffer_size() > 8_000 * KB
    # A change applies at once, and not when the next byte has passed.
    proxy.heal()
    assert await client.line() == b"+OK"
    assert proxy.held_bytes() == 0


async def test_slow_link_and_stall_add_up(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.slow_link(1000 * KB)
    proxy.stall("to_client")
    client.send("PING")
    await until(lambda: proxy.held_bytes() == len(b"+PONG\r\n"))
    assert await client.is_silent()
    proxy.heal()
    assert await client.line() == b"+PONG"


async def test_slow_link_applies_to_one_lane(url: str, plain: valkey.Valkey, connect: Connect) -> None:
    async with ChaosProxy(url, lane_of=by_word) as proxy:
        left, right = await connect(proxy, "ECHO", "left"), await connect(proxy, "ECHO", "right")
        await asyncio.gather(left.line(), right.line())
        proxy.slow_link(0.1, lane="left")
        left.send("SET", "k", "first")
        await until(lambda: proxy.held_bytes("left"))
        assert await right.ask("SET", "k", "second") == b"+OK"
        assert proxy.held_bytes("left") == len(command("SET", "k", "first"))
        assert plain.get("k") == b"second"
