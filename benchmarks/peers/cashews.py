"""cashews: its Redis backend, and its client-side cache in front of Redis, which invalidation messages keep fresh."""

from typing import Any

from cashews import Cache

from benchmarks.data import TTL, Params, answered, request_key
from benchmarks.peers.protocol import Keyed, Load, Setting

_TIMEOUT = 30
"""Seconds. With its default of one second cashews raises while 1,000 callers make the keys of long requests."""


class CashewsRedis(Keyed):
    title = "cashews, redis"
    levels = frozenset({"l2"})
    made_at_open = frozenset({"get", "decorated"})
    _client_side = False

    async def open(self, setting: Setting) -> None:
        self._cache = cache = Cache()
        patience: dict[str, Any] = {} if self._client_side else {"socket_timeout": _TIMEOUT}
        cache.setup(setting.endpoint.url, client_side=self._client_side, suppress=False, **patience)
        await cache.init()
        self.get = cache.get

        @cache(ttl=TTL, key="{key}", lock=True)
        async def ask(key: str, params: Params, load: Load) -> dict[str, Any]:
            return (await load(params)).as_dict()

        self._ask = ask
        self.decorated = cache(ttl=TTL)(answered)

    async def close(self) -> None:
        await self._cache.close()

    async def set(self, key: str, value: Any) -> None:
        await self._cache.set(key, value, expire=TTL)

    async def get_many(self, keys: list[str]) -> Any:
        return await self._cache.get_many(*keys)

    async def get_or_load(self, params: Params, load: Load) -> Any:
        return await self._ask(request_key(params), params, load)


class CashewsClientSide(CashewsRedis):
    title = "cashews, client-side"
    levels = frozenset({"l1"})
    _client_side = True
