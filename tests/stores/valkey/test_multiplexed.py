"""The multiplexed connection: order, shared writes, deadlines, messages, and every way to end."""

from __future__ import annotations

import asyncio
import os
import signal
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
from tests.seams import RecordedWire, check_deadline, has_ended, inbox_count, internals, shared_connection
from tests.support import UNTRACKED, until
from tests.tls import tls_in_front_of
from tiercache import AgentCache, TierOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.stores.valkey.connection import open_connection
from tiercache.stores.valkey.exchanges import LateError
from tiercache.stores.valkey.multiplexed import MultiplexedConnection
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.testing import ChaosProxy


async def opened(url: str, *, listens: bool = False) -> MultiplexedConnection:
    connection = await open_connection(Settings.from_client(client_from_url(url)), 5, listens=listens)
    assert isinstance(connection, MultiplexedConnection)
    return connection


@pytest.fixture
async def connection(url: str) -> AsyncIterator[MultiplexedConnection]:
    connection = await opened(url)
    yield connection
    await connection.aclose()


async def test_connection_hands_each_caller_its_own_replies_in_order(
    connection: MultiplexedConnection, plain: valkey.Valkey
) -> None:
    plain.mset({f"k{n}": f"v{n}" for n in range(1000)})
    replies = await asyncio.gather(
        *(connection.exchange([("GET", f"k{n}"), ("PTTL", f"k{n}")], 5) for n in range(1000))
    )
    assert replies == [[f"v{n}".encode(), -1] for n in range(1000)]


async def test_connection_returns_no_replies_to_no_commands(connection: MultiplexedConnection) -> None:
    assert await connection.exchange([], 5) == []


async def test_connection_returns_the_error_of_a_refused_command_as_its_reply(
    connection: MultiplexedConnection, plain: valkey.Valkey
) -> None:
    plain.hset("hash", "a", "b")
    first, second, third = await connection.exchange([("SET", "k", "v"), ("GET", "hash"), ("GET", "k")], 5)
    assert (first, third) == (b"OK", b"v")
    assert isinstance(second, ResponseError)
    assert connection.is_open


