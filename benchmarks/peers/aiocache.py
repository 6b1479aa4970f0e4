"""aiocache: one level at a time, memory or Redis; `cached_stampede` takes a lock in the same backend."""

from typing import Any

from aiocache import Cache, cached_stampede

from benchmarks.peers.protocol import Endpoint, Loader, Work
from benchmarks.requests import NAME, TTL, Answer, Params, request_key

_CONNECTIONS = 1_000
"""Its documentation: adapt the pool to the concurrency expected; with redis-py's 100 the stampede raises."""


class Aiocache:
    async def open(self, endpoint: Endpoint, work: Work, loader: Loader) -> None:
        redis = {"endpoint": endpoint.host, "port": endpoint.port, "pool_max_size": _CONNECTIONS}
        backend, settings = (Cache.MEMORY, {}) if work is Work.L1_HIT else (Cache.REDIS, redis)
        self._cache = Cache(backend, namespace=NAME, ttl=TTL, **settings)

        async def ask(params: Params) -> dict[str, Any]:
            return (await loader(params)).as_dict()

        options = {"namespace": NAME, "ttl": TTL, "key_builder": lambda _, params: request_key(params)}
        self.get_or_load = cached_stampede(cache=backend, **options, **settings)(ask)

    async def check(self, params: Params) -> Any:
        return await self._cache.get(request_key(params))

    async def store(self, params: Params, answer: Answer) -> None:
        await self._cache.set(request_key(params), answer.as_dict())

    def answer(self, found: Any) -> Answer | None:
        return None if found is None else Answer.of_dict(found)

    async def close(self) -> None:
        await self.get_or_load.cache.close()
        await self._cache.close()


def make() -> Aiocache:
    return Aiocache()
