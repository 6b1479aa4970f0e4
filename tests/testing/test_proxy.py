"""The chaos proxy, between plain sockets and a real Valkey: each way to misbehave, and what it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import valkey
import valkey.asyncio

from tiercache import UsageError
from tiercache.testing import ChaosProxy

PATIENCE = 30.0
# How long nothing has to come until a test trusts that nothing will.
SILENCE = 0.2
HELD_BYTES = 1024 * 1024


def command(*words: str | bytes) -> bytes:
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class Client:
    """A connection through the proxy, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *words: str | bytes) -> None:
        self.writer.write(command(*words))

    async def line(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.readline()).removesuffix(b"\r\n")

    async def bulk(self) -> bytes:
        size = int((await self.line()).removeprefix(b"$"))
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.readexactly(size + 2))[:-2]

    async def ask(self, *words: str | bytes) -> bytes:
        """Send a command and return its answer of one line."""
        self.send(*words)
        return await self.line()

    async def is_silent(self) -> bool:
        """Return whether nothing comes, not even the end."""
        try:
            async with asyncio.timeout(SILENCE):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    async def rest(self) -> bytes:
        """Return what comes until the connection is reset; its orderly end is an error."""
        received = b""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    data = await self.reader.read(65_536)
                except ConnectionResetError:
                    return received
                assert data, "ended in an orderly way"
                received += data

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Any]]:
    """Connect to a proxy; closed at the end of the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(proxy: ChaosProxy, *hello: str) -> Client:
            client = Client(*await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port))
            stack.push_async_callback(client.close)
            if hello:
                await client.ask(*hello)
            return client

        yield connect


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(url, seed=1) as proxy:
        yield proxy


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for need not happen in this process
            await asyncio.sleep(0.005)


def ids(plain: valkey.Valkey) -> set[str]:
    """The connections that the server has."""
    listed: Any = plain.client_list()
    return {entry["id"] for entry in listed}


def library(url: str) -> Any:
    """A client that does not know of the proxy."""
    return valkey.asyncio.from_url(url)  # type: ignore[no-untyped-call]


async def most_held(proxy: ChaosProxy) -> int:
    """Return the most that the proxy holds at any time from when it holds much."""
    await until(lambda: proxy.held_bytes() > HELD_BYTES // 2)
    seen = []
    for _ in range(50):
        seen.append(proxy.held_bytes())
        await asyncio.sleep(0.01)
    return max(seen)


def by_word(opening: bytes) -> str:
    return next((name for name in ("left", "right") if name.encode() in opening), "none")


# A plain wire


async def test_it_is_a_plain_wire_until_told_otherwise(proxy: ChaosProxy, plain: valkey.Valkey) -> None:
    value = random.Random(2).randbytes(5_000_000)
    async with library(proxy.url) as client:
        await client.set("k", value)
        assert plain.get("k") == value
        assert await client.get("k") == value
        assert proxy.connection_count() == 1
    await until(lambda: proxy.connection_count() == 0)
    assert proxy.held_bytes() == 0


async def test_the_end_passes_both_ways(proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]) -> None:
    client = await connect(proxy)
    number = (await client.ask("CLIENT", "ID"))[1:].decode()
    plain.client_kill_filter(_id=number)
    assert await client.line() == b""
    before = len(ids(plain))
    other = await connect(proxy, "PING")
    assert len(ids(plain)) == before + 1
    await other.close()
    await until(lambda: len(ids(plain)) == before)


async def test_a_client_that_ends_its_sending_still_gets_its_answer(
    proxy: ChaosProxy, connect: Callable[..., Any]
) -> None:
    client = await connect(proxy)
    proxy.latency(0.05)
    client.send("PING")
    client.writer.write_eof()
    assert await client.line() == b"+PONG"
    assert await client.line() == b""


async def test_a_target_on_tcp(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    async with ChaosProxy(proxy.url) as outer:
        client = await connect(outer, "PING")
        assert await client.ask("PING") == b"+PONG"
        assert outer.kill() == 1
        assert await client.rest() == b""
        await until(lambda: proxy.connection_count() == 0)


async def test_a_server_that_is_not_there_is_a_reset(connect: Callable[..., Any]) -> None:
    for target in ("unix:///nowhere/valkey.sock", "valkey://127.0.0.1:1"):
        async with ChaosProxy(target) as proxy:
            client = await connect(proxy)
            assert await client.rest() == b""
            await until(lambda: proxy.connection_count() == 0)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("valkey://localhost:6379", "/0"),
        ("redis://localhost/3", "/3"),
        ("valkey://me:secret@[::1]:7000/1?protocol=3", "/1?protocol=3"),
        ("unix:///tmp/valkey.sock", "/0"),
        ("unix://me:s%40fe@/tmp/valkey.sock?db=2&protocol=3", "/2?protocol=3"),
    ],
)
async def test_the_url_keeps_all_but_the_address(target: str, path: str) -> None:
    async with ChaosProxy(target) as proxy:
        parts, credentials = urlsplit(proxy.url), urlsplit(target).netloc.rpartition("@")[0]
        assert (parts.scheme, parts.hostname) == ("valkey", "127.0.0.1")
        assert parts.netloc.rpartition("@")[0] == credentials
        assert proxy.url.endswith(f":{parts.port}{path}")


@pytest.mark.parametrize(
    "target",
    ["valkeys://localhost", "rediss://localhost", "http://localhost", "localhost:6379", "unix://", "valkey://h:99999"],
)
def test_a_target_that_it_cannot_stand_before_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match="target"):
        ChaosProxy(target)


async def test_it_has_a_url_only_while_it_listens(url: str) -> None:
    proxy = ChaosProxy(url)
    for _ in range(2):
        with pytest.raises(UsageError, match="async with"):
            _ = proxy.url
        async with proxy:
            assert proxy.url
            with pytest.raises(UsageError, match="in use"):
                await proxy.__aenter__()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda proxy: proxy.latency(-1),
        lambda proxy: proxy.latency(2, 1),
        lambda proxy: proxy.latency(float("nan")),
        lambda proxy: proxy.latency(0, float("inf")),
        lambda proxy: proxy.stall("sideways"),
        lambda proxy: proxy.drip(0),
        lambda proxy: proxy.drip(float("inf")),
        lambda proxy: proxy.cut_after(-1),
    ],
)
def test_a_wrong_setting_is_refused(wrong: Callable[[ChaosProxy], None]) -> None:
    with pytest.raises(UsageError):
        wrong(ChaosProxy("valkey://localhost"))


# Latency


async def test_latency_counts_each_way(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    client = await connect(proxy, "PING")
    proxy.latency(0.05, 0.1)
    for _ in range(5):
        begun = time.monotonic()
        await client.ask("PING")
        assert time.monotonic() - begun >= 0.1 - 0.001


async def test_bytes_of_one_connection_keep_their_order(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
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


async def test_latency_does_not_narrow_the_wire(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    client = await connect(proxy)
    proxy.latency(0.5)
    begun = time.monotonic()
    for _ in range(40):
        client.send("PING")
        await asyncio.sleep(0.005)
    for _ in range(40):
        await client.line()
    # One after the other these would take 20 seconds each way.
    assert time.monotonic() - begun < 10


async def test_a_chunk_that_waits_for_its_latency_is_left_alone(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    client = await connect(proxy)
    proxy.latency(0.3)
    begun = time.monotonic()
    client.send("PING")
    await until(proxy.held_bytes)
    proxy.heal()
    await client.line()
    assert time.monotonic() - begun >= 0.3 - 0.001


async def delays(
    url: str, connect: Callable[..., Any], patch: pytest.MonkeyPatch, *, seed: int, is_other_busy: bool = False
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


async def test_the_same_seed_gives_the_same_delays(
    url: str, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, once = await delays(url, connect, monkeypatch, seed=7)
    assert len(set(once)) == 10
    assert all(0.001 <= delay <= 0.01 for delay in once)
    other, again = await delays(url, connect, monkeypatch, seed=7, is_other_busy=True)
    assert again == once
    assert not set(other) & set(once)
    assert await delays(url, connect, monkeypatch, seed=7, is_other_busy=True) == (other, once)
    assert (await delays(url, connect, monkeypatch, seed=8))[1] != once


def test_without_a_seed_it_shows_the_one_it_drew() -> None:
    seeds = {ChaosProxy("valkey://localhost").seed for _ in range(5)}
    assert len(seeds) == 5
    assert ChaosProxy("valkey://localhost", seed=3).seed == 3


# Order between connections


async def test_the_later_of_two_connections_may_arrive_first(
    url: str, plain: valkey.Valkey, connect: Callable[..., Any]
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


async def test_a_lane_has_a_latency_of_its_own(url: str, plain: valkey.Valkey, connect: Callable[..., Any]) -> None:
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


# Stalls


async def test_a_stall_to_the_server_holds_what_is_sent(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
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


async def test_a_stall_to_the_client_holds_the_answers(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_client")
    client.send("SET", "k", "v")
    await until(lambda: plain.get("k") == b"v")
    await until(lambda: proxy.held_bytes() == len(b"+OK\r\n"))
    assert await client.is_silent()
    proxy.heal()
    assert await client.line() == b"+OK"


async def test_stalls_add_up_to_both_ways(proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]) -> None:
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


async def test_a_stall_holds_the_end_too(proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]) -> None:
    client = await connect(proxy)
    number = (await client.ask("CLIENT", "ID"))[1:].decode()
    proxy.stall("to_client")
    plain.client_kill_filter(_id=number)
    assert await client.is_silent()
    proxy.heal()
    assert await client.line() == b""


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_what_a_client_sent_before_it_left_arrives(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any], leave: Literal["close", "reset"]
) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_server")
    # Answers enough to find out on the way that there is nobody to take them.
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


async def test_nothing_is_held_for_a_client_that_is_known_to_have_left(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
    plain.set("k", bytes(24 * HELD_BYTES))
    client = await connect(proxy)
    client.send("GET", "k")
    # The client takes no more, so that the proxy is in the middle of sending.
    await until(lambda: proxy.held_bytes() > HELD_BYTES // 2)
    await asyncio.sleep(SILENCE)
    proxy.stall("to_client")
    client.reset()
    await until(lambda: proxy.connection_count() == 0)


async def test_a_sender_is_held_back_when_too_much_is_held(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_server")
    value = random.Random(3).randbytes(48 * HELD_BYTES)
    client.send("SET", "k", value)
    assert HELD_BYTES // 2 < await most_held(proxy) <= HELD_BYTES
    # The kernel takes some MiB for itself on the way.
    assert client.writer.transport.get_write_buffer_size() > HELD_BYTES
    proxy.heal()
    assert await client.line() == b"+OK"
    assert plain.get("k") == value


async def test_answers_are_held_back_when_a_client_does_not_read(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
    plain.set("k", bytes(HELD_BYTES))
    client = await connect(proxy, "PING")
    for _ in range(40):
        client.send("GET", "k")
    assert HELD_BYTES // 2 < await most_held(proxy) <= HELD_BYTES
    for _ in range(40):
        assert len(await client.bulk()) == HELD_BYTES


# Drip


async def test_a_drip_passes_few_bytes_at_a_time(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
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


async def test_a_drip_may_be_slower_than_a_byte_a_second(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
    client = await connect(proxy, "PING")
    proxy.drip(0.1)
    client.send("SET", "k", "v" * 10_000)
    await until(proxy.held_bytes)
    assert await client.is_silent()
    # And a change takes hold at once, not at the next byte.
    proxy.drip(10_000_000)
    assert await client.line() == b"+OK"
    proxy.drip(0.1)
    client.send("PING")
    await until(proxy.held_bytes)
    proxy.heal()
    assert await client.line() == b"+PONG"


# Half-open


async def test_neither_bytes_nor_the_end_pass_a_half_open_connection(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
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


async def test_a_half_open_connection_stays_so(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_client")
    client.send("PING")
    await until(proxy.held_bytes)
    proxy.half_open()
    proxy.heal()
    assert (proxy.kill(), proxy.held_bytes()) == (0, 0)
    assert await client.is_silent()


async def test_half_open_by_lane(url: str, connect: Callable[..., Any]) -> None:
    async with ChaosProxy(url) as proxy:
        bus = await connect(proxy, "SUBSCRIBE", "news")
        commands = await connect(proxy, "PING")
        proxy.half_open(lane="bus")
        assert await commands.ask("PUBLISH", "news", "x") == b":1"
        for _ in range(5):  # The rest of the answer to SUBSCRIBE.
            await bus.line()
        assert await bus.is_silent()
        assert (proxy.connection_count("bus"), proxy.connection_count("commands")) == (0, 1)


# Cuts


async def test_a_connection_is_cut_in_the_middle_of_an_answer(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
    value = random.Random(4).randbytes(500_000)
    plain.set("k", value)
    client = await connect(proxy, "PING")
    proxy.cut_after(20_000)
    client.send("GET", "k")
    assert await client.rest() == (b"$500000\r\n" + value)[:20_000]
    assert proxy.connection_count() == 0


async def test_a_client_library_takes_a_cut_for_a_broken_connection(proxy: ChaosProxy, plain: valkey.Valkey) -> None:
    plain.set("k", b"v" * 500_000)
    async with library(proxy.url) as client:
        await client.ping()
        proxy.cut_after(20_000)
        with pytest.raises(valkey.ConnectionError):
            await client.get("k")
        # The next connection is a plain one.
        assert await client.get("k") == b"v" * 500_000


async def test_a_cut_after_no_byte_loses_the_answer_to_what_was_done(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
    client = await connect(proxy, "PING")
    proxy.cut_after(0)
    client.send("INCR", "n")
    assert await client.rest() == b""
    assert plain.get("n") == b"1"


async def test_a_cut_counts_over_several_answers(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    client = await connect(proxy, "PING")
    proxy.cut_after(10)
    assert await client.ask("PING") == b"+PONG"
    client.send("PING")
    assert await client.rest() == b"+PO"


async def test_a_cut_can_be_called_off(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    client = await connect(proxy, "PING")
    proxy.cut_after(3)
    proxy.heal()
    assert await client.ask("PING") == b"+PONG"


async def test_a_cut_by_lane(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    bus, commands = await connect(proxy, "SUBSCRIBE", "news"), await connect(proxy, "PING")
    for _ in range(5):
        await bus.line()
    proxy.cut_after(0, lane="bus")
    assert await commands.ask("PUBLISH", "news", "x") == b":1"
    assert await bus.rest() == b""
    assert await commands.ask("PING") == b"+PONG"


# Kills and refusals


async def test_a_kill_by_lane_leaves_the_other_lane_alone(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
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


async def test_nothing_passes_after_a_kill(
    proxy: ChaosProxy, plain: valkey.Valkey, connect: Callable[..., Any]
) -> None:
    client = await connect(proxy, "PING")
    proxy.stall("to_server")
    client.send("SET", "k", "v")
    await until(proxy.held_bytes)
    proxy.heal()
    assert proxy.kill() == 1
    assert await client.rest() == b""
    assert plain.get("k") is None


async def test_a_refused_connection_is_reset(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
    old = await connect(proxy, "PING")
    proxy.refuse()
    for _ in range(3):
        with contextlib.suppress(ConnectionResetError):  # Or it is only seen when reading.
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


# Lanes


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
async def test_a_connection_that_has_subscribed_is_the_bus(
    proxy: ChaosProxy, connect: Callable[..., Any], sent: bytes, lane: str
) -> None:
    client = await connect(proxy)
    proxy.stall("to_server")
    for piece in (sent[:7], sent[7:]):
        held = proxy.held_bytes()
        client.writer.write(piece)
        await until(lambda: proxy.held_bytes() == held + len(piece))  # noqa: B023
    await until(lambda: proxy.connection_count() == 1)
    assert proxy.connection_count(lane) == 1


async def test_a_connection_changes_its_lane_and_with_it_its_rules(
    proxy: ChaosProxy, connect: Callable[..., Any]
) -> None:
    client = await connect(proxy)
    proxy.stall(lane="commands")
    client.send("CLIENT", "ID")
    await until(lambda: proxy.held_bytes("commands"))
    assert await client.is_silent()
    client.send("SUBSCRIBE", "news")
    assert (await client.line()).startswith(b":")
    assert [await client.line(), await client.line(), await client.line()] == [b"*3", b"$9", b"subscribe"]
    assert proxy.connection_count("bus") == 1


async def test_an_answer_goes_on_when_its_connection_changes_its_lane(url: str, connect: Callable[..., Any]) -> None:
    async with ChaosProxy(url, lane_of=by_word) as proxy:
        client = await connect(proxy)
        proxy.stall("to_client", lane="none")
        client.send("PING")
        await until(lambda: proxy.held_bytes() == len(b"+PONG\r\n"))
        # A command that is not complete: the server says nothing to it.
        client.writer.write(command("ECHO", "left")[:-2])
        assert await client.line() == b"+PONG"


async def test_a_client_library_has_its_subscriber_in_the_bus(proxy: ChaosProxy) -> None:
    async with library(proxy.url) as client, client.pubsub() as subscriber:
        await subscriber.subscribe("news")
        await subscriber.get_message(timeout=PATIENCE)
        await client.ping()
        assert (proxy.connection_count("bus"), proxy.connection_count("commands")) == (1, 1)


async def test_of_two_settings_the_later_one_counts(proxy: ChaosProxy, connect: Callable[..., Any]) -> None:
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
    # A lane that has rules of its own is in "all", too, and later connections are in their lane.
    proxy.stall()
    fresh = await connect(proxy)
    fresh.send("PING")
    assert await fresh.is_silent()
    proxy.heal()
    assert await fresh.line() == b"+PONG"


async def test_an_error_of_lane_of_ends_its_connection_and_is_raised_at_the_end(
    url: str, connect: Callable[..., Any]
) -> None:
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


async def test_an_error_of_the_test_comes_before_one_of_lane_of(url: str, connect: Callable[..., Any]) -> None:
    def lane_of(opening: bytes) -> str:
        return {b"": "commands"}[opening]

    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with ChaosProxy(url, lane_of=lane_of) as proxy:
            client = await connect(proxy)
            client.send("PING")
            assert await client.rest() == b""
            _ = 1 / 0


# The end


@pytest.mark.parametrize(
    "misbehave",
    [
        lambda proxy: None,
        lambda proxy: proxy.stall(),
        lambda proxy: proxy.stall("to_client"),
        lambda proxy: proxy.latency(60),
        lambda proxy: proxy.drip(0.1),
        lambda proxy: proxy.half_open(),
        lambda proxy: proxy.kill(),
        lambda proxy: proxy.cut_after(0),
    ],
)
async def test_nothing_is_left_at_the_end(
    url: str, connect: Callable[..., Any], misbehave: Callable[[ChaosProxy], object]
) -> None:
    files = len(os.listdir("/dev/fd"))
    async with ChaosProxy(url) as proxy:
        clients = [await connect(proxy, "PING") for _ in range(3)]
        misbehave(proxy)
        clients[0].send("PING")
        clients[1].send("ECHO", "x" * 3_000_000)
        # Accepted, and not yet connected on.
        clients.append(await connect(proxy))
        await until(lambda: proxy.connection_count() in (1, 3, 4))
    assert len(asyncio.all_tasks()) == 1
    for client in clients:
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE):
                await client.reader.read()
        await client.close()
    assert proxy.connection_count() == 0
    assert len(os.listdir("/dev/fd")) == files


@pytest.mark.parametrize("drop", [ChaosProxy.kill, ChaosProxy.half_open])
async def test_a_connection_may_be_dropped_before_its_first_step(url: str, drop: Callable[[ChaosProxy], Any]) -> None:
    async with ChaosProxy(url) as proxy:
        # The kernel connects it. The loop has not run meanwhile, and then runs one turn at a time.
        with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0)):
            while not proxy.connection_count():  # noqa: ASYNC110
                await asyncio.sleep(0)
            drop(proxy)


async def test_it_can_be_used_again(url: str, connect: Callable[..., Any]) -> None:
    proxy = ChaosProxy(url)
    for _ in range(2):
        async with proxy:
            assert await (await connect(proxy)).ask("PING") == b"+PONG"
