"""Large entries over a slow link: every operation gets its value, and silence still ends a read in time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import valkey

from tests.requests import asking
from tests.seams import internals
from tests.tls import tls_in_front_of
from tiercache import AgentCache, CoherenceOptions, ConnectionOptions, L2UnavailableError, SessionOptions, TierOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import ChaosProxy

# 4 MB take 0.32 s at 100 Mbit/s, which is longer than the default ``l2_timeout``.
LARGE = "x" * 4_000_000
HUNDRED_MBIT = 12_500_000.0


@asynccontextmanager
async def opened(url: str, *, multiplexed: bool = True) -> AsyncIterator[tuple[AgentCache, ChaosProxy]]:
    """Yield a cache that reads every value from Valkey, and the proxy in front of Valkey."""
    no_l1 = TierOptions(l1=False)
    async with (
        ChaosProxy(url) as proxy,
        AgentCache.from_url(
            proxy.url,
            name="test",
            llm=no_l1,
            tool=no_l1,
            kv=no_l1,
            session=SessionOptions(l1=False),
            connection=ConnectionOptions(multiplexed=multiplexed),
            coherence=CoherenceOptions(tracking="off"),
        ) as cache,
    ):
        await cache.open()
        yield cache, proxy


async def loaded() -> str:
    raise AssertionError("the loader is called although Valkey has the value")


async def get(cache: AgentCache) -> Any:
    return await cache.kv.get("large")


async def get_many(cache: AgentCache) -> Any:
    return (await cache.kv.get_many(["large", "small:0", "absent"]))["large"]


async def get_many_with_commands(cache: AgentCache) -> Any:
    internals(cache).store.read_with_scripts(False)
    return await get_many(cache)


async def get_or_load(cache: AgentCache) -> Any:
    return (await cache.kv.get_or_load("large", loaded)).value


async def check(cache: AgentCache) -> Any:
    return (await cache.llm.check(asking("large"))).response


async def tool_check(cache: AgentCache) -> Any:
    return (await cache.tool.check("search", {"q": "large"})).response


async def session_get(cache: AgentCache) -> Any:
    return await cache.session.get("thread", "large", fresh=True)


async def session_get_all(cache: AgentCache) -> Any:
    return (await cache.session.get_all("thread"))["large"]


READS = [get, get_many, get_many_with_commands, get_or_load, check, tool_check, session_get, session_get_all]
Read = Callable[[AgentCache], Awaitable[Any]]


async def store_large(url: str, value: str) -> None:
    """Store ``value`` in every tier, and small values beside it, by a process next to Valkey."""
    async with AgentCache.from_url(url, name="test") as near:
        await near.kv.set("large", value)
        await near.kv.set_many({f"small:{n}": n for n in range(20)})
        await near.llm.store(asking("large"), value)
        await near.tool.store("search", {"q": "large"}, value)
        await near.session.set("thread", "large", value)
        await near.session.set("thread", "small", "y")


async def read_beside_small_reads(cache: AgentCache, read: Read) -> Any:
    """Return the value that ``read`` gets, and assert that small reads beside it succeed."""
    reading = asyncio.ensure_future(read(cache))
    await asyncio.sleep(0.02)
    small = await asyncio.gather(*(cache.kv.get(f"small:{n}") for n in range(20)))
    value = await reading
    assert small == list(range(20))
    stats = cache.local_stats()
    assert not stats.degraded
    assert {name: counters.l2_errors for name, counters in stats.tiers.items() if counters.l2_errors} == {}
    return value


@pytest.mark.parametrize("multiplexed", [True, False])
@pytest.mark.parametrize("read", READS)
async def test_slow_link_carries_large_values_to_every_read(url: str, read: Read, multiplexed: bool) -> None:
    await store_large(url, LARGE)
    async with opened(url, multiplexed=multiplexed) as (cache, proxy):
        proxy.slow_link(HUNDRED_MBIT)
        for _ in range(2):
            assert await read_beside_small_reads(cache, read) == LARGE


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_slow_link_with_a_long_round_trip_carries_large_values(url: str, multiplexed: bool) -> None:
    await store_large(url, LARGE[:2_000_000])
    async with opened(url, multiplexed=multiplexed) as (cache, proxy):
        proxy.slow_link(HUNDRED_MBIT, 0.08)
        for read in (get, get_or_load, check):
            assert await read_beside_small_reads(cache, read) == LARGE[:2_000_000]


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_slow_link_carries_a_scan(url: str, plain: valkey.Valkey, multiplexed: bool) -> None:
    keys = {f"test:{'k' * 400}:{n:04}".encode() for n in range(3000)}
    plain.mset(dict.fromkeys(keys, b""))
    async with opened(url, multiplexed=multiplexed) as (cache, proxy):
        # A page of a thousand keys takes half a second.
        proxy.slow_link(800_000.0)
        pages = [page async for page in internals(cache).unguarded_level2.scan(f"test:{'k' * 400}")]
        assert {key for page in pages for key in page} == keys
        assert not cache.local_stats().degraded


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_slow_link_carries_large_stores_and_the_writes_behind_them(
    url: str, plain: valkey.Valkey, multiplexed: bool
) -> None:
    async with opened(url, multiplexed=multiplexed) as (cache, proxy):
        # Each store takes a second and a half.
        proxy.slow_link(2_000_000.0, 0.02)
        value = LARGE[:3_000_000]
        results = await asyncio.gather(
            cache.kv.set("large", value),
            cache.kv.delete("small"),
            cache.session.set("thread", "large", value),
            cache.kv.get_or_load("loaded", lambda: value),
        )
        assert results[3].value == value
        await cache.flush_writes()
        stats = cache.local_stats()
        assert not stats.degraded
        assert sum(counters.fill_errors for counters in stats.tiers.values()) == 0
        proxy.heal()
        assert await cache.kv.get("loaded") == await cache.kv.get("large") == value
        assert await cache.session.get("thread", "large", fresh=True) == value


@asynccontextmanager
async def unix_socket_before(proxy: ChaosProxy, path: Path) -> AsyncIterator[str]:
    """Yield the URL of a Unix socket through which clients reach ``proxy``."""
    tasks: set[asyncio.Task[None]] = set()

    async def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The kernel must not take all bytes at once on behalf of the socket.
        inner = socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0))
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        inner_reader, inner_writer = await asyncio.open_connection(sock=inner)
        await asyncio.gather(passing(reader, inner_writer), passing(inner_reader, writer))
        for each in (writer, inner_writer):
            with suppress(OSError):
                await each.wait_closed()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    listening = await asyncio.start_unix_server(accepted, path)
    yield f"unix://{path}"
    listening.close()
    await asyncio.wait(tasks, timeout=5)


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_slow_link_behind_a_unix_socket_carries_large_values(
    proxy: ChaosProxy, tmp_path: Path, multiplexed: bool
) -> None:
    connection = ConnectionOptions(multiplexed=multiplexed)
    async with (
        unix_socket_before(proxy, tmp_path / "s") as url,
        AgentCache.from_url(url, name="test", connection=connection, kv=TierOptions(l1=False)) as cache,
    ):
        await cache.open()
        proxy.slow_link(5_000_000.0)
        await cache.kv.set("large", LARGE)
        assert await cache.kv.get("large") == LARGE
        assert not cache.local_stats().degraded


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_slow_link_carries_large_values_through_tls(
    server: EmbeddedValkey, plain: valkey.Valkey, tmp_path: Path, multiplexed: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    connection = ConnectionOptions(multiplexed=multiplexed)
    async with (
        tls_in_front_of(server, authority.issue_cert("127.0.0.1")) as port,
        ChaosProxy(f"valkey://127.0.0.1:{port}") as proxy,
    ):
        url = f"{proxy.url.replace('valkey', 'valkeys', 1)}?ssl_ca_certs={tmp_path / 'ca.pem'}"
        async with AgentCache.from_url(url, name="test", connection=connection, kv=TierOptions(l1=False)) as cache:
            await cache.open()
            proxy.slow_link(5_000_000.0)
            await cache.kv.set("large", LARGE * 2)
            assert await cache.kv.get("large") == LARGE * 2
            assert not cache.local_stats().degraded


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_silent_link_ends_a_large_read_in_the_middle(url: str, multiplexed: bool) -> None:
    await store_large(url, LARGE)
    async with opened(url, multiplexed=multiplexed) as (cache, proxy):
        proxy.slow_link(HUNDRED_MBIT)
        reading = asyncio.create_task(cache.session.get_all("thread"))
        await asyncio.sleep(0.1)
        proxy.half_open()
        with pytest.raises(L2UnavailableError, match="in time"):
            await reading
