"""Batch reads: values and remaining lifetimes in one round trip, by script or by plain commands."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import valkey

from tests.seams import StoreView
from tiercache import L2CommandError, L2UnavailableError
from tiercache.engine.level2.level2 import Stored
from tiercache.stores.valkey.reads import CHUNK_COUNT, BatchReader
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2


@pytest.fixture
async def level2(url: str) -> AsyncIterator[ValkeyLevel2]:
    level2 = ValkeyLevel2(Settings.from_client(client_from_url(url)), timeout=5)
    yield level2
    await level2.aclose()


@pytest.fixture
def scriptless(plain: valkey.Valkey) -> Any:
    """Forbid scripts to the default user for one test."""
    plain.execute_command("ACL", "SETUSER", "default", "-@scripting")
    yield
    plain.execute_command("ACL", "SETUSER", "default", "+@all")


async def read_some(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.set("a", b"\xff\x00")
    plain.set("b", "v", px=5000)
    plain.set("empty", "")
    plain.hset("hash", "a", "b")
    keys = ["a", "nothing", "b", "empty", "hash", "a"]
    found = await level2.get_many(keys)
    ttl = found[2].ttl if found[2] else None
    assert ttl is not None
    assert 4 < ttl <= 5
    assert found == [
        Stored(b"\xff\x00", None), None, Stored(b"v", ttl), Stored(b"", None), Stored(None, None),
        Stored(b"\xff\x00", None),
    ]  # fmt: skip
    assert await level2.get_many([]) == []


async def test_batch_read_returns_values_with_their_remaining_lifetimes(
    level2: ValkeyLevel2, plain: valkey.Valkey
) -> None:
    await read_some(level2, plain)
    plain.script_flush()
    await read_some(level2, plain)
    assert plain.info("commandstats")["cmdstat_eval_ro"]["calls"] >= 2


async def test_batch_read_uses_plain_commands_where_scripts_are_refused(
    level2: ValkeyLevel2, plain: valkey.Valkey, scriptless: None
) -> None:
    plain.config_resetstat()
    await read_some(level2, plain)
    await read_some(level2, plain)
    stats = plain.info("commandstats")
    assert stats["cmdstat_mget"]["calls"] == 2
    assert stats["cmdstat_eval_ro"]["rejected_calls"] == 1  # The second read does not send the script again.


@pytest.mark.parametrize("with_scripts", [True, False])
async def test_batch_read_takes_one_round_trip_for_any_number_of_keys(
    level2: ValkeyLevel2, plain: valkey.Valkey, with_scripts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"k{n}" for n in range(2 * CHUNK_COUNT + 1)]
    plain.mset({key: key for key in keys[::2]})
    store = StoreView(level2)
    store.read_with_scripts(with_scripts)
    exchanges = store.count_exchanges(monkeypatch)
    found = await level2.get_many(keys)
    assert found == [None if n % 2 else Stored(key.encode(), None) for n, key in enumerate(keys)]
    assert exchanges.calls == 1


async def test_batch_read_raises_when_the_server_refuses(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    plain.execute_command("ACL", "SETUSER", "default", "-mget")
    try:
        with pytest.raises(L2CommandError, match="MGET"):
            await level2.get_many(["a"])
    finally:
        plain.execute_command("ACL", "SETUSER", "default", "+@all")


async def test_batch_read_reconnects_after_a_lost_connection(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    await level2.get_many(["a"])
    plain.client_kill_filter(_type="normal", skipme=True)
    assert await level2.get_many(["a"]) == [None]


async def test_batch_read_has_a_longer_deadline_for_more_keys(url: str, plain: valkey.Valkey) -> None:
    pid = plain.info("server")["process_id"]
    level2 = ValkeyLevel2(Settings.from_client(client_from_url(url)), timeout=0.2)
    await level2.ping()

    async def read_while_stopped(count: int) -> int:
        await level2.get_many(["k"])  # Connects now: opening a connection has a deadline of its own.
        os.kill(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.4, os.kill, pid, signal.SIGCONT)
        try:
            return len(await level2.get_many([f"k{n}" for n in range(count)]))
        finally:
            await asyncio.sleep(0.4)

    with pytest.raises(L2UnavailableError):
        await read_while_stopped(1)
    assert await read_while_stopped(4 * CHUNK_COUNT) == 4 * CHUNK_COUNT
    await level2.aclose()


async def test_batch_read_keeps_its_script_while_the_server_cannot_answer() -> None:
    sent: list[str] = []

    async def loading(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        sent.extend(command[0] for command in commands)
        return [valkey.exceptions.ResponseError("MASTERDOWN Link with MASTER is down")] * len(commands)

    reader = BatchReader()
    for _ in range(2):
        with pytest.raises(L2UnavailableError):
            await reader.read(["a"], loading)
    assert sent == ["EVAL_RO", "EVAL_RO"]
