"""Pins: approved answers that win over both levels, as this process knows them.

The pin of an entry stands in Valkey under a key of its own, beside the key of the entry::

    {name}:{tier}:{rest}              the entry
    {name}:__tc:pin:{tier}:{rest}     its pin, in the tier's own form, without an expiry
    {name}:__tc:idx:pin:all           the index of all pins

This process knows the pins as well as it knows that L1 is current:

1. A change of one pin arrives as any change of a key. The entry leaves L1, and its slot is read again before the next
   answer.
2. Whatever clears L1 because a change may have been missed makes the *listing* of all pins due.
3. Where L1 is not trusted, the listing is due ``max_staleness`` seconds after it was made.

L1 never holds a pinned key: ``L1.put`` refuses it. So a hit in L1 needs no look at the pins, and the race "a load that
began before the pin fills L1 after it" is closed. Every lookup that L1 does not answer asks ``may_answer`` first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from ..entries.entry import Entry, Group
from .l1 import L1

__all__ = ["MOST_PINNED_BYTES", "PINNED_TIERS", "PINS", "PinTable", "Slot"]

# The group of all pins, by which a flush removes and announces them.
PINS: Final = Group("pin", "all")
PINNED_TIERS: Final = frozenset({"llm", "tool"})
# Bytes of pinned answers in the memory of one face. A lookup reads the other ones from Valkey.
MOST_PINNED_BYTES: Final = 16 * 1024 * 1024
# Slots that notes may add to those of the last listing.
_MOST_NOTED: Final = 1000


class Slot(Struct, eq=False):
    """The pin of one key, as far as this process knows it. A change of the pin replaces the slot.

    Attributes:
        data: The bytes of the pin, or None if they are not known, or not kept.
        is_current: Whether Valkey is known to have ``data``. Otherwise a lookup reads the pin first.
        entry: The decoded answer, once a lookup has asked for it.
        is_void: Whether ``data`` cannot be decoded: then the key has no pin that this process can serve.
    """

    data: bytes | None
    is_current: bool
    entry: Entry | None = None
    is_void: bool = False


class PinTable:
    """The pins of one face of a cache. No method awaits.

    Args:
        name: The name of the cache.
        is_shared: Whether a Valkey holds the pins. Without one this table holds them.

    Attributes:
        slots: The pins by the key of their entry.
        index: The key of the index of all pins.
        prefix: The prefix of the keys of pins.
    """

    def __init__(self, l1: L1, name: str, *, is_shared: bool) -> None:
        self.slots: dict[str, Slot] = {}
        self.index = f"{name}:__tc:idx:{PINS.kind}:{PINS.value}"
        self.prefix = f"{name}:__tc:pin:"
        self._start = f"{name}:"
        self._l1 = l1
        self._is_shared = is_shared
        self._bytes = 0
        self._doubt_count = 0
        self._listed_count = 0
        # The ``_version`` at which the last listing began, and its monotonic second.
        self._listed_version: tuple[int, int] | None = None
        self._listed_at = -math.inf
        self._changed: set[str] | None = None
        l1.pinned = self.slots

    def key_of_pin(self, key: str) -> str:
        """Return the key of the pin of the entry ``key``."""
        return self.prefix + key[len(self._start) :]

    def key_of_entry(self, pin_key: str) -> str:
        """Return the key of the entry whose pin is ``pin_key``."""
        return self._start + pin_key[len(self.prefix) :]

    # Lookups

    def is_listed(self, now: float) -> bool:
        """Return whether every pin is known to have a slot."""
        if not self._is_shared:
            return True
        return self._listed_version == self._version and self._l1.trusts(self._listed_at, now)

    @property
    def _version(self) -> tuple[int, int]:
        """The number of events so far after which any pin may have changed."""
        return self._l1.doubted_count, self._doubt_count

    def may_answer(self, key: str, now: float) -> bool:
        """Return whether a lookup of ``key`` must ask the pins first."""
        return key in self.slots or not self.is_listed(now)

    # Changes

    def note(self, pin_key: str) -> str | None:
        """Note that the pin ``pin_key`` may have changed; return the key of its entry, or None for any other key."""
        if not pin_key.startswith(self.prefix):
            return None
        key = self.key_of_entry(pin_key)
        slot = self.slots.get(key)
        if slot is None and len(self.slots) > self._listed_count + _MOST_NOTED:
            # The next lookup that L1 does not answer lists all pins.
            self.doubt()
        else:
            # Where Valkey does not answer, the older answer goes on being served.
            self._replace(key, Slot(None if slot is None else slot.data, is_current=False))
        self._l1.drop(key)
        return key

    def doubt(self) -> None:
        """Make a listing due: any pin may have changed."""
        self._doubt_count += 1

    def set(self, key: str, data: bytes) -> None:
        """Pin ``key`` to ``data``, which Valkey has."""
        self._replace(key, Slot(data, is_current=True))
        self._l1.drop(key)

    def remove(self, key: str) -> bool:
        """Remove the pin of ``key``, which Valkey does not have; return whether there was one."""
        self._l1.drop(key)
        return self._replace(key, None)

    def clear(self) -> int:
        """Remove all pins; return how many there were."""
        count = len(self.slots)
        for key in list(self.slots):
            self._replace(key, None)
        return count

    def answered(self, key: str, slot: Slot, data: bytes | None) -> None:
        """Keep the answer to a read of the pin of ``key``, unless ``slot`` was replaced while the read ran."""
        if self.slots.get(key) is slot:
            self._replace(key, None if data is None else Slot(data, is_current=True))

    def _replace(self, key: str, slot: Slot | None) -> bool:
        before = self.slots.pop(key, None)
        self._bytes -= _size(before)
        if slot is not None:
            self.slots[key] = slot
            self._bytes += _size(slot)
            if self._is_shared and self._bytes > MOST_PINNED_BYTES:
                self._forget_others(key)
        if self._changed is not None:
            self._changed.add(key)
        return before is not None

    def _forget_others(self, key: str) -> None:
        """Forget the answers of other slots until the rest fits into memory: a lookup reads them from Valkey again."""
        for other in [other for other, slot in self.slots.items() if other != key and slot.data is not None]:
            self._bytes -= _size(self.slots[other])
            self.slots[other] = Slot(None, is_current=False)
            if self._bytes <= MOST_PINNED_BYTES:
                return

    # Listings

    def begin_listing(self) -> tuple[int, int]:
        """Begin a listing: return its version for ``end_listing``. Changes from here on win over the listing."""
        self._changed = set()
        return self._version

    def end_listing(self, version: tuple[int, int], listed: Mapping[str, bytes | None], began: float) -> None:
        """Replace the slots by ``listed``.

        Args:
            version: As ``begin_listing`` returned it.
            listed: The bytes of every pin by the key of its entry; None for bytes that were not read.
            began: Monotonic second at which the listing began.
        """
        changed, self._changed = self._changed or set(), None
        for key in [key for key in self.slots if key not in listed and key not in changed]:
            self._replace(key, None)
        for key, data in listed.items():
            if key in changed:
                continue
            before = self.slots.get(key)
            if before is None or before.data != data or not before.is_current:
                self._replace(key, Slot(data, is_current=data is not None))
                self._l1.drop(key)
        self._listed_count = len(self.slots)
        self._listed_version, self._listed_at = version, began


def _size(slot: Slot | None) -> int:
    return 0 if slot is None or slot.data is None else len(slot.data)
