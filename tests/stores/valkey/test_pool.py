"""The connection pools: one shared opening, bounded plain connections, repetition, deadlines, closing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import valkey
from valkey.asyncio.connection import UnixDomainSocketConnection
from valkey.exceptions import ConnectionError as ValkeyConnectionError

from tests.seams import (
    end_in_silence,
    hide_connection_end,
    idle_connections,
    is_reset,
    shared_connection,
    transport_of,
    unsent_bytes,
)
from tests.support import until
from tiercache import L2UnavailableError
from tiercache.stores.valkey.connection import PlainConnection, open_plain
from tiercache.stores.valkey.pool import PlainPool, SharedConnection
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.testing import ChaosProxy

MakePlainPool = Callable[..., PlainPool]


def settings_of(url: str, *, multiplexes: bool = True) -> Settings:
    return Settings.from_client(client_from_url(url), multiplexes=multiplexes)


# One multiplexed connection


def shared(url: str) -> SharedConnection:
    return SharedConnection(settings_of(url), timeout=1, connect_timeout=5)


async def test_pool_repeats_only_what_may_be_repeated_after_a_lost_connection(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        pool = shared(proxy.url)
        assert await pool.exchange([("PING",)], 5) == [b"PONG"]
        proxy.stall()
        once = asyncio.create_task(pool.exchange([("INCR", "n")], 5))
        again = [asyncio.create_task(pool.exchange([("ECHO", str(n))], 5, may_repeat=True)) for n in range(20)]
        await asyncio.sleep(0.02)
        proxy.kill()
        proxy.heal()
        assert await asyncio.gather(*again) == [[str(n).encode()] for n in range(20)]
        with pytest.raises(ValkeyConnectionError):
            await once
        assert proxy.connection_count() == 1  # All callers share the opening of the new connection.
        await pool.aclose()


async def test_pool_shares_one_opening_among_concurrent_callers(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        pool = shared(proxy.url)
        callers = [asyncio.create_task(pool.exchange([("ECHO", str(n))], 5)) for n in range(50)]
        await asyncio.sleep(0)
        callers[0].cancel()  # The caller that began the opening is not the only one that waits for it.
        replies = await asyncio.gather(*callers, return_exceptions=True)
        assert replies[1:] == [[str(n).encode()] for n in range(1, 50)]
        assert proxy.connection_count() == 1
        await pool.aclose()


async def test_pool_answers_the_exchanges_in_flight_before_it_closes(url: str) -> None:
    pool = shared(url)
    await pool.exchange([("PING",)], 5)
    in_flight = asyncio.create_task(pool.exchange([("ECHO", "last")], 5))
    await asyncio.sleep(0)
    await pool.aclose()
    assert await in_flight == [b"last"]


async def fill(pool: SharedConnection, *, count: int) -> list[asyncio.Task[list[Any]]]:
    """Ask for ``count`` keys of 1 KB, not all in one step of the loop, and return the tasks that wait."""
    asking: list[asyncio.Task[list[Any]]] = []
    for start in range(0, count, 500):
        asking += [asyncio.create_task(pool.exchange([("GET", f"{n:01000}")], 30)) for n in range(start, start + 500)]
        await asyncio.sleep(0)
    return asking


async def test_pool_sends_no_more_while_the_network_takes_nothing(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        pool = shared(proxy.url)
        await pool.exchange([("PING",)], 5)
        proxy.stall("to_server")
        # More than the kernel takes.
        asking = await fill(pool, count=20_000)
        await until(lambda: shared_connection(pool).is_full)
        assert unsent_bytes(shared_connection(pool)) < 8_000_000
        for task in asking[10_000:]:
            task.cancel()
        proxy.heal()
        assert await asyncio.gather(*asking[:10_000]) == [[None]] * 10_000
        await pool.aclose()


async def test_pool_fails_exchanges_that_wait_for_room_when_the_connection_falls_silent(url: str) -> None:
    async with ChaosProxy(url) as proxy:
        pool = shared(proxy.url)
        await pool.exchange([("PING",)], 5)
        proxy.stall("to_server")
        asking = await fill(pool, count=20_000)
        await until(lambda: shared_connection(pool).is_full)
        last = asyncio.create_task(pool.exchange([("GET", "k")], 30, may_repeat=True))
        await asyncio.sleep(0)
        end_in_silence(shared_connection(pool))
        outcomes = await asyncio.gather(*asking, last, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {TimeoutError}
        await pool.aclose()


# Plain connections


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(url) as proxy:
        yield proxy


@pytest.fixture
async def make_pool(proxy: ChaosProxy) -> AsyncIterator[MakePlainPool]:
    """Make pools behind ``proxy``, closed at the end of the test."""
    made: list[PlainPool] = []

    def make(max_connections: int = 4, timeout: float = 1, url: str = proxy.url) -> PlainPool:
        settings = replace(settings_of(url, multiplexes=False), max_connections=max_connections)
        made.append(PlainPool(settings, timeout=timeout, connect_timeout=5))
        return made[-1]

    yield make
    for pool in made:
        await pool.aclose()


async def test_plain_pool_bounds_its_connections_and_uses_them_again(
    make_pool: MakePlainPool, proxy: ChaosProxy
) -> None:
    pool = make_pool(max_connections=3)
    for _ in range(2):
        replies = await asyncio.gather(*(pool.exchange([("ECHO", str(n))], 5) for n in range(50)))
        assert replies == [[str(n).encode()] for n in range(50)]
    assert proxy.connection_count() == 3
    assert len(idle_connections(pool)) == 3


async def test_plain_pool_waits_for_a_free_connection_longer_than_a_deadline(
    make_pool: MakePlainPool, proxy: ChaosProxy
) -> None:
    pool = make_pool(max_connections=1)
    await pool.exchange([("PING",)], 5)
    proxy.latency(0.1)
    began = time.monotonic()
    replies = await asyncio.gather(*(pool.exchange([("PING",)], 0.35) for _ in range(5)))
    assert replies == [[b"PONG"]] * 5
    assert time.monotonic() - began > 0.35


async def test_plain_pool_fails_waiting_exchanges_after_one_timed_out(
    make_pool: MakePlainPool, proxy: ChaosProxy
) -> None:
    pool = make_pool(max_connections=1)
    await pool.exchange([("PING",)], 5)
    proxy.stall()
    began = time.monotonic()
    outcomes = await asyncio.gather(*(pool.exchange([("PING",)], 0.3) for _ in range(10)), return_exceptions=True)
    assert time.monotonic() - began < 0.6
    assert [type(outcome) for outcome in outcomes] == [TimeoutError] + [L2UnavailableError] * 9
    proxy.heal()
    assert await pool.exchange([("PING",)], 5) == [b"PONG"]


async def test_plain_pool_drops_idle_connections_after_a_timeout(make_pool: MakePlainPool, proxy: ChaosProxy) -> None:
    pool = make_pool()
    await asyncio.gather(*(pool.exchange([("PING",)], 5) for _ in range(4)))
    assert len(idle_connections(pool)) == 4
    proxy.stall()
    with pytest.raises(TimeoutError):
        await pool.exchange([("PING",)], 0.1)
    assert idle_connections(pool) == []
    proxy.heal()
    await until(lambda: proxy.connection_count() == 0)


@pytest.mark.parametrize("may_repeat", [True, False])
async def test_plain_pool_replaces_idle_connections_that_ended(
    make_pool: MakePlainPool, proxy: ChaosProxy, plain: valkey.Valkey, may_repeat: bool
) -> None:
    pool = make_pool()
    await asyncio.gather(*(pool.exchange([("PING",)], 5) for _ in range(4)))
    proxy.kill()
    await until(lambda: not any(connection.is_open for connection in idle_connections(pool)))
    assert len(idle_connections(pool)) == 4
    assert await pool.exchange([("INCR", "n")], 5, may_repeat=may_repeat) == [1]
    assert plain.get("n") == b"1"
    assert len(idle_connections(pool)) == 1


async def test_plain_pool_repeats_only_what_may_be_repeated_after_a_lost_connection(
    make_pool: MakePlainPool, proxy: ChaosProxy
) -> None:
    pool = make_pool()
    for may_repeat in (True, False):
        await asyncio.gather(*(pool.exchange([("PING",)], 5) for _ in range(4)))
        proxy.stall()
        exchanging = asyncio.create_task(pool.exchange([("ECHO", "x")], 5, may_repeat=may_repeat))
        await asyncio.sleep(0.02)  # The command is sent.
        proxy.kill()
        proxy.heal()
        if may_repeat:
            assert await exchanging == [b"x"]
            assert proxy.connection_count() == 1  # The other idle connections had ended too.
        else:
            with pytest.raises(ValkeyConnectionError):
                await exchanging


async def test_plain_pool_never_repeats_after_a_new_connection_is_lost(
    make_pool: MakePlainPool, plain: valkey.Valkey
) -> None:
    pool = make_pool()
    # The server carries out INCR, then ends all connections, so that PING has no reply.
    commands = [("INCR", "n"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"), ("PING",)]
    with pytest.raises(ValkeyConnectionError):
        await pool.exchange(commands, 5, may_repeat=True)
    assert plain.get("n") == b"1"


async def test_plain_pool_keeps_no_connection_on_which_an_exchange_was_cancelled(
    make_pool: MakePlainPool, proxy: ChaosProxy
) -> None:
    pool = make_pool(max_connections=1)
    await pool.exchange([("PING",)], 5)
    proxy.latency(0.05)
    cancelled = asyncio.create_task(pool.exchange([("ECHO", "gone")], 5))
    await asyncio.sleep(0.02)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert idle_connections(pool) == []
    assert await pool.exchange([("ECHO", "next")], 5) == [b"next"]


async def test_plain_pool_answers_the_exchanges_in_flight_before_it_closes(
    make_pool: MakePlainPool, proxy: ChaosProxy
) -> None:
    pool = make_pool(max_connections=2)
    await pool.exchange([("PING",)], 5)
    proxy.latency(0.05)
    in_flight = [asyncio.create_task(pool.exchange([("ECHO", str(n))], 5)) for n in range(4)]
    await asyncio.sleep(0.02)
    await pool.aclose()
    outcomes = await asyncio.gather(*in_flight, return_exceptions=True)
    assert outcomes[:2] == [[b"0"], [b"1"]]
    # Exchanges that waited for a connection are refused.
    assert [type(outcome) for outcome in outcomes[2:]] == [L2UnavailableError] * 2
    await until(lambda: proxy.connection_count() == 0)
    with pytest.raises(L2UnavailableError, match="closed"):
        await pool.exchange([("PING",)], 5)


async def test_plain_pool_closes_within_its_deadline_when_the_server_is_silent(
    make_pool: MakePlainPool, proxy: ChaosProxy
) -> None:
    pool = make_pool(timeout=0.2)
    await pool.exchange([("PING",)], 5)
    proxy.stall()
    in_flight = asyncio.create_task(pool.exchange([("PING",)], 60, may_repeat=True))
    await asyncio.sleep(0.02)
    began = time.monotonic()
    await pool.aclose()
    assert 0.15 < time.monotonic() - began < 1
    with pytest.raises(ValkeyConnectionError):
        await in_flight
    proxy.heal()
    await until(lambda: proxy.connection_count() == 0)


async def test_plain_pool_keeps_no_connection_that_was_opened_while_it_closed(
    make_pool: MakePlainPool, proxy: ChaosProxy
) -> None:
    # The default user takes any password, and opening waits for the answer to AUTH.
    pool = make_pool(timeout=0.1, url=proxy.url.replace("://", "://default:any@"))
    proxy.stall()
    opening = asyncio.create_task(pool.exchange([("PING",)], 5))
    await asyncio.sleep(0.02)
    await pool.aclose()
    proxy.heal()
    assert await opening == [b"PONG"]
    await until(lambda: proxy.connection_count() == 0)


async def test_plain_pool_repeats_once_if_no_idle_connection_was_known_to_have_ended(
    make_pool: MakePlainPool, proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool()
    await asyncio.gather(*(pool.exchange([("PING",)], 5) for _ in range(4)))
    proxy.kill()
    await until(lambda: not any(connection.is_open for connection in idle_connections(pool)))
    # As if this process had not noticed the end of the idle connections.
    hide_connection_end(monkeypatch, PlainConnection)
    assert await pool.exchange([("ECHO", "x")], 5, may_repeat=True) == [b"x"]
    assert len(idle_connections(pool)) == 1


class CarelessConnection(UnixDomainSocketConnection):
    """A connection that stays open when a read is broken off, unlike those of valkey-py."""

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        return await super().read_response(*arguments, **{**options, "disconnect_on_error": False})


async def test_plain_connection_closes_after_a_cancelled_exchange(url: str, plain: valkey.Valkey) -> None:
    connection = await open_plain(replace(settings_of(url), connection_class=CarelessConnection), 5)
    exchanging = asyncio.create_task(connection.exchange([("BLPOP", "list", 10)], 5))
    await until(lambda: plain.info("clients")["blocked_clients"] == 1)
    exchanging.cancel()
    await asyncio.gather(exchanging, return_exceptions=True)
    assert not connection.is_open
    with pytest.raises(ValkeyConnectionError):
        await connection.exchange([("ECHO", "x")], 5)


async def test_plain_connection_refuses_to_write_after_a_reset(proxy: ChaosProxy) -> None:
    connection = await open_plain(settings_of(proxy.url), 5)
    assert connection.is_open
    proxy.kill()
    # The loop has read the reset; valkey-py still takes the connection for connected.
    await until(lambda: is_reset(connection))
    assert transport_of(connection).is_connected
    assert not connection.is_open
    with pytest.raises(ValkeyConnectionError, match="ended"):
        await connection.post(("PING",), 5)
    await connection.aclose()
