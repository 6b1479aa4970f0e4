"""The introduction of a connection: the server shows the name and the library, at the cost of no round trip."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import valkey
import valkey.asyncio
from valkey.exceptions import ConnectionError as ValkeyConnectionError

import tiercache
from tests.seams import internals, unread_bytes
from tests.support import MakeCache, StallingProxy, until
from tiercache import AgentCache, ConnectionOptions, TierOptions
from tiercache.stores.valkey.connection import open_connection
from tiercache.stores.valkey.multiplexed import MultiplexedConnection
from tiercache.stores.valkey.settings import Settings, client_from_url


def introduced(plain: valkey.Valkey) -> list[dict[str, Any]]:
    """Return the connections that show the library of this package."""
    return [connection for connection in plain.client_list() if connection["lib-name"] == "tiercache"]


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_every_connection_shows_the_cache_and_the_library(
    make_cache: MakeCache, plain: valkey.Valkey, multiplexed: bool
) -> None:
    cache = make_cache(name="test", connection=ConnectionOptions(multiplexed=multiplexed), kv=TierOptions(l1=False))
    await cache.kv.set("k", "v")
    await asyncio.gather(*(cache.kv.get("k") for _ in range(10)))
    found = introduced(plain)
    # All connections but the one of this test.
    assert len(found) == len(plain.client_list()) - 1 >= 3
    assert {connection["name"] for connection in found} == {"tiercache:test"}
    assert {connection["lib-ver"] for connection in found} == {tiercache.__version__}


async def test_connections_that_are_made_again_show_the_cache(cache: AgentCache, plain: valkey.Valkey) -> None:
    before = {connection["id"] for connection in introduced(plain)}
    plain.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    plain.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    async def is_back() -> bool:
        await cache.kv.get("k")
        await cache.kv.get_or_load("k", lambda: "v")
        await cache.kv.delete("k")
        return len([found for found in introduced(plain) if found["id"] not in before]) >= 3

    await until(is_back, 20)
    assert {connection["name"] for connection in introduced(plain)} == {"tiercache:test"}


async def test_name_that_the_user_has_given_to_the_client_stays(url: str, plain: valkey.Valkey) -> None:
    async with AgentCache(valkey.asyncio.Valkey.from_url(url, client_name="worker-7"), name="test") as cache:
        await cache.kv.set("k", "v")
        assert {connection["name"] for connection in introduced(plain)} == {"worker-7"}


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_cache_works_for_a_user_that_may_not_name_connections(
    url: str, plain: valkey.Valkey, multiplexed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tiercache")
    rights = ["+@all", "-client|setname", "-client|setinfo"]
    plain.acl_setuser("nameless", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=rights)
    try:
        settings = ConnectionOptions(multiplexed=multiplexed)
        async with AgentCache.from_url(
            f"{url}?username=nameless&password=pw", name="test", connection=settings
        ) as cache:
            await cache.kv.set("k", "v")
            cache.clear_l1()
            assert await cache.kv.get("k") == "v"
            assert internals(cache).store.writer_connection.is_open
            assert introduced(plain) == []
    finally:
        plain.acl_deluser("nameless")
    assert caplog.records == []


@pytest.fixture
async def stalling(url: str) -> AsyncIterator[tuple[StallingProxy, str]]:
    proxy = StallingProxy(url)
    async with proxy as proxy_url:
        yield proxy, proxy_url


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_introduction_leaves_with_the_first_exchange(
    stalling: tuple[StallingProxy, str], multiplexed: bool
) -> None:
    proxy, url = stalling
    settings = Settings.from_client(client_from_url(url), multiplexes=multiplexed).named("test")
    proxy.stall_at = b"SETINFO"
    # The server answers nothing, and the connection is open all the same.
    connection = await open_connection(settings, 20)
    replies = asyncio.ensure_future(connection.exchange([("CLIENT", "GETNAME"), ("ECHO", "x")], 20))
    await proxy.stalled.wait()
    proxy.release()
    assert await replies == [b"tiercache:test", b"x"]
    await connection.aclose()


async def test_connection_that_the_server_refuses_at_once_is_not_used() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = Settings.from_client(client_from_url(url)).connection()
        await transport.connect()  # type: ignore[no-untyped-call]
        await until(lambda: unread_bytes(transport))
        with pytest.raises(ValkeyConnectionError, match="max number of clients"):
            MultiplexedConnection(transport)
        await transport.disconnect()
        async with AgentCache.from_url(url, name="test") as cache:
            result = await cache.kv.get_or_load("k", lambda: "loaded")
            assert (result.value, result.degraded) == ("loaded", True)
