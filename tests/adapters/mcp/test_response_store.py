"""TierCacheResponseStore under a client of MCP: requests to the server, partitions, foreign values, Valkey away."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("mcp")

from mcp import Client
from mcp.client import CacheConfig, CacheEntry, CacheKey

from tests.adapters.mcp.servers import CountingServer
from tests.adapters.mortal_server import MortalServer
from tests.support import Pair, entry_keys
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.adapters.mcp import TierCacheResponseStore

# The drain at the end does not wait for a server that is gone.
SOON = ResilienceOptions(drain_timeout=0.5)
KEY = CacheKey("tools/list", "", "me")
CALLS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "tools/list": lambda client: client.list_tools(),
    "prompts/list": lambda client: client.list_prompts(),
    "resources/list": lambda client: client.list_resources(),
    "resources/templates/list": lambda client: client.list_resource_templates(),
    "resources/read": lambda client: client.read_resource("text://river"),
}


@pytest.fixture
def upstream() -> CountingServer:
    return CountingServer()


def client_of(upstream: CountingServer, store: Any, partition: str = "me", **options: Any) -> Client:
    config = CacheConfig(store=store, partition=partition, target_id="counting", **options)
    return Client(upstream, cache=config)


async def entry_of(upstream: CountingServer, method: str = "tools/list", **options: Any) -> CacheEntry:
    """Return an entry as a client makes it."""
    async with Client(upstream) as client:
        value = await CALLS[method](client)
    return replace(CacheEntry(value=value, scope="public", expires_at=time.time() + 60), **options)


async def test_client_of_another_process_makes_no_request(replicas: Pair, upstream: CountingServer) -> None:
    found = []
    for cache in replicas:
        async with client_of(upstream, TierCacheResponseStore(cache)) as client:
            found.append([await call(client) for call in CALLS.values()])
    assert found[0] == found[1]
    assert (upstream.counts["list"], upstream.counts["read"]) == (1, 1)
    assert replicas[1].local_stats().tiers["mcp"].l2_hits == len(CALLS)


async def test_refresh_of_a_client_asks_the_server_and_replaces_the_response(
    cache: AgentCache, upstream: CountingServer
) -> None:
    async with client_of(upstream, TierCacheResponseStore(cache)) as client:
        for mode in ("use", "use", "refresh", "use", "bypass"):
            await client.list_tools(cache_mode=mode)
    assert upstream.counts["list"] == 3


async def test_partitions_share_no_response(memory: AgentCache, upstream: CountingServer) -> None:
    store = TierCacheResponseStore(memory)
    for partition in ("ada", "bob", "ada"):
        async with client_of(upstream, store, partition) as client:
            await client.list_tools()
    assert upstream.counts["list"] == 2


@pytest.mark.parametrize("method", CALLS)
async def test_entry_comes_back_whole_and_is_the_own_of_each_caller(
    cache: AgentCache, upstream: CountingServer, method: str
) -> None:
    store, key = TierCacheResponseStore(cache), CacheKey(method, "a", "me")
    entry = await entry_of(upstream, method)
    await store.set(key, entry)
    for _ in range(2):
        found = await store.get(key)
        assert found == entry
        assert found.value.model_fields_set == entry.value.model_fields_set
        found.value.meta = {"changed": True}
        for tool in getattr(found.value, "tools", ()):
            tool.input_schema.clear()
        cache.clear_l1()
    await store.delete(key)
    assert await store.get(key) is None


async def test_every_pair_of_keys_is_kept_apart(memory: AgentCache, upstream: CountingServer) -> None:
    store, entry = TierCacheResponseStore(memory), await entry_of(upstream)
    keys = [
        CacheKey("tools/list", *rest) for rest in [("", "me"), ("me", ""), ("m", "e"), ('", "', ""), ("\ud800", "")]
    ]
    for number, key in enumerate(keys):
        await store.set(key, replace(entry, expires_at=entry.expires_at + number))
    found = [await store.get(key) for key in keys]
    assert [each and each.expires_at for each in found] == [entry.expires_at + number for number in range(len(keys))]
    await store.clear()
    assert [await store.get(key) for key in keys] == [None] * len(keys)


async def test_entry_lives_until_it_expires(cache: AgentCache, upstream: CountingServer, plain: valkey.Valkey) -> None:
    store = TierCacheResponseStore(cache)
    await store.set(KEY, await entry_of(upstream))
    (key,) = entry_keys(plain)
    assert 0 < plain.pttl(key) <= 60_000
    assert b"me" not in key.encode().partition(b":mcp:")[2]


@pytest.mark.parametrize("change", [{"expires_at": None}, {"expires_at": 1.0}, {"value": "text"}])
async def test_entry_that_cannot_be_kept_removes_the_older_one(
    memory: AgentCache, upstream: CountingServer, change: Any
) -> None:
    store, entry = TierCacheResponseStore(memory), await entry_of(upstream)
    await store.set(KEY, entry)
    await store.set(KEY, replace(entry, **change))
    assert await store.get(KEY) is None


async def test_response_to_an_unknown_method_is_not_stored(memory: AgentCache, upstream: CountingServer) -> None:
    store, key = TierCacheResponseStore(memory), CacheKey("other/list")
    await store.set(key, await entry_of(upstream))
    assert await store.get(key) is None


@pytest.mark.parametrize(
    "change", [{"mcp": {"tools": 1}}, {"mcp": None}, {"scope": "all"}, {"expires_at": "soon"}, {"expires_at": None}]
)
async def test_value_that_is_no_response_is_a_miss(
    cache: AgentCache, upstream: CountingServer, plain: valkey.Valkey, change: dict[str, Any]
) -> None:
    store, tier = TierCacheResponseStore(cache), cache.tier("mcp")
    await store.set(KEY, await entry_of(upstream))
    (full_key,) = entry_keys(plain)
    key = full_key.rpartition(":")[2]
    value = await tier.get(key)
    for other in ({**value, **change}, "text", [value]):
        await tier.set(key, other)
        assert await store.get(KEY) is None
    await tier.set(key, value)
    assert await store.get(KEY) is not None


async def test_client_goes_on_without_valkey(mortal_server: MortalServer, upstream: CountingServer) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        store = TierCacheResponseStore(cache)
        async with client_of(upstream, store) as client:
            tools = await client.list_tools()
            mortal_server.kill()
            cache.clear_l1()
            assert await client.list_tools() == tools
            assert upstream.counts["list"] == 2
        with pytest.raises(L2UnavailableError):
            await store.delete(KEY)


async def test_wrong_arguments_are_refused(memory: AgentCache) -> None:
    with pytest.raises(UsageError, match="cache must be"):
        TierCacheResponseStore("cache")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        TierCacheResponseStore(memory, "a:b")
