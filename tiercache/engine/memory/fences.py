"""Fences: the right to store the result of one read or one load.

The engine opens a fence before it sends a read or calls a loader, and closes the fence when the read or load ends. A
change of the key in between breaks the fence. The result still goes to the waiters, but the cache does not store it.

The race that fences close, "old value after new": a read or load takes the old value, a change of the key follows, and
then the read or load stores the old value after the change.

::

                   break_key, break_group, overtake, written
         open ────────────────────────────────────────────────▶ broken
        ▲  │                                                       │
        │  └───── doubt_all ─────▶ in doubt                        │
        │                             │                            │
        └──────────────────────── renew ───────────────────────────┘

``renew`` is for a load that has asked nothing yet: a change up to now cannot have overtaken the load. ``close`` ends a
fence in every state. The result of a read or load:

1. Open: the cache may store the result. L1 does not keep a read that began while a write of its key was in flight
   (``keeps_reads`` is False). The race, "read passes write": the read uses another connection than the write, and
   Valkey may answer the read before it carries out the earlier write.
2. Broken: stored nowhere.
3. In doubt: a change may have been made that this process did not receive. L1 does not keep the result. A load still
   offers its value to Valkey, where its lease decides.
4. Barred, in addition to any state: a block such as ``invalidates`` is changing the source of the value, and a load may
   see the source before or after that change. Stored nowhere while the bar lasts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from ..entries.entry import Group, is_member

__all__ = ["Fence", "Fences"]


class Fence(Struct, eq=False, gc=False):
    """The right of one read, load or write to store a value under ``key``.

    Attributes:
        groups: The groups whose invalidation breaks the fence.
        began: Monotonic second at which the fence was opened or renewed: the result was current then or later.
        holds: False once a change of the key since ``began`` is known: the fence is broken.
        in_doubt: Whether this process may have missed a change of the key since ``began``.
        writing: Whether the fence belongs to an explicit write in flight, not to a read or a load.
        reading: Whether a read of the key from Valkey is in flight under this fence.
        keeps_reads: Whether L1 may keep the result of the read: False if a write of the key was in flight when the read
            began, because the result may be older than the write.
    """

    key: str
    groups: tuple[Group, ...]
    began: float = 0.0
    holds: bool = True
    in_doubt: bool = False
    writing: bool = False
    reading: bool = False
    keeps_reads: bool = True


class Fences:
    """The open fences of one runtime, by key.

    Args:
        now: The monotonic clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._open: dict[str, list[Fence]] = {}
        self._barred: Counter[str | Group] = Counter()
        self._bars_elsewhere: Callable[[Fence], bool] = lambda _: False

    def obey(self, bars_elsewhere: Callable[[Fence], bool]) -> None:
        """Take also the fences for barred for which ``bars_elsewhere``, of the other face of the cache, is true."""
        self._bars_elsewhere = bars_elsewhere

    def open(self, key: str, groups: tuple[Group, ...]) -> Fence:
        """Open and return a new fence on ``key``. The caller must close the fence."""
        fence = Fence(key, groups, self._now())
        fences = self._open.get(key)
        if fences is None:
            self._open[key] = [fence]
        else:
            fences.append(fence)
        return fence

    def open_for_write(self, key: str, groups: tuple[Group, ...] = ()) -> Fence:
        """Break every fence on ``key`` before a write or delete of the key; return the write's own fence.

        The caller must pass that fence to ``written`` when Valkey has answered.
        """
        self.break_key(key)
        fence = self.open(key, groups)
        fence.writing = True
        return fence

    def written(self, fence: Fence) -> None:
        """Break the fences on the key after its write was answered, and close the write's ``fence``.

        Only the fences of later writes stay open. The race, "read between send and answer": a read or load that began
        while the write was in flight may return the value from before the write.
        """
        is_later = False
        for other in self._open.get(fence.key, ()):
            if other is fence:
                is_later = True
            elif not (is_later and other.writing):
                other.holds = False
        self.close(fence)

    def renew(self, fence: Fence) -> None:
        """Open ``fence`` again, as if it were opened now: nothing has been read or loaded under ``fence`` yet."""
        fences = self._open.get(fence.key, [])
        if fence in fences:
            # To the end: the list is in the order of opening.
            fences.remove(fence)
            fences.append(fence)
            fence.began = self._now()
            fence.holds = True
            fence.in_doubt = False
            fence.keeps_reads = True

    def close(self, fence: Fence) -> None:
        """Remove ``fence``, by identity: another fence on the same key stays. A second call does nothing."""
        fences = self._open.get(fence.key)
        if fences is not None and fence in fences:
            fences.remove(fence)
            if not fences:
                del self._open[fence.key]

    def break_key(self, key: str) -> None:
        """Break every fence on ``key``."""
        for fence in self._open.get(key, ()):
            fence.holds = False

    def overtake(self, fence: Fence) -> None:
        """Break the fences of results that are older than the value stored under ``fence``.

        These are the fences of loads that began earlier, and of all reads of the key in flight.
        """
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
                if is_member(fence.key, fence.groups, group):
                    fence.holds = False

    def doubt_all(self) -> None:
        """Put every fence in doubt: this process may have missed changes of any key."""
        for fences in self._open.values():
            for fence in fences:
                fence.in_doubt = True

    @contextmanager
    def barred(self, keys_and_groups: Sequence[str | Group]) -> Iterator[None]:
        """While the block runs, let nothing be stored under these keys and under the keys of these groups."""
        # A Counter: blocks for the same key may overlap, and the key is barred until the last block ends.
        self._barred.update(keys_and_groups)
        try:
            yield
        finally:
            self._barred -= Counter(keys_and_groups)

    def is_barred(self, fence: Fence) -> bool:
        """Return whether the key of ``fence`` is barred now, so that nothing may be stored under it."""
        return self.bars(fence) or self._bars_elsewhere(fence)

    def bars(self, fence: Fence) -> bool:
        """Return whether these fences themselves bar the key of ``fence``. Any thread may call this."""
        barred = self._barred
        return bool(barred) and (fence.key in barred or any(group in barred for group in fence.groups))

    def allow(self, fence: Fence) -> bool:
        """Return whether L1 may keep the result of a read or load under ``fence``."""
        return fence.holds and not fence.in_doubt and not self.is_barred(fence)

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))
