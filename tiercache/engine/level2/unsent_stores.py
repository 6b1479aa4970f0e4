"""Unsent stores: of several queued stores of one key the write pipe sends only the last, at the place of the first."""

from __future__ import annotations

from msgspec.structs import replace

from .queued_write import QueuedWrite
from .writes import Announce, Delete, Release, TakeLease, Track, Write, WriteSet

__all__ = ["UnsentStores"]


class UnsentStores:
    """The unsent store of each key whose place in the queue a later store of the key may take."""

    def __init__(self) -> None:
        self._by_key: dict[str, QueuedWrite] = {}

    def absorb(self, queued: QueuedWrite) -> bool:
        """Send ``queued`` at the place of an earlier store of its key if possible; return whether it is possible."""
        write = queued.write
        if queued.is_explicit and isinstance(write, WriteSet) and write.announced and write.replaces is None:
            earlier = self._by_key.setdefault(write.key, queued)
            if earlier is queued:
                return False
            assert isinstance(earlier.write, WriteSet)
            # The indexes of both stores: the key joins every index as if both stores had been sent.
            indexes = tuple(dict.fromkeys(earlier.write.indexes + write.indexes))
            earlier.absorb(queued, replace(write, indexes=indexes))
            return True
        if self._by_key:
            self._forbid(write)
        return False

    def _forbid(self, write: Write) -> None:
        """Let no later store take a place before ``write``, if both may concern the same key."""
        match write:
            case WriteSet(key) | TakeLease(key) | Release(key):
                self._by_key.pop(key, None)
            case Announce() | Track():
                pass
            case Delete(keys) if all(isinstance(key, str) for key in keys):
                for each in keys:
                    self._by_key.pop(str(each), None)
            case _:
                # Keys as bytes, as a scan returns them, or a command that does not declare its keys.
                self._by_key.clear()

    def remove(self, queued: QueuedWrite) -> None:
        """Let no later store take the place of ``queued``, which has been sent or has failed."""
        if isinstance(queued.write, WriteSet) and self._by_key.get(queued.write.key) is queued:
            del self._by_key[queued.write.key]

    def clear(self) -> None:
        """Let no later store take the place of any store: the whole queue has been sent."""
        self._by_key.clear()
