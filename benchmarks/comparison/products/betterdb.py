"""betterdb-agent-cache: check, then call, then store, with its helper for the parameters of OpenAI."""

import json
import os

# Set before the import: without it the library reports its use over the network.
os.environ["BETTERDB_TELEMETRY"] = "false"

from betterdb_agent_cache import AgentCache
from betterdb_agent_cache.adapters.openai import prepare_params
from betterdb_agent_cache.types import AgentCacheOptions, LlmStoreOptions
from openai import AsyncOpenAI
from valkey.asyncio import Valkey

from benchmarks.comparison.product import Answers, Question, Reply, Setting, reply_of


class Betterdb(Answers):
    title = "betterdb-agent-cache"
    distributions = ("betterdb-agent-cache", "valkey", "openai")

    async def open(self, setting: Setting) -> None:
        self._url = setting.model_url
        self._client = Valkey.from_url(setting.valkey_url)
        self._cache = AgentCache(
            AgentCacheOptions(client=self._client, name="comparison", default_ttl=setting.ttl or 3600)
        )
        self._models: dict[str, AsyncOpenAI] = {}

    async def close(self) -> None:
        await self._cache.shutdown()
        await self._client.aclose()
        for model in self._models.values():
            await model.close()

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        params = await prepare_params(question)
        found = await self._cache.llm.check(params)
        if found.hit:
            calls = [block for block in found.content_blocks or () if block["type"] == "tool_call"]
            return Reply(
                texts=(found.response,),
                tools=tuple((call["name"], json.dumps(call["args"])) for call in calls),
                usage=(found.input_tokens, found.output_tokens),
            )
        model = self._models.setdefault(
            base or self._url, AsyncOpenAI(base_url=base or self._url, api_key="none", max_retries=0)
        )
        reply = reply_of((await model.chat.completions.create(**question)).model_dump())
        assert reply.usage is not None
        options = LlmStoreOptions(tokens={"input": reply.usage[0], "output": reply.usage[1]})
        blocks = [{"type": "text", "text": reply.texts[0]}] if reply.texts[0] else []
        blocks += [
            {"type": "tool_call", "id": "call_1", "name": name, "args": json.loads(args)} for name, args in reply.tools
        ]
        await self._cache.llm.store_multipart(params, blocks, options)
        return reply

    async def invalidate_model(self, model: str) -> None:
        await self._cache.llm.invalidate_by_model(model)

    async def clear(self) -> None:
        await self._cache.llm.clear()

    async def statistics(self) -> dict[str, int]:
        found = await self._cache.stats()
        return {"hits": found.llm.hits, "misses": found.llm.misses, "dollars saved": found.cost_saved_micros}
