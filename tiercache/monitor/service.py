"""The background worker of a cache: statistics every second, registration every half minute, tool policies.

While the server tracks the watched keys (CLIENT TRACKING), this worker reads the policies when they have changed, and
writes the heartbeat again as soon as other software deletes it. Without tracking it reads the policies every second,
and the heartbeat returns with the next registration.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, TypeAlias

from ..engine.level2.breaker import GuardedLevel2
from ..errors import TierCacheError, UsageError
from ..indexes.foreign_writes import ForeignWrites
from ..indexes.reindex import Reindex
from ..log import CacheLog
from ..supervision import attempt
from .discovery import Discovery
from .statistics import StatsHash

__all__ = ["Job", "MonitorService"]

_SEND_SECONDS: Final = 1.0
_BEAT_SECONDS: Final = 30.0
_GATHER_SECONDS: Final = 0.02
# The most seconds by which a process delays the restoring of the heartbeat, so that in a fleet one process restores it
# and the others find it restored; and the fewest seconds between two looks at it, because each registration of each
# process is a change of it.
_JITTER_SECONDS: Final = 0.1
_RESTORE_SECONDS: Final = 1.0


# A job of the background worker. It may raise TierCacheError.
Job: TypeAlias = Callable[[GuardedLevel2], Awaitable[object]]


class Fields(Protocol):
    """Policies or settings in a hash in Valkey, as this process knows them.

    Attributes:
        kind: Their name in log lines.
        key: The key of the hash.
    """

    @property
    def kind(self) -> str: ...

    @property
    def key(self) -> str: ...

    async def refresh(self, level2: GuardedLevel2) -> bool:
        """Read all fields from Valkey; return False, and keep the known fields, if Valkey did not answer."""
        ...


class MonitorService:
    """Sends the data that the Monitor reads, and reads the tool policies that the Monitor writes, and the settings.

    Args:
        statistics: The statistics hash, or None if another server has it.
        fields: The tool policies, and the settings of tiers and tools.
        indexes: Completes the indexes, and looks for entries that other software has written.
        discovery: The registration. None leaves the cache unregistered, and the indexes unchanged.
        log: The cache's log.
        jobs: Further jobs of each round, by name.

    Attributes:
        watched_keys: The keys of the tool policies, of the settings and of the heartbeat.
    """

    def __init__(
        self,
        statistics: StatsHash | None,
        fields: Sequence[Fields],
        indexes: tuple[Reindex, ForeignWrites],
        discovery: Discovery | None,
        log: CacheLog,
        jobs: Mapping[str, Job],
    ) -> None:
        self._statistics = statistics
        self._fields = fields
        self._reindex, self._foreign_writes = indexes
        self._discovery = discovery
        self._log = log
        self._jobs = jobs
        self._registered = False
        # The next registration must look for entries that may be in no index: the last one found that all keys were
        # removed, or a defect ended the completion of the indexes.
        self._must_look = False
        self._must_reindex = False
        self._must_read_policies = False
        # The heartbeat has changed since the last look at it.
        self._must_restore = False
        self._restored_at = -math.inf
        self._beat_at = math.inf
        self._woken = asyncio.Event()
        heartbeat = frozenset[str]() if discovery is None else frozenset((discovery.heartbeat,))
        self._field_keys = frozenset(each.key for each in fields)
        self.watched_keys = heartbeat | self._field_keys

    def policies_changed(self) -> None:
        """Read the policies and the settings soon: another process may have changed them."""
        self._must_read_policies = True
        self._woken.set()

    def watched_changed(self, key: str | None) -> None:
        """Look at a watched key again soon: another client has changed it. None: any key may have changed."""
        if key is None or key in self._field_keys:
            self.policies_changed()
        if key not in self._field_keys:
            self._must_restore = True
            if asyncio.get_running_loop().time() >= self._restored_at + _RESTORE_SECONDS:
                self._woken.set()

    def key_changed(self, key: str) -> None:
        """Note an entry that another client has changed: unregistered software may have written it."""
        self._foreign_writes.note(key)

    async def open(self, level2: GuardedLevel2) -> None:
        """Register the cache and read the policies, so that the first store knows them.

        Raises:
            UsageError: The name is registered for another kind of cache.
        """
        if self._discovery is not None:
            await self._discovery.check(level2)
        await self._beat(level2)

    async def _attempt(
        self, job: str, work: Callable[[GuardedLevel2], Awaitable[object]], level2: GuardedLevel2
    ) -> bool:
        """Run one job of a round. A defect in it ends this job alone, until its next round."""
        return await attempt(job, partial(work, level2), self._log)

    async def run(self, level2: GuardedLevel2, is_tracking: Callable[[], bool]) -> None:
        """Send statistics, register, refresh the policies and complete the indexes, until cancelled.

        Args:
            is_tracking: Returns whether the server reports changes of ``watched_keys``.
        """
        # An event belongs to the loop in which it was first awaited, and this service outlives its loops. A wake-up
        # that is lost here is made up for a second later.
        self._woken = asyncio.Event()
        self._restored_at = -math.inf
        self._put_off_beat()
        async with asyncio.TaskGroup() as tasks:
            await self._run(level2, is_tracking, tasks)

    def _put_off_beat(self) -> None:
        self._beat_at = asyncio.get_running_loop().time() + _BEAT_SECONDS

    async def _run(self, level2: GuardedLevel2, is_tracking: Callable[[], bool], tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._must_reindex:
                self._must_reindex = False
                tasks.create_task(self._complete_indexes(level2), name="tiercache-index")
            await self._wait()
            if not level2.is_answering:
                # The increments stay in this process until Valkey is back, because unanswered increments are lost.
                continue
            await self._send(level2)
            await self._do_jobs(level2)
            await self._attempt("look for foreign writes", self._look, level2)
            # A registration that failed during an outage is repeated as soon as Valkey is back.
            if loop.time() >= self._beat_at or (self._discovery is not None and not self._registered):
                self._put_off_beat()
                self._must_restore = self._must_read_policies = False
                await self._attempt("check of the name", self._check_name, level2)
                await self._beat(level2)
                continue
            if self._must_restore:
                await self._attempt("registration", self._restore, level2)
            if self._must_read_policies or not is_tracking():
                self._must_read_policies = False
                await self._read_fields(level2)

    async def _wait(self) -> None:
        """Return after a second, or shortly after a change of a watched key."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEND_SECONDS):
                await self._woken.wait()
                # One read serves several changes, and the several messages of one change.
                jitter = random.uniform(0, _JITTER_SECONDS) if self._must_restore else 0.0
                await asyncio.sleep(_GATHER_SECONDS + jitter)
        self._woken.clear()

    async def _check_name(self, level2: GuardedLevel2) -> None:
        """Check the name if the cache could not register when it was opened."""
        if self._discovery is None or self._registered:
            return
        try:
            await self._discovery.check(level2)
        except UsageError as error:
            # ``open`` has returned long ago: no caller is left to receive the error.
            self._log.error("the cache stays unregistered: %s", error)
            self._discovery = None

    async def _beat(self, level2: GuardedLevel2) -> None:
        """Rewrite the registration, read the policies, and trim the indexes."""
        await self._attempt("registration", self._register, level2)
        await self._read_fields(level2)
        await self._attempt("watch on evictions", self._watch, level2)
        await self._attempt("trimming of the indexes", self._trim, level2)

    async def _read_fields(self, level2: GuardedLevel2) -> None:
        for fields in self._fields:
            await self._attempt(fields.kind, partial(self._refresh, fields), level2)

    async def _refresh(self, fields: Fields, level2: GuardedLevel2) -> None:
        if not await fields.refresh(level2):
            # The next round reads again.
            self._must_read_policies = True

    async def _register(self, level2: GuardedLevel2) -> None:
        if self._discovery is None:
            return
        is_first = not self._registered
        self._registered = await self._discovery.beat(level2)
        if self._registered:
            await self._check_indexes(level2, self._discovery.found, is_first=is_first)

    async def _send(self, level2: GuardedLevel2) -> None:
        if self._statistics is not None:
            await self._attempt("statistics", self._statistics.send, level2)

    async def _do_jobs(self, level2: GuardedLevel2) -> None:
        for name, job in self._jobs.items():
            await self._attempt(name, partial(self._do_job, name, job), level2)

    async def _do_job(self, name: str, job: Job, level2: GuardedLevel2) -> None:
        try:
            await job(level2)
        except TierCacheError as error:
            self._log.debug("the job %r failed, the next round tries again: %s", name, error)

    async def _look(self, level2: GuardedLevel2) -> None:
        try:
            await self._foreign_writes.look(level2)
        except TierCacheError as error:
            self._log.debug("cannot look for entries of other software: %s", error)

    async def _watch(self, level2: GuardedLevel2) -> None:
        try:
            await self._reindex.watch(level2)
        except TierCacheError as error:
            self._log.debug("cannot find out whether Valkey evicts keys: %s", error)

    async def _restore(self, level2: GuardedLevel2) -> None:
        """Write the parts of the registration that other software has removed or overwritten."""
        self._must_restore = False
        if self._discovery is None or not self._registered:
            return
        self._restored_at = asyncio.get_running_loop().time()
        found = await self._discovery.restore(level2)
        if found is not None:
            # The next registration decides about the indexes, half a minute from now: see case 1 below.
            self._put_off_beat()
            self._must_look |= found == "nobody"

    async def _trim(self, level2: GuardedLevel2) -> None:
        try:
            await level2.trim_indexes()
        except TierCacheError as error:
            self._log.debug("cannot trim the indexes, the next registration tries again: %s", error)

    async def _check_indexes(self, level2: GuardedLevel2, found: str, *, is_first: bool) -> None:
        """Decide after a registration whether the indexes may be complete. There are two cases.

        1. A later registration found no marker: all keys were removed. Other software that writes gets half a minute
           to register again, and the next registration decides.
        2. No other software is registered, and this is the first registration or the one after case 1: look for
           entries that may be in no index.
        """
        if not is_first and found == "nobody":
            self._must_look = True
        elif found != "another" and (is_first or self._must_look):
            self._must_look = True
            self._must_reindex = not await self._reindex.begin(level2)
            self._must_look = False

    async def _complete_indexes(self, level2: GuardedLevel2) -> None:
        """Complete the indexes in the background, if opening the cache had no time for it."""

        async def complete(level2: GuardedLevel2) -> None:
            try:
                await self._reindex.run(level2)
            except TierCacheError as error:
                self._log.debug("cannot complete the indexes: %s", error)

        if not await self._attempt("completion of the indexes", complete, level2):
            # Not again at once: the job reads every key of the server.
            self._must_look = True

    async def close(self, level2: GuardedLevel2) -> None:
        """Send the remaining increments and leave the registry."""
        await self._send(level2)
        await self._do_jobs(level2)
        if self._discovery is not None:
            await self._discovery.leave(level2)
