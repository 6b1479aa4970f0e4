"""tiercache: wrapped clients."""

from typing import Any

from openai import AsyncOpenAI, OpenAI

from benchmarks.comparison.product import Answers, Question, Reply, Setting, reply_of
from tiercache import AgentCache

_OPTIONS: dict[str, Any] = {"api_key": "none", "max_retries": 0}


class Tiercache(Answers):
    title = "tiercache"
    distributions = ("tiercache-agents", "valkey", "openai")

    async def open(self, setting: Setting) -> None:
        self._cache = AgentCache.from_url(setting.valkey_url, name="comparison", default_ttl=setting.ttl or 3600)
        await self._cache.open()
        self._tags = [] if setting.tag is None else [setting.tag]
        self._url = setting.model_url
        self._clients: dict[str, AsyncOpenAI] = {}
        self._plain = self._cache.wrap(OpenAI(base_url=self._url, **_OPTIONS))

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._plain.close()
        await self._cache.aclose()

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        with self._cache.calls(tags=self._tags):
            completion = await self._client(base or self._url).chat.completions.create(**question)
        return reply_of(completion.model_dump())

    def ask_plain(self, question: Question) -> Reply:
        return reply_of(self._plain.chat.completions.create(**question).model_dump())

    async def stream(self, question: Question) -> list[str]:
        stream = await self._client(self._url).chat.completions.create(**question, stream=True)
        return [event.model_dump_json() async for event in stream]

    async def invalidate_entry(self, question: Question) -> None:
        with self._cache.watch() as seen:
            await self.ask(question)
        assert seen[0].key is not None
        await self._cache.llm.invalidate(seen[0].key)

    async def invalidate_tag(self, tag: str) -> None:
        await self._cache.invalidate_tag(tag)

    async def invalidate_model(self, model: str) -> None:
        await self._cache.llm.invalidate_by_model(model)

    async def clear(self) -> None:
        await self._cache.llm.clear()

    async def statistics(self) -> dict[str, int]:
        found = await self._cache.stats()
        return {"hits": found.llm.hits, "misses": found.llm.misses, "dollars saved": found.cost_saved_micros}

    def _client(self, base: str) -> AsyncOpenAI:
        if base not in self._clients:
            self._clients[base] = self._cache.wrap(AsyncOpenAI(base_url=base, **_OPTIONS))
        return self._clients[base]
