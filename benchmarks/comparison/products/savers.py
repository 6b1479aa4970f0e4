"""Checkpoint savers of LangGraph."""

import os
from contextlib import AsyncExitStack, ExitStack
from typing import Any

# Set before the imports: nothing may be sent to a tracing service, or to the makers of a library.
os.environ["LANGSMITH_TRACING"] = "false"
os.environ["BETTERDB_TELEMETRY"] = "false"

from langgraph.checkpoint.memory import InMemorySaver

from benchmarks.comparison.product import Setting, Threads


class _Savers(Threads):
    def __init__(self) -> None:
        self._open = AsyncExitStack()
        self._open_plain = ExitStack()

    async def close(self) -> None:
        self._open_plain.close()
        await self._open.aclose()


class TiercacheSaver(_Savers):
    title = "tiercache `TierCacheSaver`"
    distributions = ("tiercache-agents", "langgraph", "langgraph-checkpoint", "valkey")

    async def saver(self, setting: Setting) -> Any:
        from tiercache import AgentCache, SessionOptions
        from tiercache.adapters.langgraph import TierCacheSaver

        cache = AgentCache.from_url(setting.valkey_url, name="comparison", session=SessionOptions(ttl=setting.ttl))
        return TierCacheSaver(await self._open.enter_async_context(cache))

    def plain_saver(self, setting: Setting) -> Any:
        from tiercache import AgentCache
        from tiercache.adapters.langgraph import TierCacheSaver

        cache = AgentCache.from_url(setting.valkey_url, name="comparison")
        self._open_plain.enter_context(cache.sync)
        return TierCacheSaver(cache)


class MemorySaver(_Savers):
    title = "`InMemorySaver`"
    distributions = ("langgraph-checkpoint", "langgraph")
    uses_store = False
    has_ttl = False

    async def saver(self, setting: Setting) -> Any:
        return InMemorySaver()

    def plain_saver(self, setting: Setting) -> Any:
        return InMemorySaver()


class RedisModulesSaver(_Savers):
    title = "langgraph-checkpoint-redis"
    distributions = ("langgraph-checkpoint-redis", "langgraph", "langgraph-checkpoint", "redis")

    async def saver(self, setting: Setting) -> Any:
        from langgraph.checkpoint.redis.aio import AsyncRedisSaver

        saver = await self._open.enter_async_context(AsyncRedisSaver.from_conn_string(setting.valkey_url))
        await saver.asetup()
        return saver

    def plain_saver(self, setting: Setting) -> Any:
        from langgraph.checkpoint.redis import RedisSaver

        saver = self._open_plain.enter_context(RedisSaver.from_conn_string(setting.valkey_url))
        saver.setup()
        return saver


class AwsValkeySaver(_Savers):
    title = "langgraph-checkpoint-aws `ValkeySaver`"
    distributions = ("langgraph-checkpoint-aws", "langgraph", "langgraph-checkpoint", "valkey")

    async def saver(self, setting: Setting) -> Any:
        from langgraph_checkpoint_aws import AsyncValkeySaver

        made = AsyncValkeySaver.from_conn_string(setting.valkey_url, ttl_seconds=setting.ttl)
        return await self._open.enter_async_context(made)

    def plain_saver(self, setting: Setting) -> Any:
        from langgraph_checkpoint_aws import ValkeySaver

        return self._open_plain.enter_context(ValkeySaver.from_conn_string(setting.valkey_url))


class BetterdbSaver(_Savers):
    title = "betterdb-agent-cache `BetterDBSaver`"
    distributions = ("betterdb-agent-cache", "langgraph", "langgraph-checkpoint", "valkey")

    async def saver(self, setting: Setting) -> Any:
        from betterdb_agent_cache import AgentCache
        from betterdb_agent_cache.adapters.langgraph import BetterDBSaver
        from betterdb_agent_cache.types import AgentCacheOptions
        from valkey.asyncio import Valkey

        client = Valkey.from_url(setting.valkey_url)
        cache = AgentCache(AgentCacheOptions(client=client, name="comparison", default_ttl=setting.ttl))
        self._open.push_async_callback(client.aclose)
        self._open.push_async_callback(cache.shutdown)
        return BetterDBSaver(cache)

    def plain_saver(self, setting: Setting) -> Any:
        from betterdb_agent_cache import AgentCache
        from betterdb_agent_cache.adapters.langgraph import BetterDBSaver
        from betterdb_agent_cache.types import AgentCacheOptions
        from valkey.asyncio import Valkey

        return BetterDBSaver(AgentCache(AgentCacheOptions(client=Valkey.from_url(setting.valkey_url))))
