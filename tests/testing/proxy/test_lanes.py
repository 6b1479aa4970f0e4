"""Lanes: groups of connections, each with its own rule."""

from __future__ import annotations

import contextlib

import pytest

from tiercache.testing import ChaosProxy

from .wire import PATIENCE, Connect, by_word, command, library, until


@pytest.mark.parametrize(
    ("sent", "lane"),
    [
        (b"", "commands"),
        (command("CLIENT", "ID"), "commands"),
        (command("SUBSCRIBE", "news"), "bus"),
        (command("CLIENT", "ID") + command("subscribe", "news"), "bus"),
        (command("PSubscribe", "news*"), "bus"),
        (command("SSUBSCRIBE", "news"), "bus"),
        (command("SET", "k", "SUBSCRIBE"), "commands"),
        (command("SET", "SUBSCRIBE", "v"), "commands"),
        (command("SET", "k", "v" * 5000) + command("SUBSCRIBE", "news"), "commands"),
    ],
)
async def test_lane_of_a_subscriber_is_the_bus(proxy: ChaosProxy, connect: Connect, sent: bytes, lane: str) -> None:
    client = await connect(proxy)
    proxy.stall("to_server")
    for piece in (sent[:7], sent[7:]):
        held = proxy.held_bytes()
        client.writer.write(piece)
        await until(lambda: proxy.held_bytes() == held + len(piece))  # noqa: B023
    await until(lambda: proxy.connection_count() == 1)
    assert proxy.connection_count(lane) == 1


async def test_lane_change_applies_the_rule_of_the_new_lane(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.stall(lane="commands")
    client.send("CLIENT", "ID")
    await until(lambda: proxy.held_bytes("commands"))
    assert await client.is_silent()
    client.send("SUBSCRIBE", "news")
    assert (await client.line()).startswith(b":")
    assert [await client.line(), await client.line(), await client.line()] == [b"*3", b"$9", b"subscribe"]
    assert proxy.connection_count("bus") == 1


async def test_lane_change_releases_a_stalled_answer(url: str, connect: Connect) -> None:
    async with ChaosProxy(url, lane_of=by_word) as proxy:
        client = await connect(proxy)
        proxy.stall("to_client", lane="none")
        client.send("PING")
        await until(lambda: proxy.held_bytes() == len(b"+PONG\r\n"))
        # An incomplete command: the server does not answer it.
        client.writer.write(command("ECHO", "left")[:-2])
        assert await client.line() == b"+PONG"


async def test_lane_of_a_client_librarys_subscriber_is_the_bus(proxy: ChaosProxy) -> None:
    async with library(proxy.url) as client, client.pubsub() as subscriber:
        await subscriber.subscribe("news")
        await subscriber.get_message(timeout=PATIENCE)
        await client.ping()
        assert (proxy.connection_count("bus"), proxy.connection_count("commands")) == (1, 1)


async def test_lane_follows_the_later_of_two_settings(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy, "PING")
    proxy.stall(lane="commands")
    proxy.heal()
    assert await client.ask("PING") == b"+PONG"
    proxy.stall()
    proxy.heal(lane="bus")
    client.send("PING")
    assert await client.is_silent()
    proxy.heal(lane="commands")
    assert await client.line() == b"+PONG"
    # None means all lanes, also a lane that has its own rule, and applies to later connections too.
    proxy.stall()
    fresh = await connect(proxy)
    fresh.send("PING")
    assert await fresh.is_silent()
    proxy.heal()
    assert await fresh.line() == b"+PONG"


async def test_lane_of_error_resets_its_connection_and_is_raised_at_the_end(url: str, connect: Connect) -> None:
    def lane_of(opening: bytes) -> str:
        if b"PING" in opening:
            raise LookupError("which lane?")
        return "commands"

    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(ChaosProxy(url, lane_of=lane_of))
        client = await connect(proxy)
        client.send("PING")
        assert await client.rest() == b""
        with pytest.raises(LookupError, match="which lane"):
            await stack.aclose()


async def test_lane_of_error_does_not_hide_an_error_of_the_test(url: str, connect: Connect) -> None:
    def lane_of(opening: bytes) -> str:
        return {b"": "commands"}[opening]

    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with ChaosProxy(url, lane_of=lane_of) as proxy:
            client = await connect(proxy)
            client.send("PING")
            assert await client.rest() == b""
            _ = 1 / 0
