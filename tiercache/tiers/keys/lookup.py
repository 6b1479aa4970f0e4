"""Key lookup: the key of a request is found by the request's fingerprint, or else made and remembered."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeAlias, TypeVar

from ...engine.memory.l1 import L1
from .exact_json import has_exact_types, is_exact_json
from .fingerprint import is_json, read_back
from .known_keys import KnownKeys

__all__ = ["KeyLookup", "MakeKey"]

K = TypeVar("K")

# Makes the key of a request. The flag is True if the request is known to be exact JSON.
MakeKey: TypeAlias = Callable[[Any, bool], K]


class KeyLookup(Generic[K]):
    """The keys of one cache's requests to one tier; as many are known as ``l1`` has room for.

    Args:
        fingerprint_of: One of the functions of ``fingerprint``.
        size_of: Returns the bytes that a key takes.

    Attributes:
        known: The known keys. A tier first calls ``known.find``, and ``make`` if that returns None.
    """

    def __init__(self, l1: L1, fingerprint_of: Callable[[Any], Hashable | None], size_of: Callable[[K], int]) -> None:
        self._fingerprint_of = fingerprint_of
        self.known: KnownKeys[K] = KnownKeys(
            max_entries=2 * l1.max_entries, max_bytes=l1.max_bytes // 4, size_of=size_of
        )

    def make(self, request: Any, fingerprint: Hashable | None, make: MakeKey[K], place: Hashable = None) -> K:
        """Return the key of a request that ``known.find`` has not found, and remember it where that is safe.

        1. The older half of the known keys may have the key.
        2. A fingerprint that is bytes is read back, and the key is made from the value that this returns. So the key
           belongs to the fingerprint, even if another thread changes the request at the same time.
        3. Otherwise the key is made from the request. The key is remembered if the request is of exact types, and still
           has the fingerprint afterwards: then no other thread has changed the request.
        4. A request without a fingerprint, or of other than exact types, is never remembered.

        Args:
            fingerprint: The fingerprint of ``request``, or None if it has none.
            place: A value that tells keys of equal requests apart, such as the components of the keys. The key is then
                known under the place and the fingerprint.

        Raises:
            UsageError: From ``make``; no key is remembered.
        """
        if fingerprint is None:
            return make(request, False)
        is_flat = False
        if type(fingerprint) is bytes and is_json(fingerprint):
            is_flat = True
            # A copy: the buffer of orjson keeps its first size, some kilobytes, even for a few bytes.
            fingerprint = bytes(memoryview(fingerprint))
        known_as = fingerprint if place is None else (place, fingerprint)
        key = self.known.find_older(known_as)
        if key is not None:
            return key
        if type(fingerprint) is bytes:
            value = read_back(fingerprint, is_json=is_flat)
            is_exact = is_flat or is_exact_json(value)
            if is_exact or has_exact_types(value):
                key = make(value, is_exact)
                self.known.put(known_as, key)
                return key
        is_exact = is_exact_json(request)
        key = make(request, is_exact)
        if (is_exact or has_exact_types(request)) and self._fingerprint_of(request) == fingerprint:
            self.known.put(known_as, key)
        return key
