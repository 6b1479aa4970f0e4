"""ValkeyLevel2 on a real server: lifetimes, order, pages, refusals, broken connections."""

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

from tests.support import until
from tiercache import AgentCache, ConnectionOptions, L2CommandError, L2UnavailableError, TierOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.level2.level2 import Stored
from tiercache.engine.level2.writes import Delete, WriteSet
from tiercache.stores.valkey.commands import WriteCommands
from tiercache.stores.valkey.errors import map_error
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2, _packed_get
from tiercache.testing import ChaosProxy


@pytest.fixture(params=[True, False], ids=["multiplexed", "pooled"])
def multiplexed(request: pytest.FixtureRequest) -> bool:
    """Whether reads share a connection."""
    return bool(request.param)


@pytest.fixture
def settings(url: str, multiplexed: bool) -> Settings:
    """How both kinds of connections are made."""
    return Settings.from_client(client_from_url(url), multiplexes=multiplexed)


@pytest.fixture
async def level2(settings: Settings) -> AsyncIterator[ValkeyLevel2]:
    level2 = ValkeyLevel2(settings, timeout=5)
    yield level2
    await level2.aclose()


async def test_a_value_comes_with_what_is_left_of_its_life(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
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


async def test_what_is_no_string_is_there_without_a_value(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.hset("k", "a", "b")
    assert await level2.get("k") == Stored(None, None)
    assert await level2.get("other") is None  # Both replies were read: the connection is in step.
    assert await level2.get_values([b"k", b"other"]) == [None, None]


async def test_writes_take_effect_in_order_and_report_what_they_touched(
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


async def test_a_scan_sees_each_key_under_the_prefix_and_takes_it_literally(
    level2: ValkeyLevel2, plain: valkey.Valkey
) -> None:
    wanted = {f"a*[x]?\\:{n}".encode() for n in range(3000)} | {b"a*[x]?\\:\xff"}
    plain.mset(dict.fromkeys([*wanted, "abx", "a*[x]?", "axx:1"], "v"))
    pages = [page async for page in level2.scan("a*[x]?\\:")]
    assert {key for page in pages for key in page} == wanted


async def test_many_reads_at_once_take_turns_on_a_bounded_number_of_connections(
    level2: ValkeyLevel2, plain: valkey.Valkey
) -> None:
    plain.set("k", "v")
    before = plain.info("clients")["connected_clients"]
    results = await asyncio.gather(*(level2.get("k") for _ in range(2000)))
    assert set(results) == {Stored(b"v", None)}
    assert plain.info("clients")["connected_clients"] - before <= 32


async def test_a_cancelled_read_does_not_answer_the_next_one(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.set("a", "a")
    plain.set("b", "b")
    for steps in range(12):
        reading = asyncio.create_task(level2.get("a"))
        for _ in range(steps):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await level2.get("b") == Stored(b"b", None)


async def test_killed_connections_are_replaced(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.set("k", "v")
    await asyncio.gather(*(level2.get("k") for _ in range(10)))
    plain.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.05)
    assert await level2.get("k") == Stored(b"v", None)
    assert await level2.apply([WriteSet("k", b"w", None)]) == [1]


async def test_a_server_that_is_silent_is_unavailable_in_time(plain: valkey.Valkey, settings: Settings) -> None:
    level2 = ValkeyLevel2(settings, timeout=0.05)
    await level2.ping()
    pid = plain.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        await _all_time_out(level2)
    finally:
        os.kill(pid, signal.SIGCONT)
    plain.set("k", "w")
    assert await level2.get("k") == Stored(b"w", None)  # No answer of before is taken for this one's.
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


async def test_those_who_queue_for_a_silent_server_do_not_each_wait_in_turn(
    plain: valkey.Valkey, settings: Settings
) -> None:
    level2 = ValkeyLevel2(replace(settings, max_connections=2), timeout=0.3)
    await level2.ping()
    pid = plain.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):  # In turn it would be 200 / 2 * 0.3 seconds.
            results = await asyncio.gather(*(level2.get("k") for _ in range(200)), return_exceptions=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {type(result) for result in results} == {L2UnavailableError}
    assert await level2.get("k") is None
    await level2.aclose()


async def test_refusals_are_errors_of_their_own_kind(plain: valkey.Valkey, server: EmbeddedValkey) -> None:
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


async def test_a_full_server_refuses_writes_and_answers_reads(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
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
        (valkey_errors.AuthenticationError("wrong"), L2CommandError),
        (valkey_errors.AuthorizationError("no"), L2CommandError),
        (valkey_errors.NoPermissionError("NOPERM"), L2CommandError),
        (valkey_errors.OutOfMemoryError("OOM"), L2CommandError),
        (valkey_errors.ResponseError("ERR unknown command"), L2CommandError),
        (valkey_errors.ConnectionError("gone"), L2UnavailableError),
        (valkey_errors.BusyLoadingError("LOADING"), L2UnavailableError),
        (valkey_errors.TimeoutError("slow"), L2UnavailableError),
        (valkey_errors.ReadOnlyError("READONLY"), L2UnavailableError),
        (valkey_errors.ResponseError("MASTERDOWN Link with MASTER is down"), L2UnavailableError),
        (valkey_errors.ResponseError("BUSY Valkey is busy running a script"), L2UnavailableError),
        (valkey_errors.InvalidResponse("protocol"), L2UnavailableError),
        (TimeoutError(), L2UnavailableError),
        (OSError("no route"), L2UnavailableError),
        (valkey_errors.DataError("our defect"), None),
        (TypeError("our defect"), None),
    ],
)
def test_every_client_error_has_its_place(error: Exception, expected: type[Exception] | None) -> None:
    mapped = map_error(error, "GET")
    assert mapped is None if expected is None else type(mapped) is expected


async def test_reads_under_which_the_connection_ends_are_made_again(url: str, plain: valkey.Valkey) -> None:
    keys = [f"k{n}" for n in range(20)]
    plain.mset({key: key for key in keys})
    async with ChaosProxy(url) as proxy:
        level2 = ValkeyLevel2(Settings.from_client(client_from_url(proxy.url)), timeout=5)
        assert await level2.get("k0") == Stored(b"k0", None)
        reads = [asyncio.create_task(level2.get(key)) for key in keys]
        await asyncio.sleep(0)  # They are sent.
        proxy.kill()
        assert await asyncio.gather(*reads) == [Stored(key.encode(), None) for key in keys]
        await level2.aclose()


@pytest.mark.parametrize("key", ["a", "with spaces\r\n", "ünï:€:𝄞", "x" * 512])
def test_a_read_is_packed_as_the_client_packs_it(key: str) -> None:
    # Not seen from outside: what a server does not understand is asked once more, the longer way.
    assert _packed_get(key) == pack_command(("GET", key)) + pack_command(("PTTL", key))


async def test_a_connection_that_was_reset_while_idle_is_not_used_again(url: str, multiplexed: bool) -> None:
    settings_of = ConnectionOptions(multiplexed=multiplexed)
    async with (
        ChaosProxy(url) as proxy,
        AgentCache.from_url(proxy.url, name="test", kv=TierOptions(l1=False), connection=settings_of) as cache,
    ):
        await cache.kv.set("k", "stored")
        assert await cache.kv.get("k") == "stored"
        exchanges = cache._engine.runtime.level2._level2._exchanges  # type: ignore[union-attr]
        proxy.kill()
        # The loop notices the reset; nobody reads on the connection.
        if multiplexed:
            await until(lambda: not exchanges._line.is_open)
        else:
            await until(lambda: all(connection._writer.is_closing() for connection in exchanges._idle))
        assert await cache.kv.get("k") == "stored"


async def test_a_key_that_its_index_refuses_is_reported_and_no_other(
    level2: ValkeyLevel2, plain: valkey.Valkey
) -> None:
    plain.set("no index", "x")
    writes = [WriteSet(key, b"v", None, indexes=indexes) for key, indexes in (("a", ("no index",)), ("b", ("index",)))]
    refused, result = await level2.apply([*writes])
    assert isinstance(refused, L2CommandError)
    assert result == 1
    assert plain.zrange("index", 0, -1) == [b"b"]


async def test_a_defect_reaches_who_waits_for_the_batch_and_spoils_nothing(
    level2: ValkeyLevel2, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results(*_: object) -> None:
        raise ZeroDivisionError

    await level2.apply([WriteSet("k", b"v", None)])
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(WriteCommands, "results", results)
        async with asyncio.timeout(5):
            with pytest.raises(ZeroDivisionError):
                await level2.apply([WriteSet("k", b"v", None)])
    assert await level2.apply([WriteSet("k", b"v", None)]) == [1]


async def test_a_connection_that_ends_before_a_batch_is_sent_is_no_answer(
    level2: ValkeyLevel2, monkeypatch: pytest.MonkeyPatch
) -> None:
    await level2.apply([WriteSet("k", b"v", None)])
    line = level2._writer._line
    assert line is not None
    # It looks open until it is used, as one does whose end has not been read yet.
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(type(line), "is_open", True)
        await line.aclose()
        with pytest.raises(L2UnavailableError):
            await level2.apply([WriteSet("k", b"v", None)])
    assert await level2.apply([WriteSet("k", b"v", None)]) == [1]
