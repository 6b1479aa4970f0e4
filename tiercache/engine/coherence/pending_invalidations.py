"""Pending invalidations: Valkey has not acknowledged them, so this process repeats them until Valkey does.

The caller of such an invalidation got an error. Until a repetition succeeds, this process does not read the invalidated
keys from Valkey, because the old values may still be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from itertools import islice
from typing import Final

from ...errors import PASSING, L2CommandError, L2NotNowError, TierCacheError
from ...log import CacheLog
from ...supervision import attempt
from ..entries.entry import MATCHING, Group, is_member
from ..level2.queued_write import OnDone, ignore_outcome
from ..level2.write_pipe import WritePipe
from ..level2.writes import Delete

__all__ = ["PendingInvalidations"]

_PAGE_COUNT: Final = 500


class PendingInvalidations:
    """The unacknowledged invalidations of one runtime. While Valkey is unavailable, each adds a key or a group.

    Args:
        pause: Seconds between two attempts.
    """

    def __init__(self, pipe: WritePipe, *, pause: float, log: CacheLog) -> None:
        self._pipe = pipe
        self._pause = pause
        self._log = log
        self._keys: dict[str, None] = {}
        self._groups: dict[Group, Callable[[], Awaitable[object]]] = {}
        self._covering_all: set[Group] = set()
        # A tuple: the other face of the cache looks at it from another thread.
        self._matching: tuple[Group, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def __bool__(self) -> bool:
        return bool(self._keys or self._groups)

    def covers(self, key: str, groups: Sequence[Group]) -> bool:
        """Return whether the value of ``key`` in Valkey may be invalidated, so that it must not be read."""
        return (
            key in self._keys
            or bool(self._covering_all)
            or any(group in self._groups for group in groups)
            or any(is_member(key, groups, group) for group in self._matching)
        )

    def note(self, keys: Sequence[str], outcome: object) -> None:
        """Record the outcome of an invalidation or write of ``keys``: without an answer the keys are pending."""
        if isinstance(outcome, PASSING):
            self._keys.update(dict.fromkeys(keys))
            self._start()
        elif self._keys and not isinstance(outcome, Exception):
            for key in keys:
                self._keys.pop(key, None)

    def remove(self, key: str, error: Exception) -> None:
        """Remove ``key`` from Valkey, after ``error`` prevented the store of a newer value."""
        if key in self._keys or isinstance(error, PASSING):
            self._keys[key] = None
            self._start()
        else:
            self.delete(key, ignore_outcome)

    def delete(self, key: str, on_done: OnDone) -> None:
        """Queue a delete of ``key``, whose outcome ``on_done`` receives; until then no lookup reads the key."""
        was_pending = key in self._keys
        self._keys[key] = None

        def deleted(outcome: object) -> None:
            if isinstance(outcome, L2CommandError) and not isinstance(outcome, PASSING) and not was_pending:
                # This process may neither store nor delete the key, and has to accept the value in Valkey.
                self._keys.pop(key, None)
            else:
                self.note((key,), outcome)
            on_done(outcome)

        self._pipe.post(Delete((key,), announced=True), deleted)

    def note_group(
        self, group: Group, repeat: Callable[[], Awaitable[object]], *, covers_everything: bool = False
    ) -> None:
        """Record that the invalidation of ``group`` was not acknowledged; ``repeat`` runs the invalidation again.

        Args:
            covers_everything: Whether any key may belong to the group, as with a tag: only Valkey knows which keys do.
        """
        self._groups[group] = repeat
        self._note_matching()
        if covers_everything:
            self._covering_all.add(group)
        self._start()

    def acknowledge_group(self, group: Group) -> None:
        """Record that the invalidation of ``group`` was acknowledged."""
        self._groups.pop(group, None)
        self._note_matching()
        self._covering_all.discard(group)

    def _note_matching(self) -> None:
        self._matching = tuple([group for group in self._groups if group.kind == MATCHING])

    def _start(self) -> None:
        if self._task is None and not self._is_closed:
            self._task = asyncio.get_running_loop().create_task(
                self._repeat(), name="tiercache-pending", context=Context()
            )

    async def _repeat(self) -> None:
        is_refused = False

        async def repeat() -> None:
            nonlocal is_refused
            try:
                await self._repeat_all()
            except TierCacheError as error:
                is_outage = isinstance(error, PASSING) and not isinstance(error, L2NotNowError)
                # The breaker logs an outage and refused credentials. In any case the loop tries again after the pause.
                if not is_outage and not is_refused:
                    is_refused = True
                    self._log.warning("Valkey refuses the repetition of a pending invalidation: %s", error)

        try:
            while self:
                await asyncio.sleep(self._pause)
                await attempt("pending invalidations", repeat, self._log)
        finally:
            self._task = None

    async def _repeat_all(self) -> None:
        # A key with an explicit write in flight is left out: the outcome of that write decides whether the key stays
        # pending, and a delete behind a store would remove the stored value.
        while page := tuple(islice((key for key in self._keys if not self._pipe.is_changing(key)), _PAGE_COUNT)):
            await self._pipe.write(Delete(page, announced=True))
            self.note(page, 0)
        for group, repeat in list(self._groups.items()):
            await repeat()
            self.acknowledge_group(group)

    async def aclose(self) -> None:
        """Stop repeating; the pending invalidations are given up."""
        self._is_closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
