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
from collections import OrderedDict

from cachetools import Cache

from ...options import L1Options
from ..entries.entry import Entry, Group

__all__ = ["L1"]


class _Lru(Cache[str, Entry]):
    """A cache of cachetools that pushes out what was used least recently, weighs and counts.

    ``cachetools.LRUCache`` keeps three dictionaries, and four calls in Python make one lookup of it. Here the order has
    the entries beside their keys, for whoever looks up to find and move an entry in it by two calls in C.

    Attributes:
        order: The entries, the one used least recently first. What is looked up is moved to the end of it.
        bytes: What they weigh.
        evicted_count: Entries pushed out.
    """

    def __init__(self, max_entries: int) -> None:
        super().__init__(max_entries)
        self.order: OrderedDict[str, Entry] = OrderedDict()
        self.bytes = 0
        self.evicted_count = 0

    def __setitem__(self, key: str, entry: Entry) -> None:
        super().__setitem__(key, entry)
        self.order[key] = entry
        self.bytes += entry.size_bytes

    def __delitem__(self, key: str) -> None:
        entry = self.order.pop(key)
        super().__delitem__(key)
        self.bytes -= entry.size_bytes

    def popitem(self) -> tuple[str, Entry]:
        key = next(iter(self.order))
        self.evicted_count += 1
        return key, self.pop(key)

    def clear(self) -> None:
        super().clear()
        self.order.clear()
        self.bytes = 0


class L1:
    """The entries of one cache in this process. Not thread-safe: it belongs to one event loop.

    Attributes:
        max_entries, max_bytes: The bounds.
        trusted_until: Monotonic second until which every entry is believed.
    """

    def __init__(self, options: L1Options, *, max_staleness: float = math.inf) -> None:
        self.max_entries = options.max_entries
        self.max_bytes = options.max_bytes
        self._max_staleness = max_staleness
        self.trusted_until = -math.inf
        self._lru = _Lru(options.max_entries)
        self._find = self._lru.order.get
        self._used = self._lru.order.move_to_end

    def get(self, key: str, now: float) -> Entry | None:
        """Return the live entry of ``key`` at monotonic second ``now``, or None."""
        entry = self._find(key)
        if entry is None:
            return None
        if now < entry.deadline:
            self._used(key)
            return entry if now < self.trusted_until or now < entry.began + self._max_staleness else None
        del self._lru[key]
        return None

    def get_untrusted(self, key: str, now: float, longer: float) -> Entry | None:
        """Return the entry as ``get`` does, also if it has not been believed for up to ``longer`` seconds."""
        entry = self._find(key)
        if entry is None:
            return None
        self._used(key)
        believed_until = max(self.trusted_until, entry.began + self._max_staleness)
        return entry if now < entry.deadline and now < believed_until + longer else None

    def believes(self, began: float, now: float) -> bool:
        """Return whether what was current at ``began`` is believed at ``now``."""
        return now < self.trusted_until or now < began + self._max_staleness

    def peek(self, key: str) -> Entry | None:
        """Return what is kept under ``key``, whether it would be served or not; nothing is made recently used by it."""
        return self._find(key)

    def put(self, key: str, entry: Entry) -> bool:
        """Keep ``entry``; return whether it was small enough to be kept."""
        lru = self._lru
        if entry.size_bytes > self.max_bytes:
            # The older value must not outlive the newer one only because that is too large.
            self.drop(key)
            return False
        # Out first: replaced in place by a larger one, it could push out a neighbour although there is room.
        self.drop(key)
        while lru.bytes + entry.size_bytes > self.max_bytes:
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
        keys = [key for key, entry in lru.order.items() if group in entry.groups]
        for key in keys:
            del lru[key]
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
        return self._lru.bytes

    @property
    def evicted_count(self) -> int:
        """Entries pushed out by newer ones since the cache was made."""
        return self._lru.evicted_count
