"""tiercache itself, through its public API."""

from typing import Any

from benchmarks.peers.protocol import Endpoint, Loader, Work
from benchmarks.requests import NAME, TTL, Answer, Params
from tiercache import AgentCache, LlmResponse, TierOptions


class Tiercache:
    async def open(self, endpoint: Endpoint, work: Work, loader: Loader) -> None:
        self._levels = {Work.L1_HIT: ("l1",), Work.L2_HIT: ("l2",)}.get(work, ("loader", "l1", "l2"))
        llm = TierOptions(l1=work is not Work.L2_HIT)
        self._cache = AgentCache.from_url(endpoint.url, name=NAME, default_ttl=TTL, llm=llm)
        await self._cache.open()
        self._loader = loader
        self.check = self._cache.llm.check

    async def store(self, params: Params, answer: Answer) -> Any:
        return await self._cache.llm.store(params, answer.text, tokens=answer.tokens)

    async def get_or_load(self, params: Params) -> Any:
        return await self._cache.llm.get_or_load(params, self._load)

    def answer(self, found: Any) -> Answer | None:
        if found.response is None:
            return None
        if found.source not in self._levels:
            raise ValueError(f"tiercache answered from {found.source}, expected {' or '.join(self._levels)}")
        return Answer(found.response, dict(found.tokens))

    async def close(self) -> None:
        await self._cache.aclose()

    async def _load(self, params: Params) -> LlmResponse:
        answer = await self._loader(params)
        return LlmResponse(answer.text, tokens=answer.tokens)


def make() -> Tiercache:
    return Tiercache()
