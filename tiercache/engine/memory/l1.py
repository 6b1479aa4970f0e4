"""L1: process memory, bounded by entries and bytes, with LRU eviction.

An entry is *trusted* in two cases:

1. The clock is before ``trusted_until``. With a Valkey, that second lies ``max_staleness`` seconds after the last
   moment up to which this process certainly received every change; ``coherence.coherence`` advances it.
2. The entry was current less than ``max_staleness`` seconds ago (``Entry.began``).

The contract:

- ``get`` returns an entry that is present, before its deadline and trusted, and makes the entry the most recently used.
  An untrusted entry stays: a later PONG may restore trust.
- ``put`` replaces, and evicts until both bounds hold. An entry that is larger than ``max_bytes`` is not kept, and
  neither is the entry that it replaces. The entry of a pinned key is not kept either.
- ``drop`` and ``drop_group`` remove at once.

Each entry holds its deadline, and ``get`` checks the deadline: the removal of each entry at its deadline would cost
more than the lookup itself.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Container
from functools import partial

from ...options import L1Options
from ..entries.entry import MATCHING, Entry, Group, has_tags, shared_size
from ..entries.freshness import FailedEntry, KeptEntry
from ..entries.key_pattern import matcher
from .group_index import GroupIndex
from .key_announcements import KeyAnnouncements
from .tag_table import tuple_size

__all__ = ["L1"]


class _Lru:
    """The entries in the order of their use, and their keys by group; counts bytes and evictions.

    Attributes:
        order: The entries, the least recently used first. Each lookup moves its entry to the end, and finds and moves
            it by two calls in C.
        groups: The keys of the entries by group.
        evicted_count: Entries evicted so far.
    """

    def __init__(self) -> None:
        self.order: OrderedDict[str, Entry] = OrderedDict()
        self.groups = GroupIndex(self.order)
        self._bytes = 0
        self.evicted_count = 0

    @property
    def bytes(self) -> int:
        """Bytes of all entries and of their tags."""
        return self._bytes + self.groups.tags.size_bytes

    def add(self, key: str, entry: Entry) -> None:
        """Add ``entry`` under ``key``, which is not there, as the most recently used one."""
        self.groups.add(key, entry.groups)
        self.order[key] = entry
        self._bytes += entry.size_bytes

    def remove(self, key: str) -> None:
        """Remove the entry of ``key``, which is there."""
        entry = self.order.pop(key)
        self._bytes -= entry.size_bytes
        self.groups.remove(key, entry.groups)

    def evict(self) -> None:
        """Remove the least recently used entry."""
        self.evicted_count += 1
        self.remove(next(iter(self.order)))

    def clear(self) -> None:
        """Remove all entries."""
        self.order.clear()
        self.groups.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.order)


class L1:
    """The entries of one face of a cache in this process. Not thread-safe: it belongs to one event loop.

    Attributes:
        max_entries, max_bytes: The bounds.
        trusted_until: Monotonic second until which every entry is trusted.
        serves_untrusted: Whether lookups may use entries after that (``ResilienceOptions.serve_untrusted``).
        distrusted_count: Times that all entries were dropped because a change may have been missed.
        doubted_count: Times that all entries were dropped, and a change may not have arrived here.
        pinned: The keys that have a pin, which ``memory.pins`` serves.
        announcements: Whether these entries need announcements of single keys.
        heard_count: Changes by other clients that these entries have followed: announcements, and reports of keys that
            were here. Both counts begin with the cache, and go on when it starts again on another event loop.
    """

    def __init__(self, options: L1Options, *, max_staleness: float = math.inf) -> None:
        self.max_entries = options.max_entries
        self.max_bytes = options.max_bytes
        self._max_staleness = max_staleness
        self.trusted_until = -math.inf
        self.serves_untrusted = False
        # The keys of entries that must go when trust begins again.
        self._until_trusted: set[str] = set()
        self.distrusted_count = 0
        self.heard_count = 0
        self.doubted_count = 0
        self.pinned: Container[str] = ()
        self.announcements = KeyAnnouncements()
        self._lru = _Lru()
        # As it is, and as lookups use it: see ``settle_first``.
        self._entry_of: Callable[[str], Entry | None] = self._lru.order.get
        self._find: Callable[[str], Entry | None] = self._entry_of
        self._used = self._lru.order.move_to_end

    def settle_first(self, settle: Callable[[], None]) -> None:
        """Let the next lookup call ``settle`` before it looks. Any thread may call this.

        Lookups are ``get``, ``get_untrusted``, ``peek`` and ``settle``. ``put`` and ``drop`` do not settle. The race: a
        read checks its fence, and puts its value here. If ``put`` settled, the change that it applies would break the
        fence after the check, and drop the entry before the value comes.
        """
        # A replaced function and no question in ``get``: a lookup with nothing to settle costs nothing more.
        self._find = partial(self._settle_and_find, settle)

    def _settle_and_find(self, settle: Callable[[], None], key: str) -> Entry | None:
        # Before ``settle``: a ``settle_first`` of another thread from here on lasts until the next lookup.
        self._find = self._entry_of
        settle()
        return self._entry_of(key)

    def settle(self) -> None:
        """Do as a lookup does before it looks."""
        self._find("")

    def glance(self, key: str) -> Entry | None:
        """Return the entry of ``key`` as ``peek`` does, and settle nothing. Any thread may call this."""
        return self._entry_of(key)

    def get(self, key: str, now: float) -> Entry | None:
        """Return the live entry of ``key`` at monotonic second ``now``, or None."""
        entry = self._find(key)
        if entry is None:
            return None
        if now < entry.deadline:
            self._used(key)
            return entry if now < self.trusted_until or now < entry.began + self._max_staleness else None
        if not isinstance(entry, KeptEntry) or now >= entry.kept_until:
            self._lru.remove(key)
        return None

    def kept(self, key: str, now: float) -> KeptEntry | None:
        """Return the trusted entry of ``key`` that L1 keeps past its deadline, or None."""
        entry = self._find(key)
        if not isinstance(entry, KeptEntry) or now < entry.deadline or now >= entry.kept_until:
            return None
        self._used(key)
        return entry if self.trusts(entry.began, now) and self.announcements.cover(entry) else None

    def drop_deleted(self, key: str, now: float) -> None:
        """Remove the entry of ``key``, which Valkey does not have, if its TTL has not ended: a client deleted it."""
        entry = self._find(key)
        if type(entry) is KeptEntry and now < entry.expires_at:
            self.drop(key)

    def drop_changed(self, key: str, now: float) -> bool:
        """Remove ``key``, whose change Valkey has reported, unless the report may be that of its expiry.

        Valkey reports the end of a TTL as it reports a DEL. So a copy past its TTL stays; it is stale already.

        Returns:
            Whether L1 held an entry that is gone now.
        """
        entry = self._entry_of(key)
        is_expired = type(entry) is KeptEntry and entry.expires_at <= now < entry.kept_until
        return not is_expired and self.drop(key)

    def get_untrusted(self, key: str, now: float, longer: float) -> Entry | None:
        """Return the entry as ``get`` does, even if its trust ended up to ``longer`` seconds ago."""
        entry = self._find(key)
        if entry is None:
            return None
        self._used(key)
        entry_trusted_until = max(self.trusted_until, entry.began + self._max_staleness)
        return entry if now < entry.deadline and now < entry_trusted_until + longer else None

    def trust(self, until: float) -> None:
        """Trust every entry until monotonic second ``until``, or longer if that is known already."""
        self.trusted_until = max(self.trusted_until, until)
        while self._until_trusted:
            self.drop(self._until_trusted.pop())

    def trusts(self, began: float, now: float, *, is_reported: bool = True) -> bool:
        """Return whether a value that was current at ``began`` is trusted at ``now``.

        Args:
            is_reported: Whether a message would report the next change of the value's key.
        """
        return (is_reported and now < self.trusted_until) or now < began + self._max_staleness

    def trust_ends(self, began: float) -> float:
        """Return the monotonic second until which a value that was current at ``began`` is trusted, as known now."""
        return max(self.trusted_until, began + self._max_staleness)

    def peek(self, key: str) -> Entry | None:
        """Return the entry of ``key`` even if ``get`` would not serve it; the LRU order stays as it is."""
        return self._find(key)

    def put(self, key: str, entry: Entry) -> bool:
        """Keep ``entry``; return False if ``entry`` is too large to keep, or its key is pinned."""
        lru = self._lru
        if entry.size_bytes > self.max_bytes or key in self.pinned:
            # The older value must go although the newer value is not kept: readers must not find the older value.
            self.drop(key)
            return False
        # The old entry goes first: if its bytes still counted beside the new bytes, ``put`` could evict a neighbour
        # although there is room.
        self.drop(key)
        if has_tags(entry.groups):
            entry.groups = lru.groups.tags.share(key, entry.groups)
        while lru.order and lru.bytes + entry.size_bytes > self.max_bytes:
            lru.evict()
        if lru.bytes + entry.size_bytes > self.max_bytes:
            # The entry and its tags are larger than ``max_bytes``.
            lru.groups.tags.release(key, entry.groups)
            return False
        if len(lru.order) >= self.max_entries:
            lru.evict()
        if isinstance(entry, KeptEntry):
            self.announcements.note_kept(entry)
        lru.add(key, entry)
        return True

    def bound(self, key: str, entry: Entry, now: float) -> None:
        """Let L1 serve ``entry`` for ``max_staleness`` at most: no message reports the next change of its key.

        While nothing is trusted, and L1 serves untrusted entries, it may serve ``entry`` as long as others: until trust
        begins again.
        """
        if self.serves_untrusted and now >= self.trusted_until and len(self._until_trusted) < self.max_entries:
            self._until_trusted.add(key)
            return
        until = entry.began + self._max_staleness
        entry.deadline = min(entry.deadline, until)
        if isinstance(entry, KeptEntry):
            entry.l1_until = min(entry.l1_until, until)
            entry.kept_until = min(entry.kept_until, until)

    def add_tags(self, key: str, entry: Entry, tags: tuple[Group, ...]) -> None:
        """Note more tags of ``entry``, if L1 still holds that entry under ``key``."""
        if self.peek(key) is not entry:
            return
        before, own = tuple_size(entry.groups) if has_tags(entry.groups) else 0, entry.groups
        self.drop(key)
        entry.groups = own + tuple(tag for tag in tags if tag not in own)
        entry.size_bytes = shared_size(entry.size_bytes - before + tuple_size(entry.groups))
        self.put(key, entry)

    def drop_entry(self, key: str, entry: Entry) -> None:
        """Remove ``key`` if L1 still holds ``entry`` there, compared by identity: a later entry stays."""
        if self.peek(key) is entry:
            self.drop(key)

    def drop(self, key: str) -> bool:
        """Remove ``key``; return whether L1 held an entry for it."""
        # A check and no exception: most dropped keys are not in L1, and a raised KeyError costs more than the check.
        entry = self._entry_of(key)
        if entry is None:
            return False
        self._lru.remove(key)
        return type(entry) is not FailedEntry

    def drop_group(self, group: Group) -> int:
        """Remove every entry of ``group``; return the count without remembered errors.

        It visits the entries of the group; all entries for a pattern, and for a tag that many entries have.
        """
        return sum([self.drop(key) for key in self._keys_of(group)])

    def _keys_of(self, group: Group) -> list[str]:
        if group.kind == MATCHING:
            return list(filter(matcher(group.value), self._lru.order))
        return self._lru.groups.keys_of(group)

    def keys_of_group(self, group: Group, now: float) -> list[str]:
        """Return the keys of the entries of ``group`` that are live at monotonic second ``now``."""
        self.settle()
        order = self._lru.order
        return [key for key in self._keys_of(group) if now < order[key].deadline]

    def clear(self, *, may_lack_changes: bool = True) -> int:
        """Remove all entries; return their count.

        Args:
            may_lack_changes: Whether changes of other processes may not have arrived here.
        """
        count = len(self._lru)
        self._lru.clear()
        self.doubted_count += may_lack_changes
        return count

    @property
    def entry_count(self) -> int:
        """Entries in L1. An expired entry counts until a lookup finds it or an eviction removes it."""
        return len(self._lru)

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries in L1."""
        return self._lru.bytes

    @property
    def evicted_count(self) -> int:
        """Entries evicted since the cache was made."""
        return self._lru.evicted_count
