"""Server-assisted tracking: the server reports the keys that clients change, except this process's own writer.

The writer's connection turns tracking on (CLIENT TRACKING; NOLOOP leaves out the writer's own changes) and redirects
the messages to the connection of the subscription. There are two modes:

1. By interest: the server reports each key that the writer's connection has read, once a read. An own write of a key
   ends its registration without a message, so a read follows each write whose value L1 keeps.
2. By broadcast (BCAST): the server reports every key of the cache to every process.

Tracking ends when either connection ends, and the server does not report that end. Therefore this process turns
tracking on again with each new connection of either kind, and asks the server for the state of tracking
(CLIENT TRACKINGINFO).

Interest needs more than broadcast does: the connection must carry the reads too, the user needs more rights, and the
table in which the server keeps the keys of all clients must have room. When the table is full, the server forgets keys,
and with NOLOOP it does not tell the reader whose read made it forget. Where anything is missing, or no longer enough,
this process tracks by broadcast.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from valkey.exceptions import ResponseError

from ...engine.level2.writes import Command, Track, TrackingState, Write, WriteResult
from ...errors import L2CommandError
from .backplane import BackplaneNames
from .errors import is_not_now, map_error

__all__ = ["Tracking"]

# The default of ``tracking-table-max-keys``, for a user without permission to read it.
_DEFAULT_MAX_KEYS: Final = 1_000_000
# Room that the table must have at each question: all clients together fill less than this until the next one.
_ROOM_KEYS: Final = 100_000
_TOTAL_KEYS: Final = re.compile(rb"\btracking_total_keys:(\d{1,18})\b")


class Tracking:
    """The state of tracking on the writer's connection.

    Args:
        names: The prefixes of the tracked keys, for broadcast, and the key for probes.
        may_register: Whether the connection can carry the reads too, which interest needs.
    """

    def __init__(self, names: BackplaneNames, *, may_register: bool) -> None:
        self._names = names
        self._may_register = may_register
        self._subscriber: int | None = None
        self._mode: Literal["interest", "broadcast"] = "broadcast"
        self._is_on = False
        # Counts how often tracking was turned on.
        self._number = 0
        self._refusal: Exception | None = None
        self._reason: str | None = None

    def note_subscriber(self, writes: Sequence[Write]) -> None:
        """Remember the subscriber that a ``Track`` among ``writes`` names, if there is one."""
        for write in writes:
            if isinstance(write, Track) and write.subscriber != self._subscriber:
                self._subscriber = write.subscriber
                self._is_on = False
                self._refusal = self._reason = None
                self._mode = "interest" if write.by_interest else "broadcast"
                if not self._may_register:
                    self._mode = "broadcast"

    def connection_changed(self) -> None:
        """Note that the writer has a new connection."""
        self._is_on = False

    def ask_again(self) -> None:
        """Look again, before the next write, whether interest is possible: the server has refused what it needs."""
        self._is_on = False

    @property
    def is_due(self) -> bool:
        """Whether tracking must be turned on before the next write."""
        return self._subscriber is not None and not self._is_on and self._refusal is None

    @property
    def registers(self) -> bool:
        """Whether the server registers the keys that the writer's connection reads."""
        return self._is_on and self._mode == "interest"

    def commands(self) -> list[Command]:
        """Return the commands that turn tracking on."""
        assert self._subscriber is not None
        on: Command = ("CLIENT", "TRACKING", "ON", "REDIRECT", self._subscriber, "NOLOOP")
        if self._mode == "interest":
            return [("CLIENT", "TRACKING", "OFF"), *self.questions(), *self._probes(), on]
        prefixes = [part for prefix in self._names.tracked for part in ("PREFIX", prefix)]
        # OFF first: the server refuses a second ON because the prefixes overlap those of the first.
        return [("CLIENT", "TRACKING", "OFF"), (*on, "BCAST", *prefixes)]

    def _probes(self) -> list[Command]:
        """Return the commands that interest uses and broadcast does not. They change nothing."""
        probe = self._names.probe
        return [("MULTI",), ("PTTL", probe), ("EXEC",), ("GETRANGE", probe, 0, 0), ("EXISTS", probe)]

    def questions(self) -> list[Command]:
        """Return the commands that ask for the state of tracking."""
        info: Command = ("CLIENT", "TRACKINGINFO")
        # The limit each time: an operator may lower it while the server runs.
        limit: Command = ("CONFIG", "GET", "tracking-table-max-keys")
        return [info, ("INFO", "stats"), limit] if self._mode == "interest" else [info]

    def refuse(self, reason: str) -> None:
        """Leave tracking off because of ``reason``, which every ``Track`` has as its result."""
        self._refusal = L2CommandError(reason)

    def take_replies(self, replies: Sequence[Any]) -> None:
        """Note from the replies to ``commands`` whether tracking is on."""
        reply = replies[-1]
        if isinstance(reply, ResponseError):
            # The subscription's connection has ended, which the listener is about to notice; or the server cannot
            # answer now. The next write tries again.
            if "does not exist" in str(reply) or is_not_now(reply):
                return
            self._refusal = map_error(reply, "CLIENT TRACKING") or L2CommandError(str(reply))
            return
        if self._mode == "interest":
            _, *answers, _ = replies
            if any(is_not_now(answer) for answer in answers):
                return
            if (missing := self._missing(answers)) is not None:
                self._leave_interest(missing)
                return
        self._is_on = True
        self._number += 1

    def _missing(self, answers: Sequence[Any]) -> str | None:
        """Return why interest is not possible, or None.

        Args:
            answers: The replies to ``questions``, and further ones of which none may be a refusal.
        """
        info, statistics, limit, *others = answers
        refusal = next((answer for answer in (info, statistics, *others) if isinstance(answer, ResponseError)), None)
        if refusal is not None:
            return f"the server refuses a command: {refusal}"
        found_total = _TOTAL_KEYS.search(statistics) if isinstance(statistics, bytes) else None
        if found_total is None:
            return "the server does not tell how many keys it tracks"
        total = int(found_total[1])
        found = isinstance(limit, list) and len(limit) == 2 and bytes(limit[1]).isdigit()
        max_keys = int(limit[1]) if found else _DEFAULT_MAX_KEYS
        if not max_keys or total + _ROOM_KEYS <= max_keys:
            return None  # A limit of 0 is none.
        return f"the server's table of tracked keys has too little room (tracking-table-max-keys {max_keys})"

    def _leave_interest(self, reason: str) -> None:
        """Track by broadcast from the next write on."""
        self._is_on = False
        self._mode, self._reason = "broadcast", reason

    def result(self, replies: Sequence[Any]) -> WriteResult:
        """Return the result of a ``Track`` from the replies to ``questions``."""
        if self._refusal is not None:
            return self._refusal
        if not self._is_on:
            # Before the first time: whether the server can track is not known yet.
            return TrackingState(0, "off") if self._number == 0 else None
        info = replies[0]
        if self._mode == "interest":
            if any(is_not_now(reply) for reply in replies):
                return None
            if (missing := self._missing(replies)) is not None:
                # The server may have forgotten keys by now: nothing is proved.
                self._leave_interest(missing)
                return None
        if not isinstance(info, ResponseError):  # A user without permission to ask works without the answer.
            flags = info[1] if isinstance(info, list) and len(info) > 1 else ()
            if b"on" not in flags or b"broken_redirect" in flags:
                # Tracking has ended since. The next ``Track`` turns it on again, under another number.
                self._is_on = False
                return None
        return TrackingState(self._number, self._mode, self._reason)
