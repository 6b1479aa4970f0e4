"""betterdb-agent-cache: Valkey only, no memory level, no single flight; every call writes statistics."""

import os
from typing import Any

# Set before the import: without it the library reports its use over the network.
os.environ["BETTERDB_TELEMETRY"] = "false"

from betterdb_agent_cache import AgentCache
from betterdb_agent_cache.types import AgentCacheOptions, LlmStoreOptions
from valkey.asyncio import Valkey

from benchmarks.data import NAME, TTL, Answer, Params
from benchmarks.peers.protocol import Load, Peer, Setting


class Betterdb(Peer):
    title = "betterdb-agent-cache"
    levels = frozenset({"l2"})
    note = "has no memory level: its hit reads Valkey and writes its statistics there"
    joins_every_level = True
    single_flight = False
    made_at_open = frozenset(
        {
            "tool_check",
            "tool_store",
            "session_get",
            "session_set",
            "session_all",
            "destroy_thread",
            "invalidate_tool",
            "invalidate_model",
        }
    )

    async def open(self, setting: Setting) -> None:
        self._client = Valkey.from_url(setting.endpoint.url)
        self._cache = cache = AgentCache(AgentCacheOptions(client=self._client, name=NAME, default_ttl=TTL))
        await cache.ensure_discovery_ready()
        self.check = cache.llm.check
        self.tool_check, self.tool_store = cache.tool.check, cache.tool.store
        self.session_get, self.session_set = cache.session.get, cache.session.set
        self.session_all, self.destroy_thread = cache.session.get_all, cache.session.destroy_thread
        self.invalidate_tool, self.invalidate_model = cache.tool.invalidate_by_tool, cache.llm.invalidate_by_model

    async def close(self) -> None:
        await self._cache.shutdown()
        await self._client.aclose()

    async def store(self, params: Params, answer: Answer) -> Any:
        return await self._cache.llm.store(params, answer.text, LlmStoreOptions(tokens=answer.tokens))

    async def get_or_load(self, params: Params, load: Load) -> Any:
        found = await self.check(params)
        if found.hit:
            return found
        answer = await load(params)
        await self.store(params, answer)
        return answer

    def answer(self, found: Any) -> Answer | None:
        if isinstance(found, Answer):
            return found
        if not found.hit:
            return None
        return Answer(found.response, {"input": found.input_tokens, "output": found.output_tokens})

    def text(self, found: Any) -> str | None:
        text: str | None = found if isinstance(found, str | None) else found.response
        return text
