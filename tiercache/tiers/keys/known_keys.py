"""Known keys: the keys that were computed for earlier requests, each under the exact fingerprint of its request.

Known keys are in two halves, each with half of the bounds. A key that is found in the older half moves to the younger
half. When the younger half is full, the keys of the older half are dropped, the younger half becomes the older half,
and an empty younger half begins. So a key that is used between two such changes stays, and neither a lookup nor an
eviction must maintain an order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

__all__ = ["KnownKeys"]

K = TypeVar("K")

# The place in the dict, which grows by doubling, and the tuples of strings.
_OVERHEAD_BYTES: Final = 200
# A string of so many bytes is counted once for all fingerprints that refer to it. For smaller ones that would cost more
# than it saves.
_LARGE_BYTES: Final = 1024


class KnownKeys(Generic[K]):
    """The known keys of one tier. A key is dropped only because of the bounds.

    Args:
        max_entries: Most known keys.
        max_bytes: Most bytes of the known keys and their fingerprints. A large string counts once in each half,
            however many fingerprints refer to it.
        size_of: Returns the bytes that a key takes.

    Attributes:
        find: Returns the key under a fingerprint in the younger half, or None: a C function, for the hot path. If
            it returns None, ``find_older`` looks in the older half.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, size_of: Callable[[K], int]) -> None:
        self._max_entries = max_entries // 2
        self._max_bytes = max_bytes // 2
        self._size_of = size_of
        self._younger: dict[Hashable, K] = {}
        self._older: dict[Hashable, K] = {}
        self._younger_bytes = 0
        self._older_bytes = 0
        # The ids of the large strings of the younger half, which keeps all of them until it becomes the older half.
        self._counted: set[int] = set()
        self.find: Callable[[Hashable], K | None] = self._younger.get

    def find_older(self, fingerprint: Hashable) -> K | None:
        """Return the key under ``fingerprint`` in the older half, or None. The key moves to the younger half."""
        key = self._older.pop(fingerprint, None)
        if key is not None:
            # The bytes of its large strings stay counted in the older half: other fingerprints may refer to them.
            self._older_bytes -= self._size(fingerprint, key, {})
            self.put(fingerprint, key)
        return key

    def put(self, fingerprint: Hashable, key: K) -> None:
        """Remember ``key`` under ``fingerprint``, unless the two are larger than a half may be."""
        large: dict[int, int] = {}
        own = self._size(fingerprint, key, large)
        alone = own + sum(large.values()) if large else own
        if alone > self._max_bytes or not self._max_entries or fingerprint in self._younger:
            return
        size = own + sum(large[each] for each in large.keys() - self._counted) if large else own
        if self._younger_bytes + size > self._max_bytes or len(self._younger) >= self._max_entries:
            self._older, self._older_bytes = self._younger, self._younger_bytes
            self._younger, self._younger_bytes, self._counted = {}, 0, set()
            self.find = self._younger.get
            size = alone
        self._younger[fingerprint] = key
        self._younger_bytes += size
        if large:
            self._counted.update(large)

    def _size(self, fingerprint: Hashable, key: K, large: dict[int, int]) -> int:
        return _OVERHEAD_BYTES + _size_of_fingerprint(fingerprint, large) + self._size_of(key)

    @property
    def entry_count(self) -> int:
        """How many keys are known."""
        return len(self._younger) + len(self._older)

    @property
    def size_bytes(self) -> int:
        """The bytes of the known keys and their fingerprints, as counted against ``max_bytes``."""
        return self._younger_bytes + self._older_bytes


def _size_of_fingerprint(fingerprint: Hashable, large: dict[int, int] | None = None) -> int:
    """Return the bytes of a fingerprint without its large strings, whose bytes go to ``large`` under the string's id.

    Without ``large``, return the bytes of all of it.
    """
    if type(fingerprint) is tuple:
        size = 0
        for each in fingerprint:
            size += _size_of_fingerprint(each, large)
        return size
    size = sys.getsizeof(fingerprint)
    if large is not None and size >= _LARGE_BYTES and type(fingerprint) is str:
        large[id(fingerprint)] = size
        return 0
    return size
