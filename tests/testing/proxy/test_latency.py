"""Latency: delays, their order and their seed."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
import valkey
import valkey.asyncio

from tiercache.testing import ChaosProxy

from .wire import Connect, by_word, command, until


async def test_latency_delays_each_direction(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.latency(0.05, 0.1)
    for _ in range(5):
        begun = time.monotonic()
        await client.ask("PING")
        assert time.monotonic() - begun >= 0.1 - 0.001


async def test_latency_keeps_the_order_of_bytes_in_a_connection(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.latency(0, 0.1)
    for number in range(40):
        client.send("RPUSH", "list", str(number))
        client.send("ECHO", str(number))
        await asyncio.sleep(0.002)
    for number in range(40):
        assert await client.line() == b":%d" % (number + 1)
        assert await client.bulk() == b"%d" % number
    client.send("LRANGE", "list", "0", "-1")
    await client.line()
    assert [await client.bulk() for _ in range(40)] == [b"%d" % number for number in range(40)]


async def test_latency_does_not_limit_the_bandwidth(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.latency(0.5)
    begun = time.monotonic()
    for _ in range(40):
        client.send("PING")
        await asyncio.sleep(0.005)
    for _ in range(40):
        await client.line()
    # One after the other these commands would take 20 seconds in each direction.
    assert time.monotonic() - begun < 10


async def test_latency_of_waiting_bytes_survives_heal(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.latency(0.3)
    begun = time.monotonic()
    client.send("PING")
    await until(proxy.held_bytes)
    proxy.heal()
    await client.line()
    assert time.monotonic() - begun >= 0.3 - 0.001


async def delays(
    url: str, connect: Connect, patch: pytest.MonkeyPatch, *, seed: int, is_other_busy: bool = False
) -> tuple[list[float], list[float]]:
    """Return the delays of five questions and answers on the first (if busy) and the second connection."""
    drawn: list[float] = []
    uniform = random.Random.uniform

    def recorded(self: random.Random, low: float, high: float) -> float:
        drawn.append(uniform(self, low, high))
        return drawn[-1]

    of_first: list[float] = []
    of_second: list[float] = []
    async with ChaosProxy(url, seed=seed) as proxy:
        proxy.latency(0.001, 0.01)
        first = await connect(proxy)
        await until(lambda: proxy.connection_count() == 1)
        second = await connect(proxy)
        with patch.context() as context:
            context.setattr(random.Random, "uniform", recorded)
            for _ in range(5):
                if is_other_busy:
                    await first.ask("PING")
                of_first += drawn
                drawn.clear()
                await second.ask("PING")
                of_second += drawn
                drawn.clear()
    return of_first, of_second


async def test_latency_is_the_same_for_the_same_seed(
    url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, once = await delays(url, connect, monkeypatch, seed=7)
    assert len(set(once)) == 10
    assert all(0.001 <= delay <= 0.01 for delay in once)
    other, again = await delays(url, connect, monkeypatch, seed=7, is_other_busy=True)
    assert again == once
    assert not set(other) & set(once)
    assert await delays(url, connect, monkeypatch, seed=7, is_other_busy=True) == (other, once)
    assert (await delays(url, connect, monkeypatch, seed=8))[1] != once


def test_proxy_shows_the_seed_that_it_drew() -> None:
    seeds = {ChaosProxy("valkey://localhost").seed for _ in range(5)}
    assert len(seeds) == 5
    assert ChaosProxy("valkey://localhost", seed=3).seed == 3


async def test_latency_applies_to_one_lane(url: str, plain: valkey.Valkey, connect: Connect) -> None:
    async with ChaosProxy(url, lane_of=by_word) as proxy:
        left, right = await connect(proxy, "ECHO", "left"), await connect(proxy, "ECHO", "right")
        await asyncio.gather(left.line(), right.line())
        proxy.latency(60)
        proxy.latency(0, lane="right")
        left.send("SET", "k", "first")
        await until(lambda: proxy.held_bytes("left"))
        assert await right.ask("SET", "k", "second") == b"+OK"
        assert (proxy.held_bytes("left"), proxy.held_bytes("right")) == (len(command("SET", "k", "first")), 0)
        assert plain.get("k") == b"second"
