"""Embeddings of LangChain in plain code: each text is embedded once, whichever process asks.

python -m pip install ".[langchain]" langchain-classic langchain-openai
"""

import os

from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_openai import OpenAIEmbeddings

from tiercache import AgentCache
from tiercache.adapters.langchain import TierCacheByteStore

MODEL = "text-embedding-3-small"
TEXTS = ["The Danube", "The Vltava"]

cache = AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379"))
with cache.sync:
    embeddings = CacheBackedEmbeddings.from_bytes_store(
        OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False),
        TierCacheByteStore(cache, ttl="30d"),
        namespace=MODEL,
        query_embedding_cache=True,
        key_encoder="sha256",
    )
    for _ in range(2):
        print([len(vector) for vector in embeddings.embed_documents(TEXTS)])
    print(len(embeddings.embed_query(TEXTS[0])))
