"""Lanes: groups of connections, and the rule that each group follows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .slow_link import SlowLink

__all__ = ["BOTH", "Direction", "Lanes", "Rule", "bus_or_commands"]

Direction: TypeAlias = Literal["to_server", "to_client"]

BOTH: Final[tuple[Direction, ...]] = ("to_server", "to_client")

# A RESP array whose first element is a command that subscribes.
_SUBSCRIBES: Final = re.compile(rb"\*\d+\r\n\$\d+\r\n[PS]?SUBSCRIBE\r\n", re.IGNORECASE)


def bus_or_commands(opening: bytes) -> str:
    """Return ``"bus"`` if a client that sent ``opening`` has subscribed, else ``"commands"``."""
    return "bus" if _SUBSCRIBES.search(opening) else "commands"


@dataclass(frozen=True, slots=True)
class Rule:
    """The treatment of a lane's bytes.

    Attributes:
        low, high: The range of the delay, in seconds.
        stalled: The directions that hold their bytes.
        bytes_per_second: The rate of a drip, or None for full speed.
        link: The slow link that the bytes pass, or None for a fast one.
    """

    low: float = 0.0
    high: float = 0.0
    stalled: frozenset[Direction] = frozenset()
    bytes_per_second: float | None = None
    link: SlowLink | None = None


class Lanes:
    """The lanes of a proxy: names connections, and keeps the rule of each name.

    Args:
        lane_of: Returns the name of a connection's lane from the bytes that its client has sent so far.

    Attributes:
        first: The lane of a connection whose client has sent nothing.
    """

    def __init__(self, lane_of: Callable[[bytes], str]) -> None:
        self.lane_of = lane_of
        self.first = lane_of(b"")
        # The rule of every lane without an entry in ``_own``.
        self._default = Rule()
        self._own: dict[str, Rule] = {}

    def rule_of(self, lane: str) -> Rule:
        """Return the rule of ``lane``."""
        return self._own.get(lane, self._default)

    def change(self, lane: str | None, change: Callable[[Rule], Rule]) -> None:
        """Replace the rule of ``lane``, or every rule if ``lane`` is None, with the result of ``change``."""
        if lane is None:
            self._default = change(self._default)
            self._own = {name: change(rule) for name, rule in self._own.items()}
        else:
            self._own[lane] = change(self.rule_of(lane))
