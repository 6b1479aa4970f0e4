"""The saver under LangGraph's own conformance suite: every capability, by the async and by the plain methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from tests.adapters.installed import needs

needs("langgraph", "langgraph.checkpoint.conformance")

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate

from tiercache import AgentCache
from tiercache.adapters.langgraph import TierCacheSaver


class PlainMethods(BaseCheckpointSaver[Any]):
    """A saver whose async methods call the plain methods of another, in threads."""

    def __init__(self, saver: TierCacheSaver) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.saver.get_next_version(current, channel)

    async def aget_tuple(self, config: Any) -> Any:
        return await asyncio.to_thread(self.saver.get_tuple, config)

    async def alist(self, config: Any, **options: Any) -> AsyncIterator[Any]:
        for found in await asyncio.to_thread(lambda: list(self.saver.list(config, **options))):
            yield found

    async def aput(self, *args: Any) -> Any:
        return await asyncio.to_thread(self.saver.put, *args)

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        await asyncio.to_thread(self.saver.put_writes, config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        await asyncio.to_thread(self.saver.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await asyncio.to_thread(self.saver.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await asyncio.to_thread(self.saver.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await asyncio.to_thread(partial(self.saver.prune, thread_ids, strategy=strategy))

    async def aget_delta_channel_history(self, **options: Any) -> Mapping[str, Any]:
        return await asyncio.to_thread(partial(self.saver.get_delta_channel_history, **options))


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize("store", ["valkey", "memory"])
async def test_saver_has_every_capability_of_the_conformance_suite(store: str, is_async: bool, url: str) -> None:
    async def factory() -> AsyncGenerator[BaseCheckpointSaver[Any], None]:
        cache = AgentCache.in_memory() if store == "memory" else AgentCache.from_url(url, name="test")
        try:
            saver = TierCacheSaver(cache)
            yield saver if is_async else PlainMethods(saver)
        finally:
            await cache.aclose()

    report = await validate(checkpointer_test(name="TierCacheSaver")(factory))
    failures = {name: result.failures for name, result in report.results.items() if not result.passed}
    assert failures == {}
    assert report.conformance_level() == "FULL"
    assert len(report.results) >= 8
