"""The state of one connection: its lane, its pending cut and its fate. Both directions share it."""

from __future__ import annotations

import asyncio
from typing import Final, Literal, TypeAlias

from .lanes import Lanes, Rule

__all__ = ["ConnectionState", "Fate"]

Fate: TypeAlias = Literal["closed", "reset", "silent"]

# Bytes of a client that ``lane_of`` may read.
_OPENING_BYTES: Final = 4096


class ConnectionState:
    """The state that both directions of a connection read and change.

    Attributes:
        lane: The last answer of ``lane_of``.
        cut_in: Bytes that may still go to the client before its reset, or None if no cut is pending.
        is_garbled: Whether the next bytes to the client are replaced by garbage, which ends the connection.
        fate: The end of the sockets when the connection's task ends.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._opening = b""
        self._waiting: list[asyncio.Event] = []
        self.lane = lanes.first
        self.cut_in: int | None = None
        self.is_garbled = False
        self.fate: Fate = "closed"

    @property
    def rule(self) -> Rule:
        """The present rule of the connection's lane."""
        return self._lanes.rule_of(self.lane)

    def watch(self, changed: asyncio.Event) -> None:
        """Set ``changed`` at each later change of a rule or of the lane."""
        self._waiting.append(changed)

    def wake(self) -> None:
        """Make both directions read the rule again."""
        for changed in self._waiting:
            changed.set()

    def inspect(self, data: bytes) -> None:
        """Give ``data``, sent by the client, to ``lane_of``, and move the connection to the lane that it names."""
        room = _OPENING_BYTES - len(self._opening)
        if room > 0 and data:
            self._opening += data[:room]
            lane, self.lane = self.lane, self._lanes.lane_of(self._opening)
            if lane != self.lane:
                self.wake()

    def take(self, byte_count: int) -> int:
        """Return how many of ``byte_count`` bytes may go to the client, and subtract them from a pending cut."""
        if self.cut_in is None:
            return byte_count
        allowed = min(byte_count, self.cut_in)
        self.cut_in -= allowed
        return allowed
