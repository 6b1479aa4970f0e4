"""A fleet during its replacement: both libraries under one name, and Valkey that stops."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import betterdb_agent_cache as betterdb
import pytest
import valkey

from tests.requests import HELLO, asking
from tests.support import until
from tiercache.compat import betterdb as compat
from tiercache.embedded import EmbeddedValkey

MakeCompat = Callable[..., compat.AgentCache]


async def test_compat_and_betterdb_read_each_other(peer: betterdb.AgentCache, make_compat: MakeCompat) -> None:
    cache = make_compat()
    tokens = {"input": 3, "output": 4}
    await peer.llm.store(HELLO, "theirs", betterdb.LlmStoreOptions(tokens=tokens))
    await cache.llm.store(asking("x"), "ours", compat.LlmStoreOptions(tokens=tokens))
    theirs, ours = await peer.llm.check(asking("x")), await cache.llm.check(HELLO)
    assert (ours.response, ours.input_tokens, ours.output_tokens) == ("theirs", 3, 4)
    assert (theirs.response, theirs.input_tokens, theirs.output_tokens) == ("ours", 3, 4)
    await peer.tool.store("search", {"q": 1}, "theirs")
    await cache.tool.store("search", {"q": 2}, "ours")
    assert (await cache.tool.check("search", {"q": 1})).response == "theirs"
    assert (await peer.tool.check("search", {"q": 2})).response == "ours"
    await peer.session.set("t", "theirs", "x")
    await cache.session.set("t", "ours", "y")
    assert await cache.session.get_all("t") == await peer.session.get_all("t") == {"theirs": "x", "ours": "y"}
    await peer.tool.set_policy("search", betterdb.ToolPolicy(ttl=9))
    await cache.tool.refresh_policies()
    assert cache.tool.get_policy("search") == compat.ToolPolicy(ttl=9)
    assert (await peer.stats()).tool == betterdb.TierStats(hits=1, misses=0)
    assert (await cache.stats()).tool == compat.TierStats(hits=2, misses=0)


async def test_compat_returns_no_answer_that_betterdb_has_replaced(
    peer: betterdb.AgentCache, make_compat: MakeCompat
) -> None:
    cache = make_compat()
    await cache.llm.store(HELLO, "old")
    assert (await cache.llm.check(HELLO)).response == "old"
    await peer.llm.store(HELLO, "new")

    async def is_new() -> bool:
        return (await cache.llm.check(HELLO)).response == "new"

    await until(is_new)


async def test_compat_does_not_share_threads_whose_ids_contain_a_colon(
    peer: betterdb.AgentCache, make_compat: MakeCompat
) -> None:
    cache = make_compat()
    await peer.session.set("user:42", "intent", "book")
    assert await cache.session.get("user:42", "intent") is None
    # The remedy on the page: the other library reads its own fields.
    for field, text in (await peer.session.get_all("user:42")).items():
        await cache.session.set("user:42", field, text)
    assert await cache.session.get_all("user:42") == {"intent": "book"}
    assert await cache.session.get("user", "42:intent") == "book"


REMOVALS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "model": lambda cache: cache.llm.invalidate_by_model("gpt-4o"),
    "tool": lambda cache: cache.tool.invalidate_by_tool("search"),
    "thread": lambda cache: cache.session.destroy_thread("t"),
    "fields": lambda cache: cache.session.get_all("t"),
    "scanned fields": lambda cache: cache.session.scan_fields_by_prefix("t", "f"),
}


@pytest.mark.parametrize("sweeps", [True, False])
@pytest.mark.parametrize("removal", REMOVALS.values(), ids=REMOVALS)
async def test_compat_finds_entries_of_betterdb_that_does_not_register(
    make_compat: MakeCompat, plain: valkey.Valkey, sweeps: bool, removal: Callable[[Any], Awaitable[Any]]
) -> None:
    cache = make_compat(sweeps=sweeps)
    await cache.ensure_discovery_ready()
    # As a process writes them that made its cache while no event loop ran.
    plain.set("test:llm:" + "0" * 64, '{"response":"x","model":"gpt-4o","storedAt":1}')
    plain.set("test:tool:search:" + "0" * 64, '{"response":"x","toolName":"search","args":{},"storedAt":1}')
    plain.set("test:session:t:f", "x")
    assert bool(await removal(cache)) == sweeps


async def test_compat_needs_no_sweep_after_the_move(
    peer: betterdb.AgentCache, make_compat: MakeCompat, plain: valkey.Valkey
) -> None:
    await peer.ensure_discovery_ready()
    await peer.llm.store(HELLO, "theirs")
    await peer.tool.store("search", {}, "theirs")
    await peer.session.set("t", "theirs", "x")
    await peer.shutdown()
    cache = make_compat(sweeps=False)
    await cache.ensure_discovery_ready()
    # As a minute and a half after the last heartbeat of the other library.
    plain.delete("test:__tc:others")
    assert await cache.tiercache.reindex() == 3
    plain.config_resetstat()
    await cache.session.set("t", "ours", "x")
    assert await cache.session.get_all("t") == {"theirs": "x", "ours": "x"}
    assert await cache.session.destroy_thread("t") == 2
    assert await cache.llm.invalidate_by_model("gpt-4o") == 1
    assert await cache.tool.invalidate_by_tool("search") == 1
    assert "cmdstat_scan" not in plain.info("commandstats")


async def test_compat_goes_on_as_a_cache_and_raises_for_state_while_valkey_is_gone(
    make_compat: MakeCompat, own_server: tuple[EmbeddedValkey, int], caplog: pytest.LogCaptureFixture
) -> None:
    server, pid = own_server
    cache = make_compat(client=valkey.asyncio.Valkey.from_url(server.url))
    await cache.ensure_discovery_ready()
    os.kill(pid, signal.SIGSTOP)
    assert not (await cache.llm.check(HELLO)).hit
    assert not (await cache.tool.check("search", {})).hit
    with caplog.at_level(logging.WARNING):
        assert await cache.llm.store(HELLO, "paid") == cache.tiercache.llm.key(HELLO).key
        assert await cache.llm.store_multipart(HELLO, [{"type": "text", "text": "paid"}])
        assert await cache.tool.store("search", {}, "paid")
    assert sum("its caller has the answer" in message for message in caplog.messages) == 1
    assert not await cache.tool.refresh_policies()
    await cache.tool.load_policies()
    failing: dict[str, list[Callable[[], Awaitable[Any]]]] = {
        "GET": [lambda: cache.session.get("t", "f")],
        "SET": [lambda: cache.session.set("t", "f", "x")],
        "DEL": [lambda: cache.session.delete("t", "f"), lambda: cache.tool.invalidate("search", {})],
        "HSET": [lambda: cache.tool.set_policy("search", compat.ToolPolicy(ttl=5))],
        "HGETALL": [cache.stats, cache.tool_effectiveness],
        "SCAN": [
            lambda: cache.session.get_all("t"),
            lambda: cache.session.touch("t"),
            lambda: cache.session.scan_fields_by_prefix("t", "f"),
            lambda: cache.session.destroy_thread("t"),
            lambda: cache.tool.invalidate_by_tool("search"),
            lambda: cache.llm.invalidate_by_model("gpt-4o"),
            cache.llm.clear,
            cache.flush,
        ],
    }
    for command, calls in failing.items():
        for call in calls:
            with pytest.raises(compat.ValkeyCommandError) as caught:
                await call()
            assert caught.value.command == command
            assert isinstance(caught.value.__cause__, compat.AgentCacheError)


async def test_compat_loses_no_paid_answer_to_a_server_that_is_full(
    make_compat: MakeCompat, own_server: tuple[EmbeddedValkey, int]
) -> None:
    server, _ = own_server
    cache = make_compat(client=valkey.asyncio.Valkey.from_url(server.url))
    await cache.ensure_discovery_ready()
    with valkey.Valkey.from_url(server.url) as plain:
        plain.config_set("maxmemory", 1)
        await cache.llm.store(HELLO, "paid")
        await cache.tool.store("search", {}, "paid")
        with pytest.raises(compat.ValkeyCommandError, match="SET"):
            await cache.session.set("t", "f", "x")
        plain.config_set("maxmemory", 0)
