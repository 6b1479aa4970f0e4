"""Invalidations that Valkey has not acknowledged: repeated until it has, and what they concern is not read from it.

The caller knows: the invalidation raised. Until it is repeated with success this process at least does not serve what
may be left of it in Valkey.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Final

from ...errors import L2CommandError, L2UnavailableError, TierCacheError
from ...log import CacheLog
from ..entries.entry import Group
from ..level2.write_pipe import WritePipe
from ..level2.writes import Delete

__all__ = ["PendingInvalidations"]

_PAGE_COUNT: Final = 500


class PendingInvalidations:
    """The unacknowledged invalidations of one runtime. Grows by a key for each, while Valkey is away.

    Args:
        pause: Seconds between two attempts.
    """

    def __init__(self, pipe: WritePipe, *, pause: float, log: CacheLog) -> None:
        self._pipe = pipe
        self._pause = pause
        self._log = log
        self._keys: dict[str, None] = {}
        self._groups: dict[Group, Callable[[], Awaitable[object]]] = {}
        self._hiding: set[Group] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def __bool__(self) -> bool:
        return bool(self._keys or self._groups)

    def covers(self, key: str, groups: Sequence[Group]) -> bool:
        """Return whether what Valkey has under ``key`` may have been invalidated."""
        return key in self._keys or bool(self._hiding) or any(group in self._groups for group in groups)

    def note(self, keys: Sequence[str], outcome: object) -> None:
        """Take down how an invalidation, or a write, of ``keys`` ended."""
        if isinstance(outcome, L2UnavailableError):
            self._keys.update(dict.fromkeys(keys))
            self._start()
        elif self._keys and not isinstance(outcome, Exception):
            for key in keys:
                self._keys.pop(key, None)

    def remove(self, key: str, error: Exception) -> None:
        """Have ``key`` removed from Valkey, where ``error`` has kept a newer value from being stored."""
        is_known = key in self._keys
        self._keys[key] = None
        if is_known or isinstance(error, L2UnavailableError):
            self._start()
            return

        def removed(outcome: object) -> None:
            if isinstance(outcome, L2CommandError):
                # Whoever may neither store nor delete has to live with what is there.
                self._keys.pop(key, None)
            else:
                self.note((key,), outcome)

        self._pipe.post(Delete((key,), announced=True), removed)

    def note_group(
        self, group: Group, repeat: Callable[[], Awaitable[object]], *, hides_everything: bool = False
    ) -> None:
        """Take down that the invalidation of ``group`` was not acknowledged; ``repeat`` does it again.

        Args:
            hides_everything: Whether any key may belong to the group, as with a tag.
        """
        self._groups[group] = repeat
        if hides_everything:
            self._hiding.add(group)
        self._start()

    def settle_group(self, group: Group) -> None:
        """Take down that the invalidation of ``group`` was acknowledged."""
        self._groups.pop(group, None)
        self._hiding.discard(group)

    def _start(self) -> None:
        if self._task is None and not self._is_closed:
            self._task = asyncio.get_running_loop().create_task(self._repeat(), name="tiercache-unsettled")

    async def _repeat(self) -> None:
        is_refused = False
        try:
            while self:
                await asyncio.sleep(self._pause)
                try:
                    await self._repeat_all()
                except L2UnavailableError:
                    pass  # Said by the breaker; the next attempt is under way.
                except TierCacheError as error:
                    if not is_refused:
                        is_refused = True
                        self._log.warning("An invalidation that Valkey did not answer is refused now: %s", error)
        finally:
            self._task = None

    async def _repeat_all(self) -> None:
        # A key that is being changed is settled by that: a delete behind a store would remove what was stored.
        while page := tuple(islice((key for key in self._keys if not self._pipe.is_changing(key)), _PAGE_COUNT)):
            await self._pipe.write(Delete(page, announced=True))
            self.note(page, 0)
        for group, repeat in list(self._groups.items()):
            await repeat()
            self.settle_group(group)

    async def aclose(self) -> None:
        """Give up."""
        self._is_closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
