"""The deadline of an exchange: it counts silence, in both directions, and ends a trickle."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
import valkey

from tests.seams import unsent_bytes
from tests.support import until
from tests.tls import tls_in_front_of
from tiercache.embedded import EmbeddedValkey
from tiercache.stores.valkey.connection import Connection, open_connection, open_multiplexed
from tiercache.stores.valkey.deadline import LARGE_BYTES, Deadline
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.testing import ChaosProxy

Connect = Callable[[str], Awaitable[Connection]]

TIMEOUT = 0.3
LARGE = "x" * 1_000_000


@pytest.fixture(params=[True, False], ids=["multiplexed", "plain"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Return a function that opens a connection to a URL; the connections are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def connect(url: str) -> Connection:
            connection = await open_connection(Settings.from_client(client_from_url(url), multiplexes=request.param), 5)
            stack.push_async_callback(connection.aclose)
            return connection

        yield connect


async def exchange(connection: Connection, *command: Any, timeout: float = TIMEOUT) -> Any:
    """Return the reply to ``command``; fail the test if there is neither a reply nor an error for a long time."""
    try:
        (reply,) = await asyncio.wait_for(asyncio.ensure_future(connection.exchange([command], timeout)), 20)
    except TimeoutError as error:
        # The connection reports silence by closing, and ``wait_for`` by cancelling.
        assert not connection.is_open, "the exchange never ended"
        raise error
    return reply


async def test_deadline_moves_with_the_bytes_of_a_large_reply(proxy: ChaosProxy, connect: Connect) -> None:
    connection = await connect(proxy.url)
    assert await exchange(connection, "SET", "k", LARGE) == b"OK"
    proxy.slow_link(400_000)  # 2.5 s: only bytes that count as moved make the exchange no trickle.
    assert await exchange(connection, "GET", "k") == LARGE.encode()


async def test_deadline_moves_with_the_bytes_of_a_large_request(proxy: ChaosProxy, connect: Connect) -> None:
    connection = await connect(proxy.url)
    proxy.slow_link(400_000)
    assert await exchange(connection, "SET", "k", LARGE) == b"OK"
    # And a request that the kernel takes at once.
    assert await exchange(connection, "SET", "k", LARGE[:400_000]) == b"OK"


@pytest.mark.parametrize("command", [("GET", "k"), ("SET", "k", LARGE)], ids=["reply", "request"])
async def test_deadline_ends_when_a_large_exchange_falls_silent(
    proxy: ChaosProxy, connect: Connect, plain: valkey.Valkey, command: tuple[str, ...]
) -> None:
    plain.set("k", LARGE)
    connection = await connect(proxy.url)
    proxy.slow_link(500_000)
    asked = asyncio.create_task(exchange(connection, *command))
    await until(lambda: proxy.held_bytes() > 50_000)
    proxy.half_open()
    with pytest.raises(TimeoutError):
        await asked


@pytest.mark.parametrize("command", [("GET", "k"), ("SET", "k", LARGE)], ids=["small", "large"])
async def test_deadline_ends_when_the_server_stops(
    own_server: tuple[EmbeddedValkey, int], connect: Connect, command: tuple[str, ...]
) -> None:
    server, pid = own_server
    connection = await connect(server.url)
    await exchange(connection, "PING")
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await exchange(connection, *command)


@pytest.mark.parametrize("command", [("GET", "k"), ("SET", "k", LARGE)], ids=["reply", "request"])
async def test_deadline_ends_a_trickle(
    proxy: ChaosProxy, connect: Connect, plain: valkey.Valkey, command: tuple[str, ...]
) -> None:
    plain.set("k", LARGE)
    connection = await connect(proxy.url)
    proxy.slow_link(5_000)  # 200 s.
    with pytest.raises(TimeoutError):
        await exchange(connection, *command)


async def test_deadline_leaves_a_small_reply_time_to_trickle(
    proxy: ChaosProxy, connect: Connect, plain: valkey.Valkey
) -> None:
    plain.set("k", "x" * 100)
    connection = await connect(proxy.url)
    await exchange(connection, "PING")  # The introduction of the connection is no part of the trickle.
    proxy.drip(200)
    assert await exchange(connection, "GET", "k") == b"x" * 100


async def test_deadline_of_a_short_exchange_does_not_wait_for_the_timer_of_a_long_one(
    url: str, connect: Connect
) -> None:
    connection = await connect(url)
    long = asyncio.ensure_future(connection.exchange([("PING",)], 1000))
    short = asyncio.create_task(exchange(connection, "BLPOP", "absent", "0"))
    assert await long == [b"PONG"]
    with pytest.raises(TimeoutError):
        await short


@pytest.mark.parametrize("has_tls", [False, True], ids=["tcp", "tls"])
async def test_unsent_bytes_are_those_that_the_network_has_not_taken(
    server: EmbeddedValkey, plain: valkey.Valkey, tmp_path: Path, has_tls: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with (
        tls_in_front_of(server, authority.issue_cert("127.0.0.1")) as port,
        ChaosProxy(f"valkey://127.0.0.1:{port}" if has_tls else server.url) as proxy,
    ):
        url = f"{proxy.url.replace('valkey', 'valkeys', 1)}?ssl_ca_certs={tmp_path / 'ca.pem'}"
        connection = await open_multiplexed(Settings.from_client(client_from_url(url if has_tls else proxy.url)), 5)
        await connection.exchange([("PING",)], 5)
        proxy.stall("to_server")
        storing = connection.exchange([("SET", "k", "x" * 16_000_000)], 60)
        await until(lambda: proxy.held_bytes() > 500_000)
        assert 14_000_000 < unsent_bytes(connection) < 17_000_000
        proxy.heal()
        assert await storing == [b"OK"]
        await until(lambda: unsent_bytes(connection) == 0)
        await connection.aclose()


# The decisions of the deadline alone


class Watched:
    """A deadline, and the silence that it reports."""

    def __init__(self, timeout: float) -> None:
        self.unsent = 0
        self.is_silent = False
        self.deadline = Deadline(lambda: True, self._fall_silent, lambda: self.unsent)
        self.deadline.begin(timeout)

    def _fall_silent(self) -> None:
        self.is_silent = True


async def test_deadline_counts_no_time_in_which_the_loop_was_blocked() -> None:
    watched = Watched(0.05)
    await asyncio.sleep(0.03)
    watched.deadline.received(20_000)
    time.sleep(1.0)  # noqa: ASYNC251 - holds up the loop
    watched.deadline.received(1)
    await asyncio.sleep(0.02)
    assert not watched.is_silent
    await until(lambda: watched.is_silent)


async def test_deadline_gives_the_other_end_the_time_in_which_the_loop_was_blocked() -> None:
    watched = Watched(0.5)
    time.sleep(0.9)  # noqa: ASYNC251 - holds up the loop, and with it a sender in this process
    await asyncio.sleep(0.1)
    assert not watched.is_silent
    await until(lambda: watched.is_silent)


async def test_deadline_of_a_small_request_gains_nothing_from_an_earlier_large_one() -> None:
    watched = Watched(0.2)
    watched.unsent = LARGE_BYTES * 2
    watched.deadline.sending(LARGE_BYTES * 2)
    watched.unsent = 0  # The large request was sent and answered.
    watched.deadline.begin(0.2)
    await asyncio.sleep(0.3)
    assert watched.is_silent
