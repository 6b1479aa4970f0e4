"""The peer library betterdb-agent-cache, which shares a server with tiercache in some tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

os.environ["BETTERDB_TELEMETRY"] = "false"

import betterdb_agent_cache as betterdb
import valkey.asyncio
from betterdb_agent_cache.types import TelemetryOptions

from tests.support import kept_registry


@asynccontextmanager
async def betterdb_cache(url: str, name: str = "test", **client_options: Any) -> AsyncIterator[betterdb.AgentCache]:
    """Yield a cache of betterdb-agent-cache on the server, with a metrics registry of its own."""
    async with valkey.asyncio.Valkey.from_url(url, **client_options) as client:
        telemetry = TelemetryOptions(registry=kept_registry())
        cache = betterdb.AgentCache(betterdb.AgentCacheOptions(client=client, name=name, telemetry=telemetry))
        yield cache
        await cache.shutdown()
