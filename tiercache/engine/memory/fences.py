"""Fences: the right to store what a read or a load brings back.

A fence is opened before the read is sent or the loader called, and closed when that ends. Whoever changes or
invalidates the key in between breaks it; what then comes back is handed to those who wait for it, and is not kept in
this process. That closes the race in which an older value, read or loaded before the change, is stored after it.

While a key is barred nothing is stored at all: what its value is made from is being changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from ..entries.entry import Group

__all__ = ["Fence", "Fences"]


class Fence(Struct, eq=False, gc=False):
    """One right to store under ``key``.

    Attributes:
        holds: Whether nothing is known to have changed the key since ``began``.
        in_doubt: Whether a change of it may have gone unheard since.
        began: Monotonic second from which on what it would store is known to be current.
        writing: Whether it is that of an explicit write on its way, and not of a read or a load.
        reading: Whether what it would store is being read from Valkey, not loaded.
        keeps_reads: Whether what is read is kept in L1: not while a write of the key is on its way there, because what
            is read may be older.
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

    def open(self, key: str, groups: tuple[Group, ...]) -> Fence:
        """Return a new fence on ``key``. Must be closed."""
        fence = Fence(key, groups, self._now())
        fences = self._open.get(key)
        if fences is None:
            self._open[key] = [fence]
        else:
            fences.append(fence)
        return fence

    def open_for_write(self, key: str, groups: tuple[Group, ...] = ()) -> Fence:
        """Break every fence on ``key``, about to be written or removed; return one that ``written`` closes."""
        self.break_key(key)
        fence = self.open(key, groups)
        fence.writing = True
        return fence

    def written(self, fence: Fence) -> None:
        """Break every fence on the key but those of later writes, for what they bring may be older; close ``fence``."""
        is_later = False
        for other in self._open.get(fence.key, ()):
            if other is fence:
                is_later = True
            elif not (is_later and other.writing):
                other.holds = False
        self.close(fence)

    def renew(self, fence: Fence) -> None:
        """Make ``fence`` as one opened now: what it would store is yet to be asked for."""
        fences = self._open.get(fence.key, [])
        if fence in fences:
            fences.remove(fence)
            fences.append(fence)
            fence.began = self._now()
            fence.holds = True
            fence.in_doubt = False
            fence.keeps_reads = True

    def close(self, fence: Fence) -> None:
        """Forget ``fence``, by identity: another one on the same key stays. Does nothing the second time."""
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

    def doubt_all(self) -> None:
        """Put every fence in doubt."""
        for fences in self._open.values():
            for fence in fences:
                fence.in_doubt = True

    @contextmanager
    def barred(self, what: Sequence[str | Group]) -> Iterator[None]:
        """Keep everything from being stored under these keys, and under keys of these groups, meanwhile."""
        self._barred.update(what)
        try:
            yield
        finally:
            self._barred -= Counter(what)

    def is_barred(self, fence: Fence) -> bool:
        """Return whether nothing may be stored under the key of ``fence`` now."""
        barred = self._barred
        return bool(barred) and (fence.key in barred or any(group in barred for group in fence.groups))

    def allow(self, fence: Fence) -> bool:
        """Return whether what was brought under ``fence`` may be kept in this process."""
        return fence.holds and not fence.in_doubt and not self.is_barred(fence)

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))
