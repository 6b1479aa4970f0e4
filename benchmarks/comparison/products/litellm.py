"""LiteLLM: its SDK, with the cache of type "redis".

A hit of LiteLLM 1.110 imports fastapi, which LiteLLM does not install without its extra for the proxy."""

import asyncio
import os
import time
from typing import Any
from urllib.parse import urlsplit

# Set before the import: LiteLLM fetches its table of prices from the network otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.caching.caching import Cache

from benchmarks.comparison.product import Answers, Question, Reply, Setting, reply_of

litellm.telemetry = False

_STORED_AFTER = 0.1
"""Seconds that LiteLLM gets to store an answer: it does this in a task of its own, after it has returned the answer."""


class LiteLlm(Answers):
    title = 'LiteLLM `Cache(type="redis")`'
    distributions = ("litellm", "redis", "openai")

    async def open(self, setting: Setting) -> None:
        self._url = setting.model_url
        address = urlsplit(setting.valkey_url)
        litellm.cache = Cache(type="redis", host=address.hostname, port=str(address.port), ttl=setting.ttl)

    async def close(self) -> None:
        await litellm.cache.disconnect()
        litellm.cache = None

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        completion = await litellm.acompletion(**self._call(question, base))
        await asyncio.sleep(_STORED_AFTER)
        return reply_of(completion.model_dump())

    def ask_plain(self, question: Question) -> Reply:
        completion = litellm.completion(**self._call(question))
        time.sleep(_STORED_AFTER)
        return reply_of(completion.model_dump())

    async def stream(self, question: Question) -> list[str]:
        stream = await litellm.acompletion(**self._call(question), stream=True)
        events = [event.model_dump_json() async for event in stream]
        await asyncio.sleep(_STORED_AFTER)
        return events

    async def invalidate_entry(self, question: Question) -> None:
        key = litellm.cache.get_cache_key(**self._call(question))
        await litellm.cache.cache.async_delete_cache(key)

    async def clear(self) -> None:
        litellm.cache.cache.flush_cache()

    def _call(self, question: Question, base: str | None = None) -> dict[str, Any]:
        options = {"api_base": base or self._url, "api_key": "none", "max_retries": 0, "num_retries": 0}
        return {**question, "model": f"openai/{question['model']}", **options}
