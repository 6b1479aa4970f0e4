"""Write-behind stores that have returned, and that no flush of the writes has confirmed yet."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from ...agent_cache import AgentCache
from .history import Change, Event

__all__ = ["UnflushedStores"]


class UnflushedStores:
    """The unconfirmed stores of one cache. ``record`` receives each of them once, when it is confirmed or lost."""

    def __init__(self, cache: AgentCache, record: Callable[[Event], None]) -> None:
        self._cache = cache
        self._record = record
        self._stores: list[tuple[Change, str, int]] = []

    def lost_count(self, tier: str) -> int:
        """Return how many stores of ``tier`` did not reach Valkey."""
        return self._cache.local_stats().tiers[tier].write_errors

    def add(self, change: Change, tier: str, lost_count: int) -> None:
        """Add a store that has returned.

        Args:
            lost_count: The result of the method ``lost_count`` before the store began.
        """
        self._stores.append((change, tier, lost_count))

    async def flush(self) -> None:
        """Flush the writes of the cache; record the stores so far, as acknowledged if none of the tier was lost."""
        stores, self._stores = self._stores, []
        if not stores:
            return
        await self._cache.flush_writes()
        moment = time.monotonic()
        for change, tier, lost_count in stores:
            is_lost = self.lost_count(tier) > lost_count
            self._record(change if is_lost else msgspec.structs.replace(change, acked=moment))
