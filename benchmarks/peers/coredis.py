"""The client of coredis with its tracking cache: it keeps replies until the server reports that the key changed."""

import json
from contextlib import AsyncExitStack
from typing import Any

import coredis
from coredis.patterns.cache import LRUCache

from benchmarks.data import TTL
from benchmarks.peers.protocol import Keyed, Setting


class Coredis(Keyed):
    title = "coredis, tracking cache"

    async def open(self, setting: Setting) -> None:
        cache = None if setting.use == "l2" else LRUCache(max_keys=setting.max_entries)
        self._client = coredis.Redis.from_url(setting.endpoint.url, cache=cache, max_connections=1_000)
        self._stack = AsyncExitStack()
        await self._stack.enter_async_context(self._client)

    async def close(self) -> None:
        await self._stack.aclose()

    async def get(self, key: str) -> Any:
        raw = await self._client.get(key)
        return None if raw is None else json.loads(raw)

    async def set(self, key: str, value: Any) -> None:
        await self._client.set(key, json.dumps(value), ex=TTL)
