"""The journal of one process: it checks every value that the cache returns, and counts the calls.

key      A value belongs to its key, and its bytes are those that a loader returned.
own      A read never returns a version older than a change that this process had completed before the read began.
bound    A read never returns a version older than a change that any process had completed more than ``max_staleness``
         before the read began.

The checks compare moments without any tolerance. The check ``bound`` runs a little later, in batches, because it asks
the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from .items import Item
from .ledger import Ledger
from .protocol import Problem
from .values import WrongValueError, version_of

__all__ = ["Journal"]

_PAUSE: Final = 0.25
# Reads that wait for the check ``bound``; a busy process leaves further reads out.
_MOST_WAITING: Final = 4000
# Problems of one kind that a process reports.
_MOST_PROBLEMS: Final = 10


class _Read(NamedTuple):
    key: str
    version: int
    began: float
    shown: str


class Journal:
    """The checks and the counts of one process.

    Args:
        report: Receives each problem.

    Attributes:
        calls: Calls by operation.
        raised: Permitted errors by class.
        cancelled: Calls that their caller cancelled.
        checked: Values that were checked.
    """

    def __init__(self, ledger: Ledger, max_staleness: float, report: Callable[[Problem], None]) -> None:
        self._ledger = ledger
        self._max_staleness = max_staleness
        self._report = report
        self._own: dict[str, tuple[int, str]] = {}
        self._waiting: deque[_Read] = deque(maxlen=_MOST_WAITING)
        self._problem_counts: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.raised: Counter[str] = Counter()
        self.cancelled = 0
        self.checked = 0

    def problem(self, kind: str, text: str) -> None:
        """Report a broken promise."""
        self._problem_counts[kind] += 1
        if self._problem_counts[kind] <= _MOST_PROBLEMS:
            self._report(Problem(kind, text[:2000], time.monotonic()))

    def floor(self, item: Item) -> int:
        """Return the version that this process must see from now on."""
        return self._own.get(item.key, (0, ""))[0]

    def floors(self, items: Sequence[Item]) -> dict[str, int]:
        """Return the floor of each item by key."""
        return {item.key: self.floor(item) for item in items}

    def changed(self, items: Sequence[Item], versions: Sequence[int], change: str) -> None:
        """Record that ``change``, of ``items`` to ``versions``, has returned: this process sees it from now on."""
        for item, version in zip(items, versions, strict=True):
            self._own[item.key] = max((version, change), self._own.get(item.key, (0, "")))

    def saw(self, item: Item, value: object, began: float, floor: int, shown: str) -> None:
        """Check one value.

        Args:
            value: The value, or None if the cache had none.
            began: The moment right before the call.
            floor: The result of ``floor`` at that moment.
            shown: The method, and the source that the cache reports.
        """
        if value is None:
            return
        self.checked += 1
        try:
            version = version_of(item.key, value)
        except WrongValueError as error:
            self.problem("key", f"{shown}: {error}")
            return
        if version < floor:
            change = self._own[item.key][1]
            text = (
                f"{shown} of {item.key} returned version {version} after this process had completed version {floor}; "
                f"its last change was {change}"
            )
            self.problem("own", text)
        elif item.role != "passing":
            self._waiting.append(_Read(item.key, version, began, shown))

    async def run(self) -> None:
        """Check the waiting reads again and again, until the task is cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            await self.check_waiting()

    async def check_waiting(self) -> None:
        """Compare the waiting reads with the changes that all processes have completed."""
        reads = list(self._waiting)
        self._waiting.clear()
        keys = sorted({read.key for read in reads})
        if not keys:
            return
        changes = dict(zip(keys, await self._ledger.changes(keys), strict=True))
        for read in reads:
            self._check_bound(read, changes)

    def _check_bound(self, read: _Read, changes: Mapping[str, Sequence[tuple[int, float, str]]]) -> None:
        due = read.began - self._max_staleness
        for version, acked, change in changes[read.key]:
            if acked < due and version > read.version:
                text = (
                    f"{read.shown} of {read.key} returned version {read.version}, {read.began - acked:.3f} s after the "
                    f"change to version {version} was acknowledged ({change})"
                )
                self.problem("bound", text)
                return
