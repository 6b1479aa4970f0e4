"""Coherence: the L1 of this process follows the changes of all processes, and is trusted only while that is certain.

This process applies each received change at once: L1 drops the keys and groups, and the fences of reads and loads in
progress break. Two mechanisms cover changes that this process did not receive.

**Trust.** The server answers a PING on the subscription in the order of the messages. When the answer arrives, this
process has applied every change that was published before the PING:

::

    t ── question for the last number ── PING sent ── PONG received ────────── t + max_staleness
                                                            └───── L1 is trusted ─────┘

A later PONG moves the end forward, never backward. Without a PONG the trust ends by itself; L1 then serves an entry for
``max_staleness`` seconds after its own load or read.

**Generation.** Changes are numbered, so that a gap shows. After a gap L1 is dropped and every fence is in doubt: a new
generation begins.

::

                     subscribed                     first PONG
    no subscription ───────────▶ catching up ──────────────────▶ following
           ▲                          │                              │
           └──────────────────────────┴───── the subscription ends ──┘

A new generation begins in these cases:

1. ``subscribed``: there was no subscription for a while, and not every change has a number.
2. A change whose number is not the next one. The exception is the race "published while subscribing": while this
   process is catching up, messages may carry numbers up to the known one, because they were published between the
   subscription and the question for the number. This process applies such messages, and treats none of them as a gap.
3. A PONG with a higher number than the last received one: a change was numbered, but its message was not received. Its
   process may lack the right to publish, for example.
4. A message that this version cannot read, or a tracking message without keys.
5. The Listener finds that tracking was off for a while.
6. The Listener finds that the server is no primary any more. Another server may have acknowledged changes since.
"""

from __future__ import annotations

import math
from typing import Protocol

from ...log import CacheLog
from ...options import CoherenceOptions
from ..level2.announcement import Announcement, Event, KeysDeclined, Pong, Received, TrackedChange, Unreadable
from ..memory.memory import Memory
from ..memory.pins import PINS
from .leases import Leases

__all__ = ["Coherence", "PolicyReader"]


class PolicyReader(Protocol):
    """Reads the tool policies in Valkey again after other processes or BetterDB Monitor have changed them.

    Attributes:
        watched_keys: Keys that hold no entries: the policies, and the heartbeat of the registration.
    """

    @property
    def watched_keys(self) -> frozenset[str]: ...

    def watched_changed(self, key: str | None) -> None:
        """Look at a watched key again soon: another client has changed it. None: any key may have changed."""
        ...

    def policies_changed(self) -> None:
        """Read the policies again soon: another process may have changed them."""
        ...

    def key_changed(self, key: str) -> None:
        """Note that another client has changed ``key``, as the server reports."""
        ...


