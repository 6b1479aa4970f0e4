"""Write-behind: stores that have returned to their callers, but that Valkey has not acknowledged yet.

A read that starts after such a store must not return the value that Valkey held before the store. There are two cases:

1. L1 could serve the queued value too (its fence holds, its deadline has not passed, it is trusted): the read gets the
   queued value.
2. Another process has changed the key since, or may have: the read waits until the store is answered and then asks
   Valkey, where the last write wins.
"""

from __future__ import annotations

from ..entries.entry import Entry
from ..memory.fences import Fence
from ..memory.memory import Memory
from .write_pipe import WritePipe

__all__ = ["WriteBehind"]


class WriteBehind:
    """The unanswered stores behind of one runtime: the last one of each key."""

    def __init__(self, pipe: WritePipe, memory: Memory) -> None:
        self._pipe = pipe
        self._memory = memory
        self._by_key: dict[str, tuple[Entry, Fence]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, entry: Entry, fence: Fence) -> None:
        """Register the queued store of ``entry`` under ``fence``. A later store of the key replaces an earlier one."""
        self._by_key[fence.key] = entry, fence

    def answered(self, fence: Fence) -> bool:
        """Remove the answered store under ``fence``; return False if a later store of its key is queued."""
        _, latest = self._by_key[fence.key]
        if latest is not fence:
            return False
        del self._by_key[fence.key]
        return True

    async def find(self, key: str) -> Entry | None:
        """Return the queued value of ``key``, or None as soon as a read may ask Valkey for the key."""
        while (queued := self._by_key.get(key)) is not None:
            entry, fence = queued
            memory, now = self._memory, self._memory.now()
            if memory.fences.allow(fence) and now < entry.deadline and memory.l1.trusts(entry.began, now):
                return entry
            await self._pipe.flush()
        return None
