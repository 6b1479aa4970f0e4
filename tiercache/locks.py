"""Locks between the threads of one process, which a fork leaves usable."""

from __future__ import annotations

import os
from threading import RLock
from types import TracebackType
from typing import Final
from weakref import WeakSet

__all__ = ["ThreadLock"]


class ThreadLock:
    """A lock for ``with``. A forked process finds it free, although a thread of the parent held it during the fork.

    The thread that holds it may enter it again: a signal handler or a finalizer may run in the middle of its block.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock by a free one. The thread that held it does not exist in this process."""
        self._lock = RLock()


_LOCKS: Final[WeakSet[ThreadLock]] = WeakSet()


def _renew_all() -> None:
    for lock in list(_LOCKS):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
