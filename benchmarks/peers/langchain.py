"""The exact caches of langchain: in memory, and the asynchronous Redis cache of langchain-community.

The Redis cache stores hashes and needs no RedisJSON. A lookup takes a prompt and a model string. langchain serialises
both for every call; this module uses json.dumps for that, which is faster than the serialiser of langchain.
"""

import importlib.util
import json
from typing import Any

from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.outputs import Generation

from benchmarks.data import TTL, Answer, Params
from benchmarks.peers.protocol import Peer, Setting

_CONNECTIONS = 1_000
"""With the 100 of redis-py the cache loses stores, and logs that, when 1,000 come at once."""


class _Langchain(Peer):
    _cache: BaseCache

    async def check(self, params: Params) -> Any:
        return await self._cache.alookup(*_key(params))

    async def store(self, params: Params, answer: Answer) -> Any:
        generation = Generation(text=answer.text, generation_info=answer.tokens)
        await self._cache.aupdate(*_key(params), [generation])

    def prepare(self, params: Params) -> Any:
        return _key(params)

    async def check_prepared(self, key: Any) -> Any:
        return await self._cache.alookup(*key)

    def answer(self, found: Any) -> Answer | None:
        return Answer(found[0].text, found[0].generation_info) if found else None


class LangchainMemory(_Langchain):
    title = "langchain InMemoryCache"
    levels = frozenset({"l1", "memory"})

    async def open(self, setting: Setting) -> None:
        self._cache = InMemoryCache(maxsize=setting.max_entries)


class LangchainRedis(_Langchain):
    title = "langchain AsyncRedisCache"
    levels = frozenset({"l2"})

    @classmethod
    def missing(cls) -> str:
        return "" if importlib.util.find_spec("langchain_community") else "langchain-community is not installed"

    async def open(self, setting: Setting) -> None:
        from langchain_community.cache import AsyncRedisCache
        from redis.asyncio import Redis

        self._client = Redis.from_url(setting.endpoint.url, max_connections=_CONNECTIONS)
        self._cache = AsyncRedisCache(self._client, ttl=TTL)

    async def close(self) -> None:
        await self._client.aclose()


def _key(params: Params) -> tuple[str, str]:
    rest = {name: value for name, value in params.items() if name != "messages"}
    return json.dumps(params["messages"]), json.dumps(rest, sort_keys=True)
