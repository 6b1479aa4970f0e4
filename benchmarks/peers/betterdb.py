"""betterdb-agent-cache: Valkey only, no memory level, no single-flight; statistics written on every call."""

import os
from typing import Any

# Before the import: otherwise the library reports its use over the network.
os.environ["BETTERDB_TELEMETRY"] = "false"

from betterdb_agent_cache import AgentCache
from betterdb_agent_cache.types import AgentCacheOptions, LlmStoreOptions
from valkey.asyncio import Valkey

from benchmarks.peers.protocol import Endpoint, Loader, Work
from benchmarks.requests import NAME, TTL, Answer, Params


class Betterdb:
    async def open(self, endpoint: Endpoint, work: Work, loader: Loader) -> None:
        self._client = Valkey.from_url(endpoint.url)
        self._cache = AgentCache(AgentCacheOptions(client=self._client, name=NAME, default_ttl=TTL))
        await self._cache.ensure_discovery_ready()
        self._loader = loader
        self.check = self._cache.llm.check

    async def store(self, params: Params, answer: Answer) -> Any:
        return await self._cache.llm.store(params, answer.text, LlmStoreOptions(tokens=answer.tokens))

    async def get_or_load(self, params: Params) -> Any:
        found = await self.check(params)
        if found.hit:
            return found
        answer = await self._loader(params)
        await self.store(params, answer)
        return answer

    def answer(self, found: Any) -> Answer | None:
        if isinstance(found, Answer):
            return found
        if not found.hit:
            return None
        return Answer(found.response, {"input": found.input_tokens, "output": found.output_tokens})

    async def close(self) -> None:
        await self._cache.shutdown()
        await self._client.aclose()


def make() -> Betterdb:
    return Betterdb()