async def test_connection_writes_a_lone_exchange_at_once_and_later_ones_together(
    connection: MultiplexedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = RecordedWire(connection, monkeypatch)
    first = connection.exchange([("PING",)], 5)
    assert len(wire.written) == 1
    others = [connection.exchange([("ECHO", str(n))], 5) for n in range(99)]
    await asyncio.gather(first, *others)
    assert len(wire.written) == 2


async def test_connection_writes_a_lone_exchange_behind_a_batch_at_once(
    connection: MultiplexedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.exchange([("PING",)], 5)
    wire = RecordedWire(connection, monkeypatch)
    batch: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    connection.begin([("PING",)], 1, 5, batch)
    others = [connection.exchange([("ECHO", str(n))], 5) for n in range(10)]
    assert len(wire.written) == 2
    assert await asyncio.gather(batch, *others) == [[b"PONG"], *([str(n).encode()] for n in range(10))]
    assert len(wire.written) == 3


async def test_l2_reads_a_hundred_missing_keys_in_two_round_trips(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"llm": TierOptions(lease=False), "coherence": UNTRACKED}
    async with AgentCache.from_url(url, name="test", **options) as cache:
        await cache.open()
        wire = RecordedWire(shared_connection(internals(cache).store.pool), monkeypatch)
        await asyncio.gather(*(cache.llm.check(asking(f"question {n}")) for n in range(100)))
        sent = [data for data in wire.written if b"GET" in data and b"test:llm:" in data]
        assert len(sent) <= 2
        assert sum(data.count(b"$3\r\nGET\r\n") for data in sent) == 100


async def test_connection_stays_in_step_after_a_caller_is_cancelled(connection: MultiplexedConnection) -> None:
    gone = connection.exchange([("ECHO", "gone")], 5)
    kept = connection.exchange([("ECHO", "kept")], 5)
    gone.cancel()
    assert await kept == [b"kept"]
    assert await connection.exchange([("ECHO", "next")], 5) == [b"next"]


async def test_connection_joins_replies_that_arrive_in_pieces(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        connection = await opened(proxy.url)
        proxy.drip(4000)
        replies = await asyncio.gather(*(connection.exchange([("ECHO", "x" * n)], 5) for n in (1, 700, 0, 33)))
        assert replies == [[b"x" * n] for n in (1, 700, 0, 33)]
        await connection.aclose()


async def test_connection_closes_for_all_callers_when_the_server_is_silent(
    plain: valkey.Valkey, connection: MultiplexedConnection
) -> None:
    await connection.exchange([("PING",)], 0.1)
    pid = plain.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [connection.exchange([("PING",)], 0.1) for _ in range(50)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {type(outcome) for outcome in outcomes} == {TimeoutError}
    assert not connection.is_open
    with pytest.raises(ValkeyConnectionError):
        connection.exchange([("PING",)], 0.1)


async def test_connection_starts_a_deadline_when_the_exchanges_before_it_are_answered(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        connection = await opened(proxy.url)
        proxy.drip(4000)
        slow = [connection.exchange([("ECHO", "x" * 2000)], 1.5) for _ in range(4)]
        # The four before it take half a second each: together more time than this exchange has.
        assert await connection.exchange([("PING",)], 1.5) == [b"PONG"]
        assert all(each.done() for each in slow)
        await connection.aclose()


async def test_connection_accepts_a_reply_that_arrived_while_the_loop_was_blocked(
    connection: MultiplexedConnection,
) -> None:
    asked = connection.exchange([("PING",)], 0.05)
    time.sleep(0.1)  # noqa: ASYNC251 - holds up the loop
    check_deadline(connection)  # As in a loop that runs its timers before it reads.
    assert await asked == [b"PONG"]


async def test_connection_keeps_a_deadline_shorter_than_that_of_the_last_exchange(
    plain: valkey.Valkey, connection: MultiplexedConnection
) -> None:
    await connection.exchange([("PING",)], 1000)
    pid = plain.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            await connection.exchange([("PING",)], 0.05)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("event", ["byte", "silence", "end"])
async def test_late_connection_waits_for_a_byte(url: str, event: str) -> None:
    async with ChaosProxy(url) as proxy:
        connection = await opened(proxy.url)
        assert await connection.wait_late_byte(0.0)
        connection.late_deadlines = 1000
        proxy.stall()
        with pytest.raises(LateError):
            await connection.exchange([("PING",)], 0.02)
        assert connection.is_late
        waiting = asyncio.ensure_future(connection.wait_late_byte(0.1 if event == "silence" else 60))
        await asyncio.sleep(0)
        if event == "byte":
            proxy.heal()
        elif event == "end":
            proxy.kill()
        assert await waiting == (event == "byte")
        assert connection.is_late == (event != "byte")
        assert connection.is_open == (event != "end")
        await connection.aclose()


@pytest.mark.parametrize("seconds", [0.04, 60])
async def test_batch_of_writes_behind_a_late_read_keeps_its_own_time(url: str, seconds: float) -> None:
    async with ChaosProxy(url) as proxy:
        connection = await opened(proxy.url)
        connection.late_deadlines = 1000
        proxy.stall()
        read = connection.exchange([("GET", "k")], 0.02)
        batch: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        connection.begin([("SET", "k", "v")], 1, seconds, batch)
        behind = connection.exchange([("GET", "k")], 60)
        for late in (read, behind):
            with pytest.raises(LateError):
                await late
        assert connection.is_late
        if seconds < 1:
            with pytest.raises(LateError):
                await batch
        else:
            assert not batch.done()
            proxy.heal()
            assert await batch == [b"OK"]
        await connection.aclose()


@pytest.mark.parametrize("how", ["kill", "cut"])
async def test_connection_fails_the_exchanges_in_flight_when_it_ends(url: str, how: str) -> None:
    async with ChaosProxy(url) as proxy:
        connection = await opened(proxy.url)
        if how == "cut":
            proxy.cut_after(3)
        else:
            proxy.stall()
        waiting = [connection.exchange([("PING",)], 5) for _ in range(3)]
        await asyncio.sleep(0)
        if how == "kill":
            proxy.kill()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ValkeyConnectionError}
        assert len({id(outcome) for outcome in outcomes}) == 3
        await connection.aclose()


async def test_connection_closes_after_a_reply_to_no_command(connection: MultiplexedConnection) -> None:
    assert await connection.exchange([("SUBSCRIBE", "a", "b")], 5)
    await until(lambda: not connection.is_open)


async def test_connection_receives_messages_in_order(url: str, plain: valkey.Valkey) -> None:
    connection = await opened(url, listens=True)
    await connection.exchange([("SUBSCRIBE", "a")], 5)
    for n in range(3):
        plain.publish("a", str(n))
    assert [await connection.receive() for _ in range(3)] == [[b"message", b"a", str(n).encode()] for n in range(3)]
    receiving = asyncio.create_task(connection.receive())
    await asyncio.sleep(0)
    await connection.aclose()
    with pytest.raises(ValkeyConnectionError):
        await receiving


async def test_connection_listens_to_earlier_messages_and_then_to_new_ones(url: str, plain: valkey.Valkey) -> None:
    connection = await opened(url, listens=True)
    await connection.exchange([("SUBSCRIBE", "a")], 5)
    plain.publish("a", "0")
    await until(lambda: inbox_count(connection) == 1)
    received: list[Any] = []
    listening = asyncio.create_task(connection.listen(received.append))
    await until(lambda: len(received) == 1)
    for n in (1, 2):
        plain.publish("a", str(n))
    await until(lambda: len(received) == 3)
    assert [text for _, _, text in received] == [b"0", b"1", b"2"]
    await connection.aclose()
    with pytest.raises(ValkeyConnectionError):
        await listening


async def test_connection_stays_open_after_its_listener_raises(url: str, plain: valkey.Valkey) -> None:
    connection = await opened(url, listens=True)
    await connection.exchange([("SUBSCRIBE", "a")], 5)

    def fail(_: Any) -> None:
        raise RuntimeError("a defect")

    listening = asyncio.create_task(connection.listen(fail))
    await asyncio.sleep(0)
    plain.publish("a", "0")
    plain.publish("a", "1")
    with pytest.raises(RuntimeError, match="a defect"):
        await listening
    assert connection.is_open
    assert await connection.receive() == [b"message", b"a", b"1"]
    await connection.aclose()


def receive(connection: MultiplexedConnection, data: bytes) -> None:
    """Let ``connection`` receive ``data``, as its transport would."""
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


async def test_connection_closes_when_the_server_is_loading(connection: MultiplexedConnection) -> None:
    asked = connection.exchange([("PING",)], 5)
    receive(connection, b"-LOADING Valkey is loading the dataset in memory\r\n")
    with pytest.raises(ValkeyConnectionError, match="loading"):
        await asked
    assert not connection.is_open


async def test_connection_closes_when_a_reply_within_an_exchange_ends_it(connection: MultiplexedConnection) -> None:
    await connection.exchange([("PING",)], 5)
    first = connection.exchange([("PING",)], 5)
    asked = connection.exchange([("PING",), ("PING",), ("PING",)], 5)
    receive(connection, b"+PONG\r\n+PONG\r\n-NOAUTH Authentication required.\r\n+PONG\r\n")
    assert await first == [b"PONG"]
    with pytest.raises(ValkeyConnectionError, match="Authentication"):
        await asked
    assert not connection.is_open


async def test_connection_closes_when_a_message_is_a_refusal(url: str) -> None:
    connection = await opened(url, listens=True)
    receive(connection, b"-LOADING Valkey is loading the dataset in memory\r\n")
    with pytest.raises(ValkeyConnectionError, match="loading"):
        await connection.receive()
    assert not connection.is_open
    await connection.aclose()


async def test_connection_closes_when_the_server_breaks_the_protocol(connection: MultiplexedConnection) -> None:
    asked = connection.exchange([("PING",)], 5)
    receive(connection, b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(Exception, match="rotocol"):
        await asked
    assert not connection.is_open


async def test_connection_refuses_a_transport_that_has_ended() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        transport = Settings.from_client(client_from_url(f"valkey://127.0.0.1:{port}")).connection()
        await transport.connect()  # type: ignore[no-untyped-call]
        await until(lambda: has_ended(transport))
        with pytest.raises(ValkeyConnectionError):
            MultiplexedConnection(transport)
        await transport.disconnect()


async def test_connection_uses_the_tls_and_credentials_of_valkey_py(
    server: EmbeddedValkey, plain: valkey.Valkey, tmp_path: Path
) -> None:
    plain.acl_setuser("agent", enabled=True, passwords=["+pass"], categories=["+@all"], keys=["*"], channels=["*"])
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with tls_in_front_of(server, authority.issue_cert("127.0.0.1")) as port:
        url = f"valkeys://agent:pass@127.0.0.1:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
        async with AgentCache.from_url(url, name="test") as cache:
            await cache.open()
            assert isinstance(shared_connection(internals(cache).store.pool), MultiplexedConnection)
            await asyncio.gather(*(cache.llm.get_or_load(asking(str(n)), Loader("x" * 50_000)) for n in range(20)))
            await cache.flush_writes()
            cache.clear_l1()
            results = await asyncio.gather(*(cache.llm.check(asking(str(n))) for n in range(20)))
            assert {(result.source, len(result.response or "")) for result in results} == {("l2", 50_000)}
            assert await cache.llm.invalidate(HELLO) is False
    plain.acl_deluser("agent")
