"""Loads that hold a lease, and loads that wait for a lease."""

from __future__ import annotations

import asyncio
from typing import Any

import valkey

from tests.requests import Loader
from tests.support import until
from tiercache import AgentCache
from tiercache.engine.coherence.placeholders import is_placeholder

KEY = "test:__tc:kv:kv:k"


def load(cache: AgentCache, loader: Any, key: str = "k", **options: Any) -> asyncio.Task[Any]:
    """Start a caller of ``kv.get_or_load``."""
    return asyncio.create_task(cache.kv.get_or_load(key, loader, **options))


async def wait_for_lease(cache: AgentCache, count: int = 1) -> None:
    """Return when ``cache`` has waited ``count`` times for the lease of another load."""
    await until(lambda: cache.local_stats().tiers["kv"].lease_waits >= count)


def is_leased(plain: valkey.Valkey, key: str = KEY) -> bool:
    """Return whether Valkey holds the placeholder of a lease under ``key``."""
    data = plain.get(key)
    return data is not None and is_placeholder(data)


async def start_holder(cache: AgentCache, loader: Loader, **options: Any) -> asyncio.Task[Any]:
    """Return a caller of ``cache`` whose load holds the lease."""
    task = load(cache, loader, **options)
    await loader.started.wait()
    return task
