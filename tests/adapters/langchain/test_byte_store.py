"""TierCacheByteStore: embeddings that are made once, keys by their beginning, wrong values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("langchain", "langchain_classic")

from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.embeddings import Embeddings

from tests.seams import HeldWrites
from tests.support import entry_keys
from tiercache import AgentCache, UsageError
from tiercache.adapters.langchain import TierCacheByteStore
from tiercache.testing import FakeClock

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Counting(Embeddings):
    """Embeddings that list the texts they were asked for, and call ``before`` first."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.before: Callable[[], object] = lambda: None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.before()
        self.texts += texts
        return [[float(len(text)), 0.1] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def backed(store: TierCacheByteStore) -> tuple[Counting, CacheBackedEmbeddings]:
    model = Counting()
    options: Any = {"namespace": "m", "query_embedding_cache": True, "key_encoder": "sha256"}
    return model, CacheBackedEmbeddings.from_bytes_store(model, store, **options)


def test_embeddings_are_made_once_for_each_text(plain_cache: AgentCache) -> None:
    model, embeddings = backed(TierCacheByteStore(plain_cache))
    first = embeddings.embed_documents(["a", "bb"])
    plain_cache.sync.clear_l1()
    assert embeddings.embed_documents(["bb", "ccc", "a"]) == [first[1], [3.0, 0.1], first[0]]
    assert embeddings.embed_query("a") == embeddings.embed_query("a") == first[0]
    assert model.texts == ["a", "bb", "ccc"]


async def test_embeddings_of_coroutines_are_made_once_for_each_text(cache: AgentCache) -> None:
    model, embeddings = backed(TierCacheByteStore(cache))
    first = await embeddings.aembed_documents(["a", "bb"])
    assert await embeddings.aembed_documents(["bb", "a", "a"]) == [first[1], first[0], first[0]]
    assert await embeddings.aembed_query("a") == first[0]
    assert model.texts == ["a", "bb"]


async def listed(store: TierCacheByteStore, prefix: str | None = None) -> list[str]:
    return sorted([key async for key in store.ayield_keys(prefix=prefix)])


async def test_keys_are_those_of_the_store_that_begin_with_the_prefix(cache: AgentCache) -> None:
    store, other = TierCacheByteStore(cache), TierCacheByteStore(cache, tier="other")
    await store.amset([("a:1", b"1"), ("a:2", b"2"), ("b*", b"3"), ("b1", b"4"), ("é", b"5")])
    await other.amset([("a:9", b"9")])
    await cache.tier("langchain").set("a:8", b"not of the store")
    await cache.kv.set("a:7", b"of another tier")
    assert await listed(store) == ["a:1", "a:2", "b*", "b1", "é"]
    assert await listed(store, "") == ["a:1", "a:2", "b*", "b1", "é"]
    assert await listed(store, "a:") == ["a:1", "a:2"]
    assert await listed(store, "b*") == ["b*"]
    assert await listed(store, "c") == []
    assert await listed(other) == ["a:9"]
    assert sorted(store.yield_keys(prefix="a:")) == ["a:1", "a:2"]


async def test_keys_lack_values_that_have_ended(cache: AgentCache, plain: valkey.Valkey) -> None:
    store = TierCacheByteStore(cache)
    await store.amset([("a", b"1"), ("b", b"2"), ("c", b"3")])
    await store.amdelete(["a"])
    plain.delete("test:__tc:kv:langchain:b")  # As if its lifetime had ended: the index still has the key.
    assert await listed(store) == ["c"]


async def test_keys_have_those_whose_writes_are_queued(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TierCacheByteStore(cache)
    held = HeldWrites(monkeypatch)
    storing = asyncio.create_task(store.amset([("a", b"1")]))
    await held.sending.wait()
    listing = asyncio.create_task(listed(store))
    await asyncio.wait({listing}, timeout=0.3)
    held.release.set()
    assert await listing == ["a"]
    await storing


async def test_keys_are_found_where_the_server_has_evicted_the_index(cache: AgentCache, plain: valkey.Valkey) -> None:
    store = TierCacheByteStore(cache)
    await store.amset([("a", b"1"), ("b", b"2")])
    plain.delete("test:__tc:idx:tag:langchain.bytes.langchain")
    plain.set("test:__tc:evicted", "1")
    await cache.kv.set("a", b"of another tier")
    assert await listed(store) == ["a", "b"]


async def test_keys_in_memory_lack_values_that_have_ended() -> None:
    clock = FakeClock()
    async with AgentCache.in_memory(clock=clock.clock) as cache:
        await TierCacheByteStore(cache, ttl=10).amset([("a", b"1")])
        store = TierCacheByteStore(cache)
        await store.amset([("b", b"2")])
        assert await listed(store) == ["a", "b"]
        clock.advance(11)
        assert await listed(store) == ["b"]


async def test_value_of_the_byte_store_lives_for_its_ttl_and_has_its_tags(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    store = TierCacheByteStore(cache, ttl=60, tags=["model-1"])
    await store.amset([("a", b"1")])
    (key,) = entry_keys(plain)
    assert 0 < plain.pttl(key) <= 60_000
    assert await cache.invalidate_tag("model-1") == 1
    assert await store.amget(["a"]) == [None]


async def test_value_of_another_program_that_is_no_bytes_is_absent(cache: AgentCache) -> None:
    await cache.tier("langchain").set("a", "text")
    assert await TierCacheByteStore(cache).amget(["a", "b"]) == [None, None]


async def test_byte_store_refuses_what_is_no_bytes_and_stores_nothing(cache: AgentCache) -> None:
    store = TierCacheByteStore(cache)
    with pytest.raises(UsageError, match="the value of 'b' must be bytes, not str"):
        await store.amset([("a", b"1"), ("b", "2")])  # type: ignore[list-item]
    assert await store.amget(["a"]) == [None]


def test_byte_store_refuses_wrong_arguments(plain_cache: AgentCache) -> None:
    for options in ({"tier": "llm"}, {"tier": "a:b"}, {"ttl": -1}, {"tags": "text"}):
        with pytest.raises(UsageError):
            TierCacheByteStore(plain_cache, **options)  # type: ignore[arg-type]


async def test_byte_store_lists_the_keys_of_its_scope(cache: AgentCache) -> None:
    store = TierCacheByteStore(cache)
    await store.amset([("a", b"unscoped")])
    for scope in ("alice", "alice:"):
        with cache.calls(scope=scope):
            await store.amset([(f"{scope}1", scope.encode())])
    for scope, keys in ((None, ["a"]), ("alice", ["alice1"]), ("alice:", ["alice:1"]), ("bob", [])):
        with cache.calls(scope=scope):
            assert [key async for key in store.ayield_keys()] == keys
            assert await store.amget(["a"]) == [b"unscoped" if scope is None else None]
