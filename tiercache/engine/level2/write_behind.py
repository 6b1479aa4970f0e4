"""Stores behind: values whose stores have returned, and which Valkey has not acknowledged yet.

A read that starts after such a store must not find what Valkey had before it. It is handed the queued value, as long as
process memory might serve that too; otherwise, because another process has changed the key since or may have, it waits
for the answer and asks Valkey, where the last write wins.
"""

from __future__ import annotations

from ..entries.entry import Entry
from ..memory.fences import Fence
from ..memory.memory import Memory
from .write_pipe import WritePipe

__all__ = ["WriteBehind"]


class WriteBehind:
    """The unanswered ones of one runtime, the last of each key."""

    def __init__(self, pipe: WritePipe, memory: Memory) -> None:
        self._pipe = pipe
        self._memory = memory
        self._by_key: dict[str, tuple[Entry, Fence]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, entry: Entry, fence: Fence) -> None:
        """Note that ``entry`` is queued, to be stored under ``fence``."""
        self._by_key[fence.key] = entry, fence

    def answered(self, fence: Fence) -> bool:
        """Forget the store under ``fence``; return whether none of its key has been queued since."""
        _, latest = self._by_key[fence.key]
        if latest is not fence:
            return False
        del self._by_key[fence.key]
        return True

    async def find(self, key: str) -> Entry | None:
        """Return the value of ``key`` that is queued, None once Valkey may be asked for it."""
        while (queued := self._by_key.get(key)) is not None:
            entry, fence = queued
            memory, now = self._memory, self._memory.now()
            if memory.fences.allow(fence) and now < entry.deadline and memory.l1.believes(entry.began, now):
                return entry
            await self._pipe.flush()
        return None
