"""A cache on a fakeredis client, with which users may test their own code without a server."""

from __future__ import annotations

import fakeredis

from tests.requests import HELLO, Loader
from tiercache import AgentCache


async def test_cache_loads_reads_and_invalidates_on_a_fake_client() -> None:
    client = fakeredis.FakeAsyncValkey()
    async with AgentCache(client, name="fake", default_ttl=60) as cache:
        assert (await cache.llm.get_or_load(HELLO, Loader())).source == "loader"
        await cache.flush_writes()
        cache.clear_l1()
        result = await cache.llm.check(HELLO)
        assert (result.source, result.degraded) == ("l2", False)
        await cache.tool.store("t", {}, {"a": 1})
        await cache.kv.set("k", 1)
        cache.clear_l1()
        assert await cache.kv.get("k") == 1
        assert await cache.tool.invalidate_by_tool("t") == 1
        assert await cache.llm.clear() == 1
        assert (await cache.stats()).llm.hits == 1
    await client.aclose()
