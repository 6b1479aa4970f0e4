"""Batch reads: values and remaining lifetimes in one round trip, by script or by plain commands."""

from __future__ import annotations

import asyncio
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
from tiercache.testing import ChaosProxy


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


async def test_batch_read_of_many_keys_notices_silence_as_soon_as_a_read_of_one_key(
    proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    keys = [f"k{n}" for n in range(400 * CHUNK_COUNT)]
    level2 = ValkeyLevel2(Settings.from_client(client_from_url(proxy.url)), timeout=0.5)
    await level2.get_many(["k"])  # Connects now: opening a connection has a deadline of its own.
    assert len(await level2.get_many(keys)) == len(keys)
    proxy.stall()
    # The deadline of one key for each chunk would be 200 seconds.
    with pytest.raises(L2UnavailableError, match="in time"):
        await asyncio.wait_for(level2.get_many(keys), 30)
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
