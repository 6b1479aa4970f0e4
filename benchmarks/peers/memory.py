"""The caches without a server: cachetools behind an asyncio.Lock, and async-cache."""

import asyncio
from collections import defaultdict
from functools import partial
from typing import Any

from cache import AsyncCache
from cachetools import TTLCache

from benchmarks.data import TTL, Params, request_key
from benchmarks.peers.protocol import Keyed, Load, Setting


class CachetoolsLock(Keyed):
    """The usual recipe: a TTLCache, and one lock per key for callers that miss."""

    title = "cachetools.TTLCache + asyncio.Lock"
    levels = frozenset({"l1", "memory"})

    async def open(self, setting: Setting) -> None:
        self._cache: TTLCache[str, Any] = TTLCache(setting.max_entries, TTL)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, key: str) -> Any:
        return self._cache.get(key)

    async def set(self, key: str, value: Any) -> None:
        self._cache[key] = value

    async def get_or_load(self, params: Params, load: Load) -> Any:
        key = request_key(params)
        found = self._cache.get(key)
        if found is not None:
            return found
        async with self._locks[key]:
            found = self._cache.get(key)
            if found is None:
                self._cache[key] = found = (await load(params)).as_dict()
        self._locks.pop(key, None)
        return found


class AsyncCachePeer(Keyed):
    """async-cache by its core API, `AsyncCache.get(key, loader=...)`: its decorators are slower than `request_key`."""

    title = "async-cache"
    levels = frozenset({"l1", "memory"})

    async def open(self, setting: Setting) -> None:
        self._cache = AsyncCache(maxsize=setting.max_entries, default_ttl=TTL)
        self.get = self._cache.get

    async def set(self, key: str, value: Any) -> None:
        self._cache.set(key, value)

    async def get_or_load(self, params: Params, load: Load) -> Any:
        return await self._cache.get(request_key(params), loader=partial(_load, params, load))


async def _load(params: Params, load: Load) -> dict[str, Any]:
    return (await load(params)).as_dict()
