"""LangChain's caches, in memory, of langchain-community and of langchain-redis, in a chat model of langchain-openai."""

import os
import warnings
from typing import Any

# Set before the import: nothing may be sent to a tracing service.
os.environ["LANGSMITH_TRACING"] = "false"

import redis
import redis.asyncio
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.outputs import LLMResult
from langchain_openai import ChatOpenAI

from benchmarks.comparison.product import Answers, Question, Reply, Setting

_SETTINGS = ("temperature", "seed", "n", "extra_body", "reasoning_effort", "max_tokens", "stop")
"""Parameters that the model takes when it is made; the others are bound to a call."""


class _Langchain(Answers):
    _cache: BaseCache
    _plain_cache: BaseCache

    async def open(self, setting: Setting) -> None:
        self._url = setting.model_url

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        model, messages, bound = self._prepared(question, base, self._cache)
        return _reply(await model.agenerate([messages], **bound))

    def ask_plain(self, question: Question) -> Reply:
        model, messages, bound = self._prepared(question, None, self._plain_cache)
        return _reply(model.generate([messages], **bound))

    async def stream(self, question: Question) -> list[str]:
        model, messages, bound = self._prepared(question, None, self._cache)
        return [chunk.model_dump_json() async for chunk in model.astream(messages, **bound)]

    async def clear(self) -> None:
        await self._cache.aclear()

    def _prepared(self, question: Question, base: str | None, cache: BaseCache) -> tuple[ChatOpenAI, list[Any], Any]:
        settings = {name: question[name] for name in _SETTINGS if name in question}
        bound = {name: value for name, value in question.items() if name not in (*_SETTINGS, "model", "messages")}
        model = ChatOpenAI(
            model=question["model"],
            base_url=base or self._url,
            api_key="none",
            max_retries=0,
            cache=cache,
            **settings,
        )
        return model, convert_to_messages(question["messages"]), bound


class LangchainMemory(_Langchain):
    title = "langchain-core `InMemoryCache`"
    distributions = ("langchain-core", "langchain-openai", "openai")
    uses_store = False
    has_ttl = False

    async def open(self, setting: Setting) -> None:
        await super().open(setting)
        self._cache = self._plain_cache = InMemoryCache()


class LangchainCommunity(_Langchain):
    title = "langchain-community `RedisCache`"
    distributions = ("langchain-community", "langchain-core", "redis", "openai")

    async def open(self, setting: Setting) -> None:
        with warnings.catch_warnings():  # Its import warns of deprecated modules.
            warnings.simplefilter("ignore")
            from langchain_community.cache import AsyncRedisCache, RedisCache
        await super().open(setting)
        self._client = redis.asyncio.Redis.from_url(setting.valkey_url)
        self._plain_client = redis.Redis.from_url(setting.valkey_url)
        self._cache = AsyncRedisCache(self._client, ttl=setting.ttl)
        self._plain_cache = RedisCache(self._plain_client, ttl=setting.ttl)

    async def close(self) -> None:
        await self._client.aclose()
        self._plain_client.close()


class LangchainRedis(_Langchain):
    title = "langchain-redis `RedisCache`"
    distributions = ("langchain-redis", "langchain-core", "redis", "openai")
    needs_modules = True

    async def open(self, setting: Setting) -> None:
        from langchain_redis import RedisCache

        await super().open(setting)
        self._cache = self._plain_cache = RedisCache(setting.valkey_url, ttl=setting.ttl)


def _reply(result: LLMResult) -> Reply:
    generations = result.generations[0]
    message: BaseMessage = generations[0].message  # type: ignore[union-attr]
    calls = message.additional_kwargs.get("tool_calls") or [
        {"function": {"name": call["name"], "arguments": str(call["args"])}}
        for call in getattr(message, "tool_calls", ())
    ]
    usage = getattr(message, "usage_metadata", None)
    return Reply(
        texts=tuple(generation.text for generation in generations),
        tools=tuple((call["function"]["name"], call["function"]["arguments"]) for call in calls),
        usage=(usage["input_tokens"], usage["output_tokens"]) if usage else None,
        refusal=message.additional_kwargs.get("refusal"),
        finish=message.response_metadata.get("finish_reason"),
    )
