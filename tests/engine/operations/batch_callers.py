"""Callers of a batch loader."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.seams import BatchView
from tests.support import until
from tiercache import AgentCache, ToolResult
from tiercache.engine.operations.batch_loader import BatchLoader

# A window longer than any test: the function is called only for a full batch.
FOR_EVER = 3600.0


def call_tool(
    cache: AgentCache, loader: Any, *cities: str, tool: str = "weather", **options: Any
) -> list[asyncio.Task[Any]]:
    """Start a caller of ``tool.get_or_load`` for each of ``cities``, in order."""
    return [
        asyncio.create_task(cache.tool.get_or_load(tool, {"city": city}, loader, **options), name=city)
        for city in cities
    ]


async def outcomes_of(tasks: list[asyncio.Task[ToolResult]]) -> list[Any]:
    """Return the value or the exception of each caller."""
    async with asyncio.timeout(10):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return [result if isinstance(result, BaseException) else result.value for result in results]


async def wait_for_batch(loader: BatchLoader, count: int) -> None:
    """Return once the batch that ``loader`` collects has ``count`` calls."""
    await until(lambda: BatchView(loader).size == count)
