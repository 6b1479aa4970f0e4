"""Fixtures: a cache of each library on one server, under names of their own, with the same options."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import prometheus_client
import pytest
import valkey.asyncio

from tiercache.compat import betterdb as compat
from tiercache.compat.betterdb.types import TelemetryOptions


@pytest.fixture
async def make_compat(url: str) -> AsyncIterator[Callable[..., compat.AgentCache]]:
    """Return a function that makes caches with betterdb's options; they are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> compat.AgentCache:
            client = options.pop("client", None) or valkey.asyncio.Valkey.from_url(url)
            stack.push_async_callback(client.aclose)
            options.setdefault("telemetry", TelemetryOptions(registry=prometheus_client.CollectorRegistry()))
            sweeps = options.pop("sweeps", True)
            options = {"name": "test", **options}
            cache = compat.AgentCache(compat.AgentCacheOptions(client=client, **options), sweeps=sweeps)
            stack.push_async_callback(cache.shutdown)
            return cache

        yield make
