"""L1: process memory, bounded by entries and bytes, least recently used out first.

The contract: ``get`` returns an entry that is present and before its deadline, and makes it the most recently used;
``put`` replaces, and evicts until both bounds hold; an entry that is too large by itself is not kept, nor is the one
it replaces; ``drop`` and ``drop_group`` forget at once. Deadlines are kept in the entries and looked at when read:
``cachetools.TTLCache`` expires eagerly, which costs more than the lookup itself.
"""

from __future__ import annotations

from cachetools import Cache, LRUCache

from .entry import Entry, Group

__all__ = ["L1"]


class _Lru(LRUCache[str, Entry]):
    """An LRU weighed in bytes that counts what it pushes out."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=_size)
        self.evicted_count = 0

    def popitem(self) -> tuple[str, Entry]:
        self.evicted_count += 1
        return super().popitem()


def _size(entry: Entry) -> int:
    return entry.size_bytes


class L1:
    """The entries of one cache in this process. Not thread-safe: it belongs to one event loop."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._lru = _Lru(max_bytes)

    def get(self, key: str, now: float) -> Entry | None:
        """Return the live entry of ``key`` at monotonic second ``now``, or None."""
        try:
            entry = self._lru[key]
        except KeyError:
            return None
        if now < entry.deadline:
            return entry
        del self._lru[key]
        return None

    def put(self, key: str, entry: Entry) -> bool:
        """Keep ``entry``; return whether it was small enough to be kept."""
        lru = self._lru
        if entry.size_bytes > lru.maxsize:
            # The older value must not outlive the newer one only because that is too large.
            self.drop(key)
            return False
        # Out first: replaced in place by a larger one, it could push out a neighbour although there is room.
        self.drop(key)
        while len(lru) >= self._max_entries:
            lru.popitem()
        lru[key] = entry
        return True

    def drop(self, key: str) -> bool:
        """Forget ``key``; return whether it was there."""
        try:
            del self._lru[key]
        except KeyError:
            return False
        return True

    def drop_group(self, group: Group) -> int:
        """Forget every entry of ``group``; return how many. Looks at all entries."""
        lru = self._lru
        # Cache.__getitem__ and not lru[key]: looking must not make an entry recently used.
        keys = [key for key in lru if group in Cache.__getitem__(lru, key).groups]
        for key in keys:
            del self._lru[key]
        return len(keys)

    def clear(self) -> int:
        """Forget everything; return how many entries there were."""
        count = len(self._lru)
        self._lru.clear()
        return count

    @property
    def entry_count(self) -> int:
        """Entries kept, expired ones that nobody has asked for since included."""
        return len(self._lru)

    @property
    def size_bytes(self) -> int:
        """Bytes accounted for."""
        return int(self._lru.currsize)

    @property
    def evicted_count(self) -> int:
        """Entries pushed out by newer ones since the cache was made."""
        return self._lru.evicted_count
