"""cashews: the Redis backend; its client-side cache, kept fresh by invalidation messages, is the L1."""

from typing import Any

from cashews import Cache

from benchmarks.peers.protocol import Endpoint, Loader, Work
from benchmarks.requests import TTL, Answer, Params, request_key


class Cashews:
    async def open(self, endpoint: Endpoint, work: Work, loader: Loader) -> None:
        self._cache = cache = Cache()
        cache.setup(endpoint.url, client_side=work is not Work.L2_HIT, suppress=False)
        await cache.init()

        @cache(ttl=TTL, key="{key}")
        async def ask(key: str, params: Params) -> dict[str, Any]:
            return (await loader(params)).as_dict()

        self._ask = ask

    async def check(self, params: Params) -> Any:
        return await self._cache.get(request_key(params))

    async def store(self, params: Params, answer: Answer) -> None:
        await self._cache.set(request_key(params), answer.as_dict(), expire=TTL)

    async def get_or_load(self, params: Params) -> Any:
        return await self._ask(request_key(params), params)

    def answer(self, found: Any) -> Answer | None:
        return None if found is None else Answer.of_dict(found)

    async def close(self) -> None:
        await self._cache.close()


def make() -> Cashews:
    return Cashews()
