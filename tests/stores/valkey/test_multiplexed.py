"""A line with many exchanges under way: order, what leaves together, time, and every way to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import valkey
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import ResponseError

from tests.requests import HELLO, Loader, asking
from tests.support import until
from tiercache import AgentCache, TierOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.stores.valkey.connection import open_line
from tiercache.stores.valkey.multiplexed import MultiplexedLine
from tiercache.stores.valkey.pool import SharedExchanges
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.testing import ChaosProxy


class Wire:
    """A line, and how often it has written."""

    def __init__(self, line: MultiplexedLine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.line = line
        self.written: list[bytes] = []
        write = line._transport.write

        def counted(data: bytes) -> None:
            self.written.append(data)
            write(data)

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return counted if name == "write" else getattr(transport, name)

        transport = line._transport
        monkeypatch.setattr(line, "_transport", Counting())


async def opened(url: str, *, listens: bool = False) -> MultiplexedLine:
    line = await open_line(Settings.from_client(client_from_url(url)), 5, listens=listens)
    assert isinstance(line, MultiplexedLine)
    return line


@pytest.fixture
async def line(url: str) -> AsyncIterator[MultiplexedLine]:
    line = await opened(url)
    yield line
    await line.aclose()


async def test_each_caller_gets_its_own_replies_in_order(line: MultiplexedLine, plain: valkey.Valkey) -> None:
    plain.mset({f"k{n}": f"v{n}" for n in range(1000)})
    replies = await asyncio.gather(*(line.exchange([("GET", f"k{n}"), ("PTTL", f"k{n}")], 5) for n in range(1000)))
    assert replies == [[f"v{n}".encode(), -1] for n in range(1000)]


async def test_no_commands_have_no_replies(line: MultiplexedLine) -> None:
    assert await line.exchange([], 5) == []


async def test_a_refused_command_has_its_error_in_its_place(line: MultiplexedLine, plain: valkey.Valkey) -> None:
    plain.hset("hash", "a", "b")
    first, second, third = await line.exchange([("SET", "k", "v"), ("GET", "hash"), ("GET", "k")], 5)
    assert (first, third) == (b"OK", b"v")
    assert isinstance(second, ResponseError)
    assert line.is_open


async def test_who_is_alone_is_sent_at_once_and_who_comes_meanwhile_together(
    line: MultiplexedLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(line, monkeypatch)
    first = line.exchange([("PING",)], 5)
    assert len(wire.written) == 1
    others = [line.exchange([("ECHO", str(n))], 5) for n in range(99)]
    await asyncio.gather(first, *others)
    assert len(wire.written) == 2


async def test_a_hundred_cold_keys_at_once_are_two_round_trips(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AgentCache.from_url(url, name="test", llm=TierOptions(lease=False)) as cache:
        runtime = await cache._engine.open()
        exchanges = runtime.level2._level2._exchanges  # type: ignore[union-attr]
        wire = Wire(exchanges._line, monkeypatch)
        await asyncio.gather(*(cache.llm.check(asking(f"question {n}")) for n in range(100)))
        sent = [data for data in wire.written if b"GET" in data and b"test:llm:" in data]
        assert len(sent) <= 2
        assert sum(data.count(b"$3\r\nGET\r\n") for data in sent) == 100


async def test_a_cancelled_caller_leaves_the_line_in_step(line: MultiplexedLine) -> None:
    gone = line.exchange([("ECHO", "gone")], 5)
    kept = line.exchange([("ECHO", "kept")], 5)
    gone.cancel()
    assert await kept == [b"kept"]
    assert await line.exchange([("ECHO", "next")], 5) == [b"next"]


async def test_replies_that_come_in_pieces_are_put_together(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        line = await opened(proxy.url)
        proxy.drip(4000)
        replies = await asyncio.gather(*(line.exchange([("ECHO", "x" * n)], 5) for n in (1, 700, 0, 33)))
        assert replies == [[b"x" * n] for n in (1, 700, 0, 33)]
        await line.aclose()


async def test_silence_ends_the_line_for_all_who_wait(plain: valkey.Valkey, line: MultiplexedLine) -> None:
    await line.exchange([("PING",)], 0.1)
    pid = plain.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [line.exchange([("PING",)], 0.1) for _ in range(50)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {type(outcome) for outcome in outcomes} == {TimeoutError}
    assert not line.is_open
    with pytest.raises(ValkeyConnectionError):
        line.exchange([("PING",)], 0.1)


async def test_the_time_of_an_exchange_begins_when_those_before_it_are_answered(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        line = await opened(proxy.url)
        proxy.drip(4000)
        slow = [line.exchange([("ECHO", "x" * 2000)], 1.5) for _ in range(4)]
        # Behind four that take half a second each, with less time than they take together.
        assert await line.exchange([("PING",)], 1.5) == [b"PONG"]
        assert all(each.done() for each in slow)
        await line.aclose()


async def test_an_answer_that_came_while_the_loop_was_held_up_is_an_answer(line: MultiplexedLine) -> None:
    asked = line.exchange([("PING",)], 0.05)
    time.sleep(0.1)  # noqa: ASYNC251 - holds up the loop
    line._look()  # As a loop does that looks at its timers before it reads.
    assert await asked == [b"PONG"]


async def test_a_shorter_time_than_the_last_exchange_had_counts(plain: valkey.Valkey, line: MultiplexedLine) -> None:
    await line.exchange([("PING",)], 1000)
    pid = plain.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            await line.exchange([("PING",)], 0.05)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("how", ["kill", "cut"])
async def test_a_connection_that_ends_fails_those_under_way(url: str, how: str) -> None:
    async with ChaosProxy(url) as proxy:
        line = await opened(proxy.url)
        if how == "cut":
            proxy.cut_after(3)
        else:
            proxy.stall()
        waiting = [line.exchange([("PING",)], 5) for _ in range(3)]
        await asyncio.sleep(0)
        if how == "kill":
            proxy.kill()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ValkeyConnectionError}
        assert len({id(outcome) for outcome in outcomes}) == 3
        await line.aclose()


async def test_a_reply_to_no_command_ends_the_line(line: MultiplexedLine) -> None:
    assert await line.exchange([("SUBSCRIBE", "a", "b")], 5)
    await until(lambda: not line.is_open)


async def test_messages_come_to_who_listens_in_order(url: str, plain: valkey.Valkey) -> None:
    line = await opened(url, listens=True)
    await line.exchange([("SUBSCRIBE", "a")], 5)
    for n in range(3):
        plain.publish("a", str(n))
    assert [await line.receive() for _ in range(3)] == [[b"message", b"a", str(n).encode()] for n in range(3)]
    receiving = asyncio.create_task(line.receive())
    await asyncio.sleep(0)
    await line.aclose()
    with pytest.raises(ValkeyConnectionError):
        await receiving


async def test_who_listens_hears_what_came_before_and_then_each_message_as_it_comes(
    url: str, plain: valkey.Valkey
) -> None:
    line = await opened(url, listens=True)
    await line.exchange([("SUBSCRIBE", "a")], 5)
    plain.publish("a", "0")
    await until(lambda: len(line._messages) == 1)
    heard: list[Any] = []
    listening = asyncio.create_task(line.listen(heard.append))
    await until(lambda: len(heard) == 1)
    for n in (1, 2):
        plain.publish("a", str(n))
    await until(lambda: len(heard) == 3)
    assert [text for _, _, text in heard] == [b"0", b"1", b"2"]
    await line.aclose()
    with pytest.raises(ValkeyConnectionError):
        await listening


async def test_a_listener_that_raises_ends_the_listening_and_not_the_line(url: str, plain: valkey.Valkey) -> None:
    line = await opened(url, listens=True)
    await line.exchange([("SUBSCRIBE", "a")], 5)

    def fail(_: Any) -> None:
        raise RuntimeError("a defect")

    listening = asyncio.create_task(line.listen(fail))
    await asyncio.sleep(0)
    plain.publish("a", "0")
    plain.publish("a", "1")
    with pytest.raises(RuntimeError, match="a defect"):
        await listening
    assert line.is_open
    assert await line.receive() == [b"message", b"a", b"1"]
    await line.aclose()


async def test_what_a_loading_server_says_is_no_answer(line: MultiplexedLine) -> None:
    asked = line.exchange([("PING",)], 5)
    line.data_received(b"-LOADING Valkey is loading the dataset in memory\r\n")
    with pytest.raises(ValkeyConnectionError, match="loading"):
        await asked
    assert not line.is_open


async def test_what_is_no_reply_ends_the_line(line: MultiplexedLine) -> None:
    asked = line.exchange([("PING",)], 5)
    line.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(Exception, match="rotocol"):
        await asked
    assert not line.is_open


async def test_a_connection_that_has_ended_already_is_not_taken_over() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK\r\n+OK\r\n")  # To what valkey-py says of itself.
        writer.write_eof()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = Settings.from_client(client_from_url(f"valkey://127.0.0.1:{port}")).connection()
        await connection.connect()  # type: ignore[no-untyped-call]
        await until(lambda: connection._reader.at_eof())  # type: ignore[union-attr]
        with pytest.raises(ValkeyConnectionError):
            MultiplexedLine(connection)
        await connection.disconnect()


async def shared(url: str) -> SharedExchanges:
    return SharedExchanges(Settings.from_client(client_from_url(url)), timeout=1, connecting=5)


async def test_what_may_be_repeated_is_where_a_connection_ended_under_it(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        exchanges = await shared(proxy.url)
        assert await exchanges.exchange([("PING",)], 5) == [b"PONG"]
        proxy.stall()
        once = asyncio.create_task(exchanges.exchange([("INCR", "n")], 5))
        again = [asyncio.create_task(exchanges.exchange([("ECHO", str(n))], 5, may_repeat=True)) for n in range(20)]
        await asyncio.sleep(0.02)
        proxy.kill()
        proxy.heal()
        assert await asyncio.gather(*again) == [[str(n).encode()] for n in range(20)]
        with pytest.raises(ValkeyConnectionError):
            await once
        assert proxy.connection_count() == 1  # All of them share the making of the new one.
        await exchanges.aclose()


async def test_those_who_come_at_once_share_one_connection(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        exchanges = await shared(proxy.url)
        callers = [asyncio.create_task(exchanges.exchange([("ECHO", str(n))], 5)) for n in range(50)]
        await asyncio.sleep(0)
        callers[0].cancel()  # Whoever began to connect is not the only one who wants to.
        replies = await asyncio.gather(*callers, return_exceptions=True)
        assert replies[1:] == [[str(n).encode()] for n in range(1, 50)]
        assert proxy.connection_count() == 1
        await exchanges.aclose()


async def test_closing_lets_what_is_under_way_be_answered(url: str) -> None:
    exchanges = await shared(url)
    await exchanges.exchange([("PING",)], 5)
    under_way = asyncio.create_task(exchanges.exchange([("ECHO", "last")], 5))
    await asyncio.sleep(0)
    await exchanges.aclose()
    assert await under_way == [b"last"]


@contextlib.asynccontextmanager
async def tls_in_front_of(server: EmbeddedValkey, certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """A port on which the server is spoken to through TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    tasks: set[asyncio.Task[None]] = set()

    async def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
        await asyncio.gather(passing(reader, inner_writer), passing(inner_reader, writer))
        for each in (writer, inner_writer):
            with contextlib.suppress(OSError):
                await each.wait_closed()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    listening = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    await asyncio.wait(tasks, timeout=5)


async def test_tls_and_credentials_are_as_valkey_py_has_them(
    server: EmbeddedValkey, plain: valkey.Valkey, tmp_path: Path
) -> None:
    plain.acl_setuser("agent", enabled=True, passwords=["+pass"], categories=["+@all"], keys=["*"], channels=["*"])
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with tls_in_front_of(server, authority.issue_cert("127.0.0.1")) as port:
        url = f"valkeys://agent:pass@127.0.0.1:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
        async with AgentCache.from_url(url, name="test") as cache:
            runtime = await cache._engine.open()
            exchanges = runtime.level2._level2._exchanges  # type: ignore[union-attr]
            assert isinstance(exchanges._line, MultiplexedLine)
            await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), Loader("x" * 50_000)) for n in range(20)))
            await cache.flush_writes()
            cache.clear_l1()
            results = await asyncio.gather(*(cache.llm.check(asking(str(n))) for n in range(20)))
            assert {(result.source, len(result.response or "")) for result in results} == {("l2", 50_000)}
            assert await cache.llm.invalidate(HELLO) is False
    plain.acl_deluser("agent")
