"""Stalls, and the bound on held bytes."""

from __future__ import annotations

import asyncio
import random
from typing import Literal

import pytest
import valkey
import valkey.asyncio

from tiercache.testing import ChaosProxy

from .wire import HELD_BYTES, SILENCE, Connect, by_word, command, most_held, until


async def test_stall_lets_the_later_of_two_connections_arrive_first(
    url: str, plain: valkey.Valkey, connect: Connect
) -> None:
    async with ChaosProxy(url, lane_of=by_word) as proxy:
        left, right = await connect(proxy, "ECHO", "left"), await connect(proxy, "ECHO", "right")
        await asyncio.gather(left.line(), right.line())
        proxy.stall("to_server", lane="left")
        left.send("SET", "k", "first")
        await until(lambda: proxy.held_bytes("left"))
        assert await right.ask("SET", "k", "second") == b"+OK"
        assert plain.get("k") == b"second"
        proxy.heal(lane="left")
        assert await left.line() == b"+OK"
        assert plain.get("k") == b"first"


async def test_stall_to_the_server_holds_the_commands(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_server")
    client.send("SET", "k", "v")
    await until(proxy.held_bytes)
    assert await client.is_silent()
    assert plain.get("k") is None
    proxy.heal()
    assert await client.line() == b"+OK"
    assert plain.get("k") == b"v"
    assert proxy.held_bytes() == 0


async def test_stall_to_the_client_holds_the_answers(proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_client")
    client.send("SET", "k", "v")
    await until(lambda: plain.get("k") == b"v")
    await until(lambda: proxy.held_bytes() == len(b"+OK\r\n"))
    assert await client.is_silent()
    proxy.heal()
    assert await client.line() == b"+OK"


async def test_stalls_of_both_directions_add_up(proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_client")
    client.send("SET", "k", "1")
    await until(lambda: plain.get("k") == b"1")
    await until(proxy.held_bytes)
    proxy.stall("to_server")
    client.send("SET", "k", "2")
    await until(lambda: proxy.held_bytes() == len(command("SET", "k", "2")) + len(b"+OK\r\n"))
    assert await client.is_silent()
    assert plain.get("k") == b"1"
    proxy.heal()
    assert [await client.line(), await client.line()] == [b"+OK", b"+OK"]
    proxy.stall()
    client.send("SET", "k", "3")
    await until(proxy.held_bytes)
    assert await client.is_silent()
    assert plain.get("k") == b"2"


async def test_stall_holds_the_close_of_a_connection(proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect) -> None:
    client = await connect(proxy)
    number = (await client.ask("CLIENT", "ID"))[1:].decode()
    proxy.stall("to_client")
    plain.client_kill_filter(_id=number)
    assert await client.is_silent()
    proxy.heal()
    assert await client.line() == b""


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_stalled_bytes_reach_the_server_after_the_client_has_gone(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect, leave: Literal["close", "reset"]
) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_server")
    # So many answers that the proxy notices the missing client while it passes them.
    sent = [command("ECHO", "x" * 2000) + command("INCR", "n") for _ in range(300)]
    client.writer.write(b"".join(sent))
    await until(lambda: proxy.held_bytes() == sum(map(len, sent)))
    if leave == "close":
        await client.close()
    else:
        client.reset()
    await asyncio.sleep(0.05)
    assert plain.get("n") is None
    proxy.heal()
    await until(lambda: plain.get("n") == b"300")
    await until(lambda: proxy.connection_count() == 0)


async def test_stall_holds_no_bytes_for_a_client_that_has_gone(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    plain.set("k", bytes(24 * HELD_BYTES))
    client = await connect(proxy)
    client.send("GET", "k")
    # The client reads no more, so the proxy is in the middle of a send.
    await until(lambda: proxy.held_bytes() > HELD_BYTES // 2)
    await asyncio.sleep(SILENCE)
    proxy.stall("to_client")
    client.reset()
    await until(lambda: proxy.connection_count() == 0)


async def test_proxy_stops_reading_from_a_client_with_too_many_held_bytes(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_server")
    value = random.Random(3).randbytes(48 * HELD_BYTES)
    client.send("SET", "k", value)
    assert HELD_BYTES // 2 < await most_held(proxy) <= HELD_BYTES
    # The kernel's buffers hold some MiB on the way.
    assert client.writer.transport.get_write_buffer_size() > HELD_BYTES
    proxy.heal()
    assert await client.line() == b"+OK"
    assert plain.get("k") == value


async def test_proxy_stops_reading_answers_if_the_client_does_not_read(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect
) -> None:
    plain.set("k", bytes(HELD_BYTES))
    client = await connect(proxy, "PING")
    for _ in range(40):
        client.send("GET", "k")
    assert HELD_BYTES // 2 < await most_held(proxy) <= HELD_BYTES
    for _ in range(40):
        assert len(await client.bulk()) == HELD_BYTES
