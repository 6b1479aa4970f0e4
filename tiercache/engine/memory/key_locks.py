"""Locks by key: one caller of this process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["KeyLocks"]


class _Lock:
    """The lock of one key, and the number of callers that hold it or wait for it."""

    __slots__ = ("lock", "user_count")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.user_count = 0


class KeyLocks:
    """Locks by key. A lock exists while a caller holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, _Lock] = {}

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """While the block runs, let no other caller enter a block of ``key``."""
        own = self._locks.setdefault(key, _Lock())
        own.user_count += 1
        try:
            async with own.lock:
                yield
        finally:
            own.user_count -= 1
            if not own.user_count:
                del self._locks[key]

    def __len__(self) -> int:
        return len(self._locks)
