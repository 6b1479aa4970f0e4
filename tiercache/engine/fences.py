"""Fences: the right to store what a read or a load brings back.

A fence is opened before the read is sent or the loader called, and closed when that ends. Whoever changes or
invalidates the key in between breaks it; what then comes back is handed to those who wait for it, and stored nowhere.
That closes the race in which an older value, read or loaded before the change, is stored after it.
"""

from __future__ import annotations

from .entry import Group

__all__ = ["Fence", "Fences"]


class Fence:
    """One right to store under ``key``.

    Attributes:
        holds: Whether nothing has changed the key since this fence was opened.
        reading: Whether what it would store is being read from Valkey, not loaded.
        keeps_reads: Whether what is read is kept in L1: not while a write of the key is on its way there, because what
            is read may be older.
    """

    __slots__ = ("groups", "holds", "keeps_reads", "key", "reading")

    def __init__(self, key: str, groups: tuple[Group, ...]) -> None:
        self.key = key
        self.groups = groups
        self.holds = True
        self.reading = False
        self.keeps_reads = True


class Fences:
    """The open fences of one runtime, by key."""

    def __init__(self) -> None:
        self._open: dict[str, list[Fence]] = {}

    def open(self, key: str, groups: tuple[Group, ...]) -> Fence:
        """Return a new fence on ``key``. Must be closed."""
        fence = Fence(key, groups)
        self._open.setdefault(key, []).append(fence)
        return fence

    def close(self, fence: Fence) -> None:
        """Forget ``fence``, by identity: another one on the same key stays. Does nothing the second time."""
        fences = self._open.get(fence.key, [])
        if fence in fences:
            fences.remove(fence)
            if not fences:
                del self._open[fence.key]

    def break_key(self, key: str) -> None:
        """Break every fence on ``key``."""
        for fence in self._open.get(key, ()):
            fence.holds = False

    def overtake(self, fence: Fence) -> None:
        """Break what the value stored under ``fence`` is newer than: loads begun before it, and reads under way."""
        is_later = False
        for other in self._open.get(fence.key, ()):
            if other is fence:
                is_later = True
            elif other.reading or not is_later:
                other.holds = False

    def break_group(self, group: Group) -> None:
        """Break every fence whose key belongs to ``group``."""
        for fences in self._open.values():
            for fence in fences:
                if group in fence.groups:
                    fence.holds = False

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))
