"""Coherence: this process's memory follows what all others change, and is not believed where it cannot know.

What is heard is applied at once: the keys and groups go from L1, and reads and loads of them that are under way lose
their right to store. Whether everything was heard is another question, and has two answers. *Trust*: pings on the
subscription are answered in its order, so after an answer everything said before the ping has been applied; L1 is
believed for ``max_staleness`` seconds from when that ping was sent. *Distrust*: after a gap in the sequence of changes,
a message that makes no sense, or a disconnection during which something may have been said, all that L1 has is dropped.
"""

from __future__ import annotations

from typing import Protocol

from ...log import CacheLog
from ...options import CoherenceOptions
from ..level2.announcement import ChangedByOthers, Event, Heard, Pong, Unreadable
from ..level2.level2 import Position
from ..memory.memory import Memory
from .leases import Leases

__all__ = ["Coherence", "Policies"]


class Policies(Protocol):
    """The tool policies in Valkey, which other processes and BetterDB Monitor change.

    Attributes:
        policies_key: The key of their hash in Valkey.
    """

    policies_key: str

    def policies_changed(self) -> None:
        """Note that another process may have changed the policies."""
        ...


class Coherence:
    """What has been heard, and what follows from it. Decides, and waits for nothing.

    Args:
        origin: The name of this runtime in announcements.
        policies: Notified when another process may have changed a policy.

    Attributes:
        generation: How often everything was distrusted.
        heard_count: Changes by other processes that were applied.
    """

    def __init__(
        self,
        memory: Memory,
        leases: Leases,
        policies: Policies,
        options: CoherenceOptions,
        *,
        origin: str,
        log: CacheLog,
    ) -> None:
        self._l1 = memory.l1
        self._fences = memory.fences
        self._leases = leases
        self._policies = policies
        self._max_staleness = options.max_staleness
        self._origin = origin
        self._log = log
        self._position: Position | None = None
        self._is_catching_up = False
        self.generation = 0
        self.heard_count = 0

    def subscribed(self, position: Position) -> None:
        """Begin with a new subscription, made before ``position`` was asked for."""
        if not position.proves_nothing_missed(self._position):
            self.distrust("changes may have been made while there was no subscription")
        self._position = position
        self._is_catching_up = True

    def apply(self, event: Event) -> None:
        """Apply what was heard. No await: whoever runs next finds it done."""
        match event:
            case Pong():
                self._answered(event)
            case Heard():
                self._hear(event)
            case ChangedByOthers(None):
                self.distrust("every key may have been changed")
            case ChangedByOthers(keys):
                for key in keys or ():
                    if key == self._policies.policies_key:
                        self._policies.policies_changed()
                    else:
                        self._drop(key)
            case Unreadable(reason):
                self.distrust(reason)

    def _answered(self, pong: Pong) -> None:
        self._is_catching_up = False
        server, last = self._position or Position(None, 0)
        if pong.number > last:
            # Numbered before the ping, and not heard before its answer.
            self.distrust(f"change {pong.number} was made, and {last} was the last that was heard of")
            self._position = Position(server, pong.number)
        self._l1.trusted_until = max(self._l1.trusted_until, pong.stamp + self._max_staleness)

    def _hear(self, heard: Heard) -> None:
        if heard.number is not None:
            self._count(heard.number)
        if heard.origin == self._origin:
            return  # Applied by this process before it was said.
        said = heard.announcement
        self.heard_count += said.is_change
        for key in said.keys:
            self._drop(key)
        for group in said.groups:
            self._fences.break_group(group)
            self._l1.drop_group(group)
        for group in said.overtaken:
            self._fences.break_group(group)
        for key in said.wanted:
            self._leases.note_wanted(key)
        for key in said.settled:
            self._leases.wake(key)
        if said.settings:
            self._policies.policies_changed()

    def _drop(self, key: str) -> None:
        self._fences.break_key(key)
        self._l1.drop(key)
        self._leases.wake(key)

    def _count(self, number: int) -> None:
        server, last = self._position or Position(None, 0)
        if self._is_catching_up and number <= last:
            return  # Said between the subscription and the question for its position.
        if number != last + 1:
            self.distrust(f"change {number} came after change {last}")
        self._position = Position(server, number)

    def distrust(self, reason: str) -> None:
        """Believe nothing that is in memory, and let nothing that is under way into it."""
        self._log.debug("L1 is dropped: %s", reason)
        self.generation += 1
        self._fences.doubt_all()
        self._l1.clear()
        self._leases.wake_all()
