"""An ingestion pipeline of LlamaIndex that embeds each text once, whichever process asks.

python -m pip install ".[llamaindex]" llama-index-embeddings-openai
"""

import os

from llama_index.core import Document
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.openai import OpenAIEmbedding

from tiercache import AgentCache
from tiercache.adapters.llamaindex import TierCacheKVStore

DOCUMENTS = [Document(text="The Danube runs through Vienna."), Document(text="The Vltava runs through Prague.")]

cache = AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379"))
with cache.sync:
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(), OpenAIEmbedding(model="text-embedding-3-small")],
        cache=IngestionCache(cache=TierCacheKVStore(cache, ttl="30d", require_l2=False)),
    )
    for _ in range(2):
        print([len(node.embedding or []) for node in pipeline.run(documents=DOCUMENTS)])
