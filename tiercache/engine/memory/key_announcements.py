"""The need for announcements of single keys, and since when they arrive.

While the server reports every key that L1 holds (tracking by interest), other processes need not announce single keys
to this one. The server reports no deletion of a key that it does not hold. So this process needs announcements as soon
as L1 keeps values past their TTL, or errors of loaders.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..entries.freshness import FailedEntry, KeptEntry

__all__ = ["KeyAnnouncements", "ignore"]


def ignore() -> None:
    """Do nothing about a need: no subscription could act on it."""


class KeyAnnouncements:
    """The need of one face of a cache.

    Attributes:
        are_needed: Whether the face needs announcements of single keys. Once True, it stays True.
        arrive_since: Monotonic second since which other processes announce single keys to this one.
        on_need: Called once, on any thread, when they begin to be needed.
    """

    def __init__(self) -> None:
        self.are_needed = False
        self.arrive_since = -math.inf
        self.on_need: Callable[[], object] = ignore

    def require(self) -> None:
        """Note that the face needs announcements of single keys from now on."""
        if not self.are_needed:
            self.are_needed = True
            self.on_need()

    def note_kept(self, entry: KeptEntry) -> None:
        """Require announcements if ``entry``, which L1 keeps, may outlive the value in Valkey."""
        if type(entry) is FailedEntry or entry.kept_until > entry.expires_at:
            self.require()

    def cover(self, entry: KeptEntry) -> bool:
        """Return whether they have covered ``entry`` for as long as Valkey does not hold its key."""
        absent_since = entry.stored_at if type(entry) is FailedEntry else entry.expires_at
        return absent_since >= self.arrive_since
