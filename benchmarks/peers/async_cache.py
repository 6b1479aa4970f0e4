"""async-cache: in memory only, its core API `AsyncCache.get(key, loader=...)`, which lets one caller load.

Its decorators make a key of the parameters themselves, but need longer for it than `request_key` does.
"""

from functools import partial
from typing import Any

from cache import AsyncCache

from benchmarks.peers.protocol import Endpoint, Loader, Work
from benchmarks.requests import TTL, Answer, Params, request_key


class AsyncCachePeer:
    async def open(self, endpoint: Endpoint, work: Work, loader: Loader) -> None:
        self._cache = AsyncCache(maxsize=10_000, default_ttl=TTL)
        self._loader = loader

    async def check(self, params: Params) -> Any:
        return await self._cache.get(request_key(params))

    async def store(self, params: Params, answer: Answer) -> None:
        self._cache.set(request_key(params), answer.as_dict())

    async def get_or_load(self, params: Params) -> Any:
        return await self._cache.get(request_key(params), loader=partial(self._load, params))

    def answer(self, found: Any) -> Answer | None:
        return None if found is None else Answer.of_dict(found)

    async def close(self) -> None:
        pass

    async def _load(self, params: Params) -> dict[str, Any]:
        return (await self._loader(params)).as_dict()


def make() -> AsyncCachePeer:
    return AsyncCachePeer()