class Coherence:
    """Applies received events to L1, fences and leases. No method awaits.

    Args:
        origin: The name of this runtime in announcements.
        policies: Reads the tool policies again when another process may have changed a policy.

    """

    def __init__(
        self,
        memory: Memory,
        leases: Leases,
        policies: PolicyReader,
        options: CoherenceOptions,
        *,
        origin: str,
        log: CacheLog,
    ) -> None:
        self._l1 = memory.l1
        self._pins = memory.pins
        self._fences = memory.fences
        self._leases = leases
        self._policies = policies
        self._max_staleness = options.max_staleness
        self._origin = origin
        self._log = log
        self._hooks = memory.hooks
        self._now = memory.now
        # The number of the last change that is known here; None before the first subscription.
        self._number: int | None = None
        self._is_catching_up = False

    def subscribed(self, number: int) -> None:
        """Start with a new subscription. This process must have subscribed before it asked for ``number``."""
        if self._number is not None:
            self._policies.policies_changed()
        self.distrust("changes may have been published while there was no subscription")
        self._number = number
        self._is_catching_up = True

    def apply(self, event: Event) -> None:
        """Apply a received event. No await here: the next task that runs finds the event applied."""
        match event:
            case Pong():
                self._receive_pong(event)
            case Received():
                self._receive(event)
            case TrackedChange(None):
                self.distrust("the server reported that any key may have changed")
                self._policies.watched_changed(None)
            case TrackedChange(keys):
                for key in keys or ():
                    if key in self._policies.watched_keys:
                        self._policies.watched_changed(key)
                    else:
                        was_in_l1 = self._drop(key, may_be_expiry=True)
                        self._l1.heard_count += was_in_l1
                        self._policies.key_changed(key)
                        if was_in_l1:
                            self._hooks.invalidate("key", key, 1, "elsewhere")
            case KeysDeclined(are_declined):
                if not are_declined:
                    self._l1.announcements.arrive_since = self._now()
            case Unreadable(reason):
                self.distrust(reason)

    def _receive_pong(self, pong: Pong) -> None:
        self._is_catching_up = False
        last = self._number or 0
        if pong.number > last:
            # Numbered before the PING was sent, but its message did not arrive before the PONG.
            self.distrust(f"change {pong.number} was made, but {last} was the last change received")
            self._number = pong.number
        self._l1.trust(pong.stamp + self._max_staleness)

    def _receive(self, received: Received) -> None:
        if received.number is not None:
            self._check_number(received.number)
        if received.origin == self._origin:
            return  # This process applied its own change before it published the change.
        announcement = received.announcement
        self._l1.heard_count += announcement.is_change
        dropped = self._dropped(announcement) if self._hooks.registry.invalidate else ()
        self.follow(announcement)
        for kind, value, count in dropped:
            self._hooks.invalidate(kind, value, count, "elsewhere")

    def _dropped(self, announcement: Announcement) -> list[tuple[str, str, int]]:
        """Drop the entries of a change from L1; return the kind, the name and the count of each, for the hooks."""
        # A tracking message may have reported the same key before, or will: the first of the two finds the entry.
        keys = [("key", key, 1) for key in announcement.keys if self._l1.drop(key)]
        groups = [group for group in announcement.groups if group != PINS]
        return keys + [(group.kind, group.value, self._l1.drop_group(group)) for group in groups]

    def follow(self, announcement: Announcement) -> None:
        """Apply a change that another runtime has made: of another process, or of the other face of this process."""
        for key in announcement.keys:
            self._drop(key)
        for group in announcement.groups:
            self._fences.break_group(group)
            self._l1.drop_group(group)
            if group == PINS:
                self._pins.doubt()
        for group in announcement.overtaken:
            self._fences.break_group(group)
        for key in announcement.awaited_leases:
            self._leases.note_awaited(key)
        for key in announcement.ended_leases:
            self._leases.wake(key)
        if announcement.policies:
            self._policies.policies_changed()

    def _drop(self, key: str, *, may_be_expiry: bool = False) -> bool:
        self._fences.break_key(key)
        was_in_l1 = self._l1.drop_changed(key, self._now()) if may_be_expiry else self._l1.drop(key)
        self._leases.wake(key)
        pinned = self._pins.note(key)
        if pinned is not None:
            # L1 no longer has the entry of the pin. A read in progress must not bring it back.
            self._fences.break_key(pinned)
        return was_in_l1

    def _check_number(self, number: int) -> None:
        last = self._number or 0
        if self._is_catching_up and number <= last:
            return  # Published between the subscription and the question for the number: no gap.
        if number != last + 1:
            self.distrust(f"change {number} came after change {last}")
        self._number = number

    def end_trust(self, reason: str) -> None:
        """Drop L1, and trust it no more until the next PONG."""
        self._l1.trusted_until = -math.inf
        self.distrust(reason)

    def distrust(self, reason: str) -> None:
        """Drop L1 and begin a new generation: reads and loads in progress may not fill L1 either."""
        self._log.debug("L1 is dropped (new generation): %s", reason)
        self._l1.distrusted_count += 1
        self._fences.doubt_all()
        self._l1.clear()
        self._leases.wake_all()
