"""aiocache: one level at a time, memory or Redis; `cached_stampede` takes a lock in the same backend."""

from typing import Any, ClassVar

from aiocache import Cache, cached, cached_stampede

from benchmarks.data import NAME, TTL, Params, answered, request_key
from benchmarks.peers.protocol import Keyed, Load, Setting

_CONNECTIONS = 1_000
"""The documentation of aiocache says to size the pool for the expected concurrency.

With the 100 of redis-py the stampede raises.
"""


class AiocacheMemory(Keyed):
    title = "aiocache, memory"
    levels = frozenset({"l1", "memory"})
    made_at_open = frozenset({"get", "set", "get_many", "get_or_load", "decorated"})
    _backend: ClassVar[Any] = Cache.MEMORY

    def _settings(self, setting: Setting) -> dict[str, Any]:
        return {}

    async def open(self, setting: Setting) -> None:
        settings = self._settings(setting)
        self._cache = cache = Cache(self._backend, namespace=NAME, ttl=TTL, **settings)
        self.get, self.set, self.get_many = cache.get, cache.set, cache.multi_get

        async def ask(params: Params, load: Load) -> dict[str, Any]:
            return (await load(params)).as_dict()

        options = {"namespace": NAME, "ttl": TTL, "key_builder": lambda _, params, load: request_key(params)}
        self.get_or_load = cached_stampede(cache=self._backend, **options, **settings)(ask)
        self.decorated = cached(cache=self._backend, namespace=NAME, ttl=TTL, **settings)(answered)

    async def close(self) -> None:
        await self.get_or_load.cache.close()
        await self.decorated.cache.close()
        await self._cache.close()


class AiocacheRedis(AiocacheMemory):
    title = "aiocache, redis"
    levels = frozenset({"l2"})
    _backend = Cache.REDIS

    def _settings(self, setting: Setting) -> dict[str, Any]:
        return {"endpoint": setting.endpoint.host, "port": setting.endpoint.port, "pool_max_size": _CONNECTIONS}
