"""L1: process memory, bounded by entries and bytes, least recently used out first.

The contract: ``get`` returns an entry that is present, before its deadline and believed, and makes it the most recently
used. It is believed until ``trusted_until``, up to when this process is known to have heard of every change, and for
``max_staleness`` seconds after it was current in any case. One that is not believed is kept: word may come yet.
``put`` replaces, and evicts until both bounds hold; an entry that is too large by itself is not kept, nor is the one
it replaces; ``drop`` and ``drop_group`` forget at once. Deadlines are kept in the entries and looked at when read:
``cachetools.TTLCache`` expires eagerly, which costs more than the lookup itself.
"""

from __future__ import annotations

import math

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
    """The entries of one cache in this process. Not thread-safe: it belongs to one event loop.

    Attributes:
        max_entries, max_bytes: The bounds.
        trusted_until: Monotonic second until which every entry is believed.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, max_staleness: float = math.inf) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._max_staleness = max_staleness
        self.trusted_until = -math.inf
        self._lru = _Lru(max_bytes)

    def get(self, key: str, now: float) -> Entry | None:
        """Return the live entry of ``key`` at monotonic second ``now``, or None."""
        try:
            entry = self._lru[key]
        except KeyError:
            return None
        if now < entry.deadline:
            return entry if now < self.trusted_until or now < entry.began + self._max_staleness else None
        del self._lru[key]
        return None

    def get_untrusted(self, key: str, now: float, longer: float) -> Entry | None:
        """Return the entry as ``get`` does, also if it has not been believed for up to ``longer`` seconds."""
        try:
            entry = self._lru[key]
        except KeyError:
            return None
        believed_until = max(self.trusted_until, entry.began + self._max_staleness)
        return entry if now < entry.deadline and now < believed_until + longer else None

    def believes(self, began: float, now: float) -> bool:
        """Return whether what was current at ``began`` is believed at ``now``."""
        return now < self.trusted_until or now < began + self._max_staleness

    def peek(self, key: str) -> Entry | None:
        """Return what is kept under ``key``, whether it would be served or not; nothing is made recently used by it."""
        return Cache.__getitem__(self._lru, key) if key in self._lru else None

    def put(self, key: str, entry: Entry) -> bool:
        """Keep ``entry``; return whether it was small enough to be kept."""
        lru = self._lru
        if entry.size_bytes > self.max_bytes:
            # The older value must not outlive the newer one only because that is too large.
            self.drop(key)
            return False
        # Out first: replaced in place by a larger one, it could push out a neighbour although there is room.
        self.drop(key)
        while len(lru) >= self.max_entries:
            lru.popitem()
        lru[key] = entry
        return True

    def drop_entry(self, key: str, entry: Entry) -> None:
        """Forget ``key`` if it is ``entry`` that is kept there, and no later one."""
        if self.peek(key) is entry:
            self.drop(key)

    def drop(self, key: str) -> bool:
        """Forget ``key``; return whether it was there."""
        # Looked for first: most of what is dropped is not there, and an exception costs more than a look.
        if key not in self._lru:
            return False
        del self._lru[key]
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
