"""Drips, half-open connections, cuts, kills and refused connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest
import valkey
import valkey.asyncio

from tiercache.testing import ChaosProxy

from .wire import PATIENCE, Connect, ids, library, until


async def test_drip_passes_few_bytes_at_a_time(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.drip(2000)
    begun = time.monotonic()
    client.send("ECHO", "x" * 300)
    pieces: list[bytes] = []
    while len(b"".join(pieces)) < len(b"$300\r\n") + 302:
        async with asyncio.timeout(PATIENCE):
            pieces.append(await client.reader.read(65_536))
    assert time.monotonic() - begun >= 0.3
    assert len(pieces) >= 3


async def test_drip_may_be_slower_than_a_byte_per_second(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    client = await connect(proxy, "PING")
    proxy.drip(0.1)
    client.send("SET", "k", "v" * 10_000)
    await until(proxy.held_bytes)
    assert await client.is_silent()
    # A change applies at once, and not at the next byte.
    proxy.drip(10_000_000)
    assert await client.line() == b"+OK"
    proxy.drip(0.1)
    client.send("PING")
    await until(proxy.held_bytes)
    proxy.heal()
    assert await client.line() == b"+PONG"


async def test_half_open_connection_passes_neither_bytes_nor_the_close(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    client, other = await connect(proxy), await connect(proxy)
    number = (await client.ask("CLIENT", "ID"))[1:].decode()
    other_number = (await other.ask("CLIENT", "ID"))[1:].decode()
    proxy.half_open()
    assert proxy.connection_count() == 0
    client.send("SET", "k", "v")
    assert await client.is_silent()
    assert plain.get("k") is None
    plain.client_kill_filter(_id=number)
    assert await client.is_silent()
    await other.close()
    fresh = await connect(proxy)
    assert await fresh.ask("SET", "k", "new") == b"+OK"
    assert other_number in ids(plain)
    assert proxy.connection_count() == 1


async def test_half_open_connection_stays_half_open(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_client")
    client.send("PING")
    await until(proxy.held_bytes)
    proxy.half_open()
    proxy.heal()
    assert (proxy.kill(), proxy.held_bytes()) == (0, 0)
    assert await client.is_silent()


async def test_half_open_applies_to_one_lane(url: str, connect: Connect) -> None:
    async with ChaosProxy(url) as proxy:
        bus = await connect(proxy, "SUBSCRIBE", "news")
        commands = await connect(proxy, "PING")
        proxy.half_open(lane="bus")
        assert await commands.ask("PUBLISH", "news", "x") == b":1"
        for _ in range(5):  # The rest of the answer to SUBSCRIBE.
            await bus.line()
        assert await bus.is_silent()
        assert (proxy.connection_count("bus"), proxy.connection_count("commands")) == (0, 1)


async def test_cut_resets_a_connection_in_the_middle_of_an_answer(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    value = random.Random(4).randbytes(500_000)
    plain.set("k", value)
    client = await connect(proxy, "PING")
    proxy.cut_after(20_000)
    client.send("GET", "k")
    assert await client.rest() == (b"$500000\r\n" + value)[:20_000]
    assert proxy.connection_count() == 0


async def test_cut_is_a_connection_error_for_a_client_library(proxy: ChaosProxy, plain: valkey.Valkey) -> None:
    plain.set("k", b"v" * 500_000)
    async with library(proxy.url) as client:
        await client.ping()
        proxy.cut_after(20_000)
        with pytest.raises(valkey.ConnectionError):
            await client.get("k")
        # The next connection has no cut.
        assert await client.get("k") == b"v" * 500_000


async def test_cut_after_zero_bytes_loses_the_answer_of_an_executed_command(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    client = await connect(proxy, "PING")
    proxy.cut_after(0)
    client.send("INCR", "n")
    assert await client.rest() == b""
    assert plain.get("n") == b"1"


async def test_cut_counts_the_bytes_of_several_answers(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.cut_after(10)
    assert await client.ask("PING") == b"+PONG"
    client.send("PING")
    assert await client.rest() == b"+PO"


async def test_cut_is_cancelled_by_heal(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.cut_after(3)
    proxy.heal()
    assert await client.ask("PING") == b"+PONG"


async def test_cut_applies_to_one_lane(proxy: ChaosProxy, connect: Connect) -> None:
    bus, commands = await connect(proxy, "SUBSCRIBE", "news"), await connect(proxy, "PING")
    for _ in range(5):
        await bus.line()
    proxy.cut_after(0, lane="bus")
    assert await commands.ask("PUBLISH", "news", "x") == b":1"
    assert await bus.rest() == b""
    assert await commands.ask("PING") == b"+PONG"


async def test_kill_applies_to_one_lane(proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect) -> None:
    before = len(ids(plain))
    buses = [await connect(proxy, "SUBSCRIBE", "news") for _ in range(2)]
    commands = await connect(proxy, "PING")
    for bus in buses:
        for _ in range(5):
            await bus.line()
    assert proxy.kill(lane="bus") == 2
    assert proxy.connection_count() == 1
    for bus in buses:
        assert await bus.rest() == b""
    assert await commands.ask("PING") == b"+PONG"
    await until(lambda: len(ids(plain)) == before + 1)
    assert proxy.kill() == 1
    assert await commands.rest() == b""
    assert proxy.kill() == 0


async def test_kill_lets_no_byte_pass_afterwards(proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_server")
    client.send("SET", "k", "v")
    await until(proxy.held_bytes)
    proxy.heal()
    assert proxy.kill() == 1
    assert await client.rest() == b""
    assert plain.get("k") is None


async def test_refuse_resets_new_connections(proxy: ChaosProxy, connect: Connect) -> None:
    old = await connect(proxy, "PING")
    proxy.refuse()
    for _ in range(3):
        with contextlib.suppress(ConnectionResetError):  # The client may see the reset in connect or in read.
            assert await (await connect(proxy)).rest() == b""
    assert proxy.connection_count() == 1
    assert await old.ask("PING") == b"+PONG"
    proxy.heal(lane="commands")
    with contextlib.suppress(ConnectionResetError):
        assert await (await connect(proxy)).rest() == b""
    proxy.refuse(False)
    assert await (await connect(proxy)).ask("PING") == b"+PONG"
    proxy.refuse()
    proxy.heal()
    assert await (await connect(proxy)).ask("PING") == b"+PONG"


async def test_garbage_replaces_the_next_answer_and_ends_the_connection(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    client = await connect(proxy, "PING")
    proxy.garble()
    client.send("INCR", "n")
    async with asyncio.timeout(PATIENCE):
        received = await client.reader.read()
    assert len(received) == 64
    with pytest.raises(UnicodeDecodeError):
        received.decode()
    assert plain.get("n") == b"1"
    # A later connection gets its answers.
    assert await (await connect(proxy)).ask("PING") == b"+PONG"


async def test_garbage_is_an_error_for_a_client_library(proxy: ChaosProxy) -> None:
    async with library(proxy.url) as client:
        await client.ping()
        proxy.garble()
        with pytest.raises(valkey.ValkeyError):
            await client.ping()


async def test_garbage_is_cancelled_by_heal(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.garble()
    proxy.heal()
    assert await client.ask("PING") == b"+PONG"
