"""TierCacheKVStore: LlamaIndex's own stores on it, collections, lifetimes, wrong values, Valkey away."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("llama_index.core")

from llama_index.core import Document, MockEmbedding, StorageContext, SummaryIndex, load_index_from_storage
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode, TransformComponent
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import Field

from tests.adapters.mortal_server import MortalServer
from tests.support import MakeCache, until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.adapters.llamaindex import TierCacheKVStore

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

# The drain at the end does not wait for a server that is gone.
SOON = ResilienceOptions(drain_timeout=0.5)
DOCUMENTS = [Document(text=f"Document {i}. It has two sentences.", doc_id=f"d{i}") for i in range(3)]
WORDS = " ".join(f"word{i}" for i in range(40))


@pytest.fixture(params=["valkey", "memory"])
async def store(request: pytest.FixtureRequest, url: str) -> AsyncIterator[TierCacheKVStore]:
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    async with cache:
        yield TierCacheKVStore(cache)


@pytest.fixture(params=["valkey", "memory"])
def plain_store(request: pytest.FixtureRequest, url: str) -> Iterator[TierCacheKVStore]:
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    with cache.sync:
        yield TierCacheKVStore(cache)


class CountedEmbedding(MockEmbedding):
    """A model of embeddings that counts its texts."""

    # Excluded fields are no part of the key under which a pipeline stores its nodes.
    count: int = Field(default=0, exclude=True)
    # Called before each text is embedded.
    before: Any = Field(default=None, exclude=True)

    def _get_text_embedding(self, text: str) -> list[float]:
        if self.before is not None:
            self.before()
        self.count += 1
        return [float(len(text)), 0.5]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embedding(text)


class Marking(TransformComponent):
    """A transformation that counts its nodes."""

    count: int = Field(default=0, exclude=True)

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        for node in nodes:
            self.count += 1
            node.metadata["mark"] = "é"
        return nodes


def pipeline_on(store: TierCacheKVStore, embedding: CountedEmbedding, marking: Marking) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), marking, embedding],
        cache=IngestionCache(cache=store, collection="cache"),
    )


# LlamaIndex's own classes on the store


def test_second_run_of_a_pipeline_transforms_and_embeds_nothing(plain_store: TierCacheKVStore) -> None:
    embedding, marking = CountedEmbedding(embed_dim=2), Marking()
    nodes = pipeline_on(plain_store, embedding, marking).run(documents=DOCUMENTS)
    again = pipeline_on(plain_store, embedding, marking).run(documents=DOCUMENTS)
    assert (embedding.count, marking.count) == (len(nodes), len(nodes))
    assert [node.to_dict() for node in again] == [node.to_dict() for node in nodes]
    assert all(node.embedding for node in again)


async def test_second_async_run_of_a_pipeline_embeds_nothing(plain_cache: AgentCache) -> None:
    embedding = CountedEmbedding(embed_dim=2)
    store = TierCacheKVStore(plain_cache)
    nodes = await pipeline_on(store, embedding, Marking()).arun(documents=DOCUMENTS)
    count = embedding.count
    again = await pipeline_on(store, embedding, Marking()).arun(documents=DOCUMENTS)
    assert (count, embedding.count) == (len(nodes), count)
    assert [node.to_dict() for node in again] == [node.to_dict() for node in nodes]


def test_pipeline_embeds_other_documents_and_other_transformations(plain_store: TierCacheKVStore) -> None:
    embedding = CountedEmbedding(embed_dim=2)
    pipeline = pipeline_on(plain_store, embedding, Marking())
    pipeline.run(documents=DOCUMENTS[:1])
    pipeline.run(documents=[Document(text="Another document.", doc_id="d0")])
    assert embedding.count == 2
    other = CountedEmbedding(embed_dim=3)
    pipeline_on(plain_store, other, Marking()).run(documents=DOCUMENTS[:1])
    assert (embedding.count, other.count) == (2, 1)
    assert pipeline.cache is not None
    pipeline.cache.clear()
    pipeline.run(documents=DOCUMENTS[:1])
    assert embedding.count == 3


def test_pipeline_with_a_docstore_skips_documents_that_it_has_seen(plain_store: TierCacheKVStore) -> None:
    embedding = CountedEmbedding(embed_dim=2)
    for expected in (3, 0):
        before = embedding.count
        pipeline = IngestionPipeline(
            transformations=[embedding],
            docstore=KVDocumentStore(plain_store, batch_size=2),
            docstore_strategy=DocstoreStrategy.DUPLICATES_ONLY,
            disable_cache=True,
        )
        pipeline.run(documents=[document.model_copy() for document in DOCUMENTS])
        assert embedding.count - before == expected


def nodes_with_sources() -> list[TextNode]:
    documents = [Document(text=f"{i} {WORDS}", doc_id=f"d{i}") for i in range(3)]
    nodes = SentenceSplitter(chunk_size=60, chunk_overlap=0).get_nodes_from_documents(documents)
    assert len(nodes) == 6
    return [node for node in nodes if isinstance(node, TextNode)]


async def test_docstore_has_the_results_of_a_docstore_in_memory(store: TierCacheKVStore) -> None:
    nodes = nodes_with_sources()
    stores = [KVDocumentStore(store, batch_size=2), KVDocumentStore(SimpleKVStore())]
    results: list[Any] = []
    for docstore in stores:
        await docstore.async_add_documents(nodes)
        await docstore.adelete_document(nodes[0].node_id)
        await docstore.adelete_ref_doc("d1")
        infos = await docstore.aget_all_ref_doc_info()
        assert infos is not None
        results.append(
            (
                [node.to_dict() for node in await docstore.aget_nodes([node.node_id for node in nodes[-2:]])],
                {key: info.to_dict() for key, info in infos.items()},
                await docstore.aget_document_hash(nodes[-1].node_id),
                await docstore.aget_all_document_hashes(),
                await docstore.adocument_exists(nodes[0].node_id),
            )
        )
    assert results[0] == results[1]


def test_index_is_loaded_again_from_its_stores(plain_store: TierCacheKVStore) -> None:
    def context() -> StorageContext:
        return StorageContext.from_defaults(
            docstore=KVDocumentStore(plain_store), index_store=KVIndexStore(plain_store)
        )

    nodes = nodes_with_sources()
    index = SummaryIndex(nodes, storage_context=context())
    loaded = load_index_from_storage(context(), index_id=index.index_id)
    assert loaded.index_struct.to_dict() == index.index_struct.to_dict()
    texts = [node.get_content() for node in loaded.docstore.get_nodes(loaded.index_struct.nodes)]
    assert texts == [node.get_content() for node in nodes]
    context().index_store.delete_index_struct(index.index_id)
    assert context().index_store.index_structs() == []


# The methods of the store


async def test_store_keeps_values_by_collection_and_key(store: TierCacheKVStore) -> None:
    value = {"text": "é\x00", "list": [1, None, {"a": 0.5}], "": {}}
    await store.aput("k", value)
    await store.aput("k", {"other": True}, collection="other")
    assert (await store.aget("k"), await store.aget("k", "other")) == (value, {"other": True})
    assert (await store.aget("absent"), await store.aget("k", "absent")) == (None, None)
    assert await store.aget_all("absent") == {}
    assert (await store.adelete("k"), await store.adelete("k")) == (True, False)
    assert (await store.aget_all(), await store.aget_all("other")) == ({}, {"k": {"other": True}})


def test_store_of_plain_code_keeps_values_by_collection_and_key(plain_store: TierCacheKVStore) -> None:
    plain_store.put_all([("a", {"n": 1}), ("b", {"n": 2}), ("a", {"n": 3})], "c", batch_size=2)
    plain_store.put("a", {"n": 4})
    assert plain_store.get_all("c") == {"a": {"n": 3}, "b": {"n": 2}}
    assert (plain_store.get("a", "c"), plain_store.get("a")) == ({"n": 3}, {"n": 4})
    assert (plain_store.delete("a", "c"), plain_store.delete("a", "c")) == (True, False)
    assert plain_store.get_all("c") == {"b": {"n": 2}}


async def test_plain_methods_work_within_a_running_loop(plain_cache: AgentCache) -> None:
    store = TierCacheKVStore(plain_cache)
    store.put("k", {"n": 1})
    assert store.get("k") == await asyncio.to_thread(store.get, "k") == {"n": 1}


@pytest.mark.parametrize("count", [0, 1, 250])
@pytest.mark.parametrize("batch_size", [1, 200])
async def test_store_puts_any_number_of_pairs(store: TierCacheKVStore, count: int, batch_size: int) -> None:
    pairs = [(f"k{i}", {"n": i}) for i in range(count)]
    await store.aput_all(pairs, "c", batch_size=batch_size)
    assert list((await store.aget_all("c")).items()) == pairs


async def test_each_result_of_a_store_is_a_new_object(store: TierCacheKVStore) -> None:
    value = {"list": [1]}
    await store.aput("k", value)
    value["list"].append(2)
    found = await store.aget("k")
    assert found is not None
    found["list"].append(3)
    (await store.aget_all())["k"]["list"].append(4)
    assert await store.aget("k") == {"list": [1]}


async def test_stores_of_several_workers_see_each_other(make_cache: MakeCache) -> None:
    first, second = (TierCacheKVStore(make_cache(name="test")) for _ in range(2))
    other = TierCacheKVStore(make_cache(name="test"), store="other")
    for i in range(20):
        await first.aput("k", {"n": i})
        assert await second.aget("k") == {"n": i}
    removed = await asyncio.gather(*(each.adelete("k") for each in (first, second) * 3))
    assert sorted(removed) == [False] * 5 + [True]
    assert await other.aget_all() == {}


async def test_value_of_a_store_ends_after_its_last_use(cache: AgentCache, plain: valkey.Valkey) -> None:
    store = TierCacheKVStore(cache, ttl="1h")
    await store.aput("k", {"n": 1})
    (key,) = plain.keys("test:__tc:items:{llamaindex-kv}:n:*")
    assert 0 < plain.pttl(key) <= 3_600_000
    brief = TierCacheKVStore(cache, store="brief", ttl=0.05)
    await brief.aput("k", {"n": 1})

    async def has_ended() -> bool:
        return await brief.aget_all() == {}

    await until(has_ended)
    assert await brief.adelete("k") is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val": [1]}, "value must be a mapping, not list"),
        ({"val": {"a": object()}}, "value"),
        ({"key": 1}, "the key of an item"),
        ({"key": "k" * 513}, "the key of an item"),
        ({"collection": None}, "a label of the namespace"),
    ],
)
async def test_wrong_value_is_refused_and_nothing_is_stored(
    store: TierCacheKVStore, arguments: dict[str, Any], message: str
) -> None:
    wrong = {"key": "k", "val": {}, "collection": "data", **arguments}
    with pytest.raises(UsageError, match=message):
        await store.aput_all([("a", {}), (wrong["key"], wrong["val"])], wrong["collection"])
    assert await store.aget_all() == {}


async def test_wrong_arguments_of_a_store_are_refused(store: TierCacheKVStore, memory: AgentCache) -> None:
    with pytest.raises(UsageError, match="batch_size must be a whole number above 0, not 0"):
        await store.aput_all([], batch_size=0)
    with pytest.raises(UsageError, match="cache must be an AgentCache, not dict"):
        TierCacheKVStore({})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the name of a store"):
        TierCacheKVStore(memory, store="a:b")
    with pytest.raises(UsageError, match="ttl must be"):
        TierCacheKVStore(memory, ttl=-1)


async def test_bytes_of_other_software_are_no_values(cache: AgentCache, plain: valkey.Valkey) -> None:
    store = TierCacheKVStore(cache)
    await store.aput("k", {"n": 1})
    (key,) = plain.keys("test:__tc:items:{llamaindex-kv}:n:*")
    plain.hset(key, mapping={"kbad": "1 0 0 1 [1]", "kworse": "x", "\x00": "y"})
    assert await store.aget_all() == {"k": {"n": 1}}
    assert (await store.aget("bad"), await store.aget("worse")) == (None, None)


def test_copy_of_a_store_is_the_store_and_a_pickle_is_refused(plain_store: TierCacheKVStore) -> None:
    assert copy.deepcopy(plain_store) is plain_store
    with pytest.raises(TypeError, match="cannot pickle a TierCacheKVStore"):
        pickle.dumps(plain_store)


# Valkey away


async def test_store_raises_while_valkey_is_away(mortal_server: MortalServer) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        store = TierCacheKVStore(cache)
        await store.aput("k", {"n": 1})
        mortal_server.kill()
        calls = [
            store.aget("k"),
            store.aput("k", {}),
            store.aput_all([("k", {})]),
            store.aget_all(),
            store.adelete("k"),
        ]
        for call in calls:
            with pytest.raises(L2UnavailableError):
                await call


def test_pipeline_keeps_its_embeddings_if_valkey_is_killed_during_a_run(mortal_server: MortalServer) -> None:
    cache = AgentCache.from_url(mortal_server.url, resilience=SOON)
    with cache.sync:
        embedding = CountedEmbedding(embed_dim=2, before=mortal_server.kill)
        store = TierCacheKVStore(cache, require_l2=False)
        nodes = pipeline_on(store, embedding, Marking()).run(documents=DOCUMENTS)
        assert len(nodes) == embedding.count == 3
        assert [node.embedding for node in pipeline_on(store, embedding, Marking()).run(documents=DOCUMENTS)]
        with pytest.raises(L2UnavailableError):
            store.get_all()
        with pytest.raises(L2UnavailableError):
            store.delete("k")


async def test_async_calls_of_a_store_without_l2_go_on(mortal_server: MortalServer) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        store = TierCacheKVStore(cache, require_l2=False)
        await store.aput("k", {"n": 1})
        mortal_server.kill()
        await store.aput("k", {"n": 2})
        assert await store.aget("k") is None
