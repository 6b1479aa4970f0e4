"""The one background worker of a cache: statistics every second, registration and policies every half minute."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final, Protocol

from ..engine.level2.breaker import GuardedLevel2
from ..errors import TierCacheError, UsageError
from ..indexes.reindex import Reindex
from .discovery import Discovery
from .statistics import StatsHash

__all__ = ["MonitorService"]

_LOGGER: Final = logging.getLogger("tiercache")
_SEND_SECONDS: Final = 1.0
_BEAT_SECONDS: Final = 30.0
_SETTLE_SECONDS: Final = 0.02


class Policies(Protocol):
    """The tool policies in Valkey, as this process knows them.

    Attributes:
        key: The key of their hash.
    """

    @property
    def key(self) -> str: ...

    async def refresh(self, level2: GuardedLevel2) -> bool:
        """Read all policies from Valkey; return False, and keep the known ones, if Valkey did not answer."""
        ...


class MonitorService:
    """Keeps what the Monitor reads up to date, and this process up to date with what the Monitor writes.

    Args:
        indexing: Who sees to it that the indexes are complete.
        discovery: None leaves the cache unregistered, and the indexes as they are.
    """

    def __init__(
        self, statistics: StatsHash, policies: Policies, indexing: Reindex, discovery: Discovery | None
    ) -> None:
        self._statistics = statistics
        self._policies = policies
        self._reindex = indexing
        self._discovery = discovery
        self._registered = False
        self._was_removed = False
        self._is_to_be_indexed = False
        self._policies_changed = asyncio.Event()
        self.policies_key = policies.key

    def policies_changed(self) -> None:
        """Read the policies soon: another process may have changed them."""
        self._policies_changed.set()

    async def open(self, level2: GuardedLevel2) -> None:
        """Register, and read the policies: the first store already knows them.

        Raises:
            UsageError: The name is taken by another kind of cache.
        """
        if self._discovery is not None:
            await self._discovery.check(level2)
        await self._beat(level2)

    async def run(self, level2: GuardedLevel2) -> None:
        """Send, beat, refresh and index until cancelled."""
        async with asyncio.TaskGroup() as beside:
            await self._run(level2, beside)

    async def _run(self, level2: GuardedLevel2, beside: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        beat_at = loop.time() + _BEAT_SECONDS
        while True:
            if self._is_to_be_indexed:
                self._is_to_be_indexed = False
                beside.create_task(self._index(level2), name="tiercache-index")
            await self._wait()
            if not level2.is_answering:
                # Increments are kept until Valkey is back: what is sent and not answered is lost.
                with suppress(TierCacheError):
                    await level2.ping()
                continue
            await self._statistics.send(level2)
            # What failed while Valkey was away is made up for as soon as it is back.
            if loop.time() >= beat_at or (self._discovery is not None and not self._registered):
                beat_at = loop.time() + _BEAT_SECONDS
                await self._register_late(level2)
                await self._beat(level2)

            elif self._policies_changed.is_set():
                self._policies_changed.clear()
                await self._policies.refresh(level2)

    async def _wait(self) -> None:
        """Return after a second, or a moment after the policies have been changed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEND_SECONDS):
                await self._policies_changed.wait()
                # Several changes, and the many messages that one change makes, are read once.
                await asyncio.sleep(_SETTLE_SECONDS)

    async def _register_late(self, level2: GuardedLevel2) -> None:
        if self._discovery is None or self._registered:
            return
        try:
            await self._discovery.check(level2)
        except UsageError as error:
            # Nobody is left to refuse to: the cache has been at work without Valkey since it was opened.
            _LOGGER.error("The cache is not registered: %s", error)
            self._discovery = None

    async def _beat(self, level2: GuardedLevel2) -> None:
        """Rewrite the registration, read the policies anew, tidy up."""
        if self._discovery is not None:
            is_first = not self._registered
            self._registered = await self._discovery.beat(level2)
            if self._registered:
                await self._see_to_indexes(level2, self._discovery.found, is_first=is_first)
        await self._policies.refresh(level2)
        try:
            await level2.trim_indexes()
        except TierCacheError as error:
            _LOGGER.debug("The indexes were not trimmed: %s", error)

    async def _see_to_indexes(self, level2: GuardedLevel2, found: str, *, is_first: bool) -> None:
        if not is_first and found == "nobody":
            # Everything was removed. Others who write have half a minute to register anew before it is looked again.
            self._was_removed = True
        elif found != "another" and (is_first or self._was_removed):
            self._was_removed = False
            self._is_to_be_indexed = not await self._reindex.begin(level2)
        else:
            try:
                await self._reindex.watch(level2)
            except TierCacheError as error:
                _LOGGER.debug("It is not known whether Valkey evicts keys: %s", error)

    async def _index(self, level2: GuardedLevel2) -> None:
        """Finish in the background what there was no time for when the cache was opened."""
        try:
            await self._reindex.run(level2)
        except TierCacheError as error:
            _LOGGER.debug("The indexes were not made complete: %s", error)

    async def close(self, level2: GuardedLevel2) -> None:
        """Send what is left and leave the registry."""
        await self._statistics.send(level2)
        if self._discovery is not None:
            await self._discovery.leave(level2)
