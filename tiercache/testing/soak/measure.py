"""The measures of this process: memory, tasks, descriptors, threads, and the containers of a cache."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path
from typing import Final

from ...agent_cache import AgentCache
from .container_sizes import container_sizes, function_cache_sizes
from .protocol import Rest

__all__ = ["EMPTY_AT_REST", "descriptor_count", "measure", "not_empty"]

# The classes whose containers are empty as soon as no call is in progress and Valkey has answered every write.
EMPTY_AT_REST: Final = frozenset(
    {
        "Fences",
        "Flights",
        "Inbox",
        "Leases",
        "MultiplexedConnection",
        "PendingInvalidations",
        "QueueBudget",
        "UnsentStores",
        "WriteBehind",
        "WritePipe",
    }
)
_PROC: Final = Path("/proc/self")


def measure(cache: AgentCache, seconds: float) -> Rest:
    """Return the measures of this process, whose load rests, ``seconds`` after the load began."""
    gc.collect()
    return Rest(
        seconds=seconds,
        rss_bytes=_rss_bytes(),
        tasks=len(asyncio.all_tasks()),
        descriptors=descriptor_count(),
        threads=threading.active_count(),
        sizes={name: size for name, size in _sizes(cache).items() if size},
    )


def not_empty(cache: AgentCache) -> dict[str, int]:
    """Return the sizes of the containers of ``EMPTY_AT_REST`` that are not empty, by class and attribute."""
    sizes = container_sizes(cache)
    return {name: size for name, size in sizes.items() if size and name.partition(".")[0] in EMPTY_AT_REST}


def descriptor_count() -> int:
    """Return the number of open file descriptors, or 0 where the system does not tell."""
    folder = _PROC / "fd"
    # The listing itself needs a descriptor.
    return len(os.listdir(folder)) - 1 if folder.exists() else 0


def _sizes(cache: AgentCache) -> dict[str, int]:
    return container_sizes(cache) | function_cache_sizes()


def _rss_bytes() -> int:
    file = _PROC / "statm"
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.exists() else 0
