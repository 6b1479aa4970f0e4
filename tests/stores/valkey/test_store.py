"""ValkeyLevel2 on a real server: lifetimes, order of writes, scans, refusals, lost connections."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import valkey
from libvalkey import pack_command
from valkey import exceptions as valkey_errors

from tests.seams import StoreView, fail_results, hide_connection_end, idle_connections, internals, shared_connection
from tests.support import until
from tiercache import AgentCache, ConnectionOptions, L2CommandError, L2UnavailableError, TierOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.level2.level2 import Stored
from tiercache.engine.level2.writes import Delete, WriteSet
from tiercache.errors import L2LoginError, L2NotNowError, L2ReplicaError
from tiercache.stores.valkey.errors import map_error
from tiercache.stores.valkey.pool import _packed_read
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2
from tiercache.testing import ChaosProxy


@pytest.fixture(params=[True, False], ids=["multiplexed", "pooled"])
def multiplexed(request: pytest.FixtureRequest) -> bool:
    """Whether exchanges share a multiplexed connection, or each has a plain connection."""
    return bool(request.param)


@pytest.fixture
def settings(url: str, multiplexed: bool) -> Settings:
    """The settings for the kind of connections that ``multiplexed`` selects."""
    return Settings.from_client(client_from_url(url), multiplexes=multiplexed)


@pytest.fixture
async def level2(settings: Settings) -> AsyncIterator[ValkeyLevel2]:
    level2 = ValkeyLevel2(settings, timeout=5)
    yield level2
    await level2.aclose()


async def test_l2_reads_a_value_with_its_remaining_lifetime(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    assert await level2.get("k") is None
    plain.set("k", b"\xff\x00")
    assert await level2.get("k") == Stored(b"\xff\x00", None)
    plain.set("k", "v", px=5000)
    stored = await level2.get("k")
    assert stored is not None
    assert stored.ttl is not None
    assert 4 < stored.ttl <= 5
    plain.set("empty", "")
    assert await level2.get("empty") == Stored(b"", None)


async def test_l2_reads_no_value_from_a_key_that_is_not_a_string(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.hset("k", "a", "b")
    assert await level2.get("k") == Stored(None, None)
    assert await level2.get("other") is None  # The connection is in step: the first read took both replies.
    assert await level2.get_values([b"k", b"other"]) == [None, None]


async def test_l2_applies_writes_in_order_and_counts_the_changed_keys(
    level2: ValkeyLevel2, plain: valkey.Valkey
) -> None:
    plain.set("c", "x")
    results = await level2.apply(
        [
            WriteSet("a", b"1", None),
            WriteSet("a", b"2", 77),
            WriteSet("b", b"x" * 1_000_000, 0.0004),
            Delete(("c", "never", b"\xff")),
            WriteSet("c", b"3", None),
        ]
    )
    assert results == [1, 1, 1, 1, 1]
    assert (plain.get("a"), plain.ttl("a"), plain.get("c"), plain.ttl("c")) == (b"2", 77, b"3", -1)


async def test_l2_scans_every_key_under_a_literal_prefix(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    wanted = {f"a*[x]?\\:{n}".encode() for n in range(3000)} | {b"a*[x]?\\:\xff"}
    plain.mset(dict.fromkeys([*wanted, "abx", "a*[x]?", "axx:1"], "v"))
    pages = [page async for page in level2.scan("a*[x]?\\:")]
    assert {key for page in pages for key in page} == wanted


async def test_l2_bounds_its_connections_when_many_reads_arrive_at_once(
    level2: ValkeyLevel2, plain: valkey.Valkey
) -> None:
    plain.set("k", "v")
    before = plain.info("clients")["connected_clients"]
    results = await asyncio.gather(*(level2.get("k") for _ in range(2000)))
    assert set(results) == {Stored(b"v", None)}
    assert plain.info("clients")["connected_clients"] - before <= 32


async def test_l2_reads_the_right_value_after_a_cancelled_read(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.set("a", "a")
    plain.set("b", "b")
    for steps in range(12):
        reading = asyncio.create_task(level2.get("a"))
        for _ in range(steps):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await level2.get("b") == Stored(b"b", None)


async def test_l2_reconnects_after_the_server_killed_its_connections(
    level2: ValkeyLevel2, plain: valkey.Valkey
) -> None:
    assert await level2.apply([WriteSet("k", b"v", None)]) == [1]
    await asyncio.gather(*(level2.get("k") for _ in range(10)))
    plain.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.05)
    assert await level2.get("k") == Stored(b"v", None)
    assert await level2.apply([WriteSet("k", b"w", None)]) == [1]


async def test_l2_raises_unavailable_in_time_when_the_server_is_silent(
    plain: valkey.Valkey, settings: Settings
) -> None:
    level2 = ValkeyLevel2(settings, timeout=0.05)
    await level2.ping()
    pid = plain.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        await _all_time_out(level2)
    finally:
        os.kill(pid, signal.SIGCONT)
    plain.set("k", "w")
    assert await level2.get("k") == Stored(b"w", None)  # A late reply to an earlier read is not taken for this one.
    await level2.aclose()


async def _all_time_out(level2: ValkeyLevel2) -> None:
    for call in (
        lambda: level2.get("k"),
        lambda: level2.apply([WriteSet("k", b"v", None)]),
        lambda: level2.get_values([b"k"]),
        lambda: anext(level2.scan("k")),
        level2.ping,
    ):
        with pytest.raises(L2UnavailableError, match="in time"):
            await call()


async def test_l2_fails_queued_reads_together_when_the_server_is_silent(
    plain: valkey.Valkey, settings: Settings
) -> None:
    level2 = ValkeyLevel2(replace(settings, max_connections=2), timeout=0.3)
    await level2.ping()
    pid = plain.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):  # One after the other they would take 200 / 2 * 0.3 seconds.
            results = await asyncio.gather(*(level2.get("k") for _ in range(200)), return_exceptions=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {type(result) for result in results} == {L2UnavailableError}
    assert await level2.get("k") is None
    await level2.aclose()


async def test_l2_raises_a_command_error_when_the_server_refuses(plain: valkey.Valkey, server: EmbeddedValkey) -> None:
    plain.acl_setuser("reader", enabled=True, passwords=["+pw"], categories=["+@read", "+@connection"], keys=["a*"])
    try:
        level2 = ValkeyLevel2(
            Settings.from_client(client_from_url(f"{server.url}?username=reader&password=pw")), timeout=5
        )
        assert await level2.get("a") is None
        with pytest.raises(L2CommandError, match="refused"):
            await level2.get("b")
        assert await level2.get("a") is None
        results = await level2.apply([WriteSet("a", b"v", None), Delete(("a",))])
        assert all(isinstance(result, L2CommandError) for result in results)
        await level2.aclose()
        wrong = ValkeyLevel2(
            Settings.from_client(client_from_url(f"{server.url}?username=reader&password=no")), timeout=5
        )
        with pytest.raises(L2CommandError, match="credentials"):
            await wrong.ping()
        await wrong.aclose()
    finally:
        plain.acl_deluser("reader")


async def test_l2_reads_but_does_not_write_when_the_server_is_full(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.set("k", "v")
    plain.config_set("maxmemory", "1mb")
    try:
        (result,) = await level2.apply([WriteSet("n", b"x" * 10_000, None)])
        assert isinstance(result, L2CommandError)
        assert "maxmemory" in str(result)
        assert await level2.get("k") == Stored(b"v", None)
    finally:
        plain.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (valkey_errors.AuthenticationError("wrong"), L2LoginError),
        (valkey_errors.AuthorizationError("no"), L2LoginError),
        (valkey_errors.NoPermissionError("NOPERM"), L2CommandError),
        (valkey_errors.OutOfMemoryError("OOM"), L2CommandError),
        (valkey_errors.ResponseError("ERR unknown command"), L2CommandError),
        (valkey_errors.ConnectionError("gone"), L2UnavailableError),
        (valkey_errors.BusyLoadingError("LOADING"), L2UnavailableError),
        (valkey_errors.TimeoutError("slow"), L2UnavailableError),
        (valkey_errors.ReadOnlyError("You can't write against a read only replica."), L2ReplicaError),
        (valkey_errors.ResponseError("MASTERDOWN Link with MASTER is down"), L2NotNowError),
        (valkey_errors.ResponseError("BUSY Valkey is busy running a script"), L2NotNowError),
        (valkey_errors.ResponseError("NOREPLICAS Not enough good replicas to write."), L2NotNowError),
        (valkey_errors.ResponseError("MISCONF Errors writing to the AOF file: No space left"), L2NotNowError),
        (valkey_errors.ResponseError("TRYAGAIN Multiple keys request during rehashing of slot"), L2NotNowError),
        (valkey_errors.ResponseError("CLUSTERDOWN The cluster is down"), L2NotNowError),
        (valkey_errors.ResponseError("max number of clients + cluster connections reached"), L2NotNowError),
        (valkey_errors.ConnectionError("max number of clients reached"), L2UnavailableError),
        (
            valkey_errors.ResponseError("ERR Error running script (call to f_0): @user_script:1: -MISCONF no disk"),
            L2NotNowError,
        ),
        (
            valkey_errors.ExecAbortError("Transaction discarded because of: NOREPLICAS Not enough replicas"),
            L2NotNowError,
        ),
        (valkey_errors.ExecAbortError("Transaction discarded because of previous errors."), L2CommandError),
        (valkey_errors.ResponseError("ERR a message about BUSY"), L2CommandError),
        (valkey_errors.InvalidResponse("protocol"), L2UnavailableError),
        (TimeoutError(), L2UnavailableError),
        (OSError("no route"), L2UnavailableError),
        (valkey_errors.DataError("our defect"), None),
        (TypeError("our defect"), None),
    ],
)
def test_l2_maps_each_client_error_to_one_cache_error(error: Exception, expected: type[Exception] | None) -> None:
    mapped = map_error(error, "GET")
    assert mapped is None if expected is None else type(mapped) is expected


async def test_l2_retries_reads_in_flight_after_a_lost_connection(url: str, plain: valkey.Valkey) -> None:
    keys = [f"k{n}" for n in range(20)]
    plain.mset({key: key for key in keys})
    async with ChaosProxy(url) as proxy:
        level2 = ValkeyLevel2(Settings.from_client(client_from_url(proxy.url)), timeout=5)
        assert await level2.get("k0") == Stored(b"k0", None)
        reads = [asyncio.create_task(level2.get(key)) for key in keys]
        await asyncio.sleep(0)  # The reads are sent.
        proxy.kill()
        assert await asyncio.gather(*reads) == [Stored(key.encode(), None) for key in keys]
        await level2.aclose()


@pytest.mark.parametrize("key", ["a", "with spaces\r\n", "ünï:€:𝄞", "x" * 512])
def test_l2_packs_a_read_as_the_client_library_does(key: str) -> None:
    # No other test sees a wrong packing: the store repeats a read that ended the connection, and packs it differently.
    assert _packed_read(key) == pack_command(("GET", key)) + pack_command(("PTTL", key))


async def test_l2_reconnects_after_an_idle_connection_was_reset(url: str, multiplexed: bool) -> None:
    settings_of = ConnectionOptions(multiplexed=multiplexed)
    async with (
        ChaosProxy(url) as proxy,
        AgentCache.from_url(proxy.url, name="test", kv=TierOptions(l1=False), connection=settings_of) as cache,
    ):
        await cache.kv.set("k", "stored")
        assert await cache.kv.get("k") == "stored"
        pool = internals(cache).store.pool
        proxy.kill()
        # The loop notices the reset; no caller reads on the connection.
        if multiplexed:
            await until(lambda: not shared_connection(pool).is_open)
        else:
            assert idle_connections(pool)
            await until(lambda: not any(connection.is_open for connection in idle_connections(pool)))
        assert await cache.kv.get("k") == "stored"


async def test_l2_reports_the_one_key_that_its_index_refuses(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.set("no index", "x")
    writes = [WriteSet(key, b"v", None, indexes=indexes) for key, indexes in (("a", ("no index",)), ("b", ("index",)))]
    refused, result = await level2.apply([*writes])
    assert isinstance(refused, L2CommandError)
    assert result == 1
    assert plain.zrange("index", 0, -1) == [b"b"]


async def test_l2_raises_a_defect_to_the_caller_and_writes_the_next_batch(
    level2: ValkeyLevel2, monkeypatch: pytest.MonkeyPatch
) -> None:
    await level2.apply([WriteSet("k", b"v", None)])
    with monkeypatch.context() as patch:
        fail_results(patch)
        async with asyncio.timeout(5):
            with pytest.raises(ZeroDivisionError):
                await level2.apply([WriteSet("k", b"v", None)])
    assert await level2.apply([WriteSet("k", b"v", None)]) == [1]


async def test_l2_raises_unavailable_when_the_connection_ends_before_a_batch_is_sent(
    level2: ValkeyLevel2, monkeypatch: pytest.MonkeyPatch
) -> None:
    await level2.apply([WriteSet("k", b"v", None)])
    connection = StoreView(level2).writer_connection
    assert connection is not None
    with monkeypatch.context() as patch:
        hide_connection_end(patch, connection)
        await connection.aclose()
        with pytest.raises(L2UnavailableError):
            await level2.apply([WriteSet("k", b"v", None)])
    assert await level2.apply([WriteSet("k", b"v", None)]) == [1]
