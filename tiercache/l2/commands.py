"""Writes as commands, and replies as their results.

Values are written by plain commands, never by a script or in MULTI: what a connection does so itself, the server does
not tell its own subscription of (CLIENT TRACKING with NOLOOP). ``SET ... IFEQ`` (Valkey 8.1) and ``DELIFEQ`` (9.0) have
scripts in their place where the server does not know them; it is not asked to track then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from valkey.exceptions import ResponseError

from ..engine.leases import PLACEHOLDER_PREFIX, is_placeholder
from ..engine.level2 import Announce, Command, Delete, Release, Run, TakeLease, Track, Write, WriteResult, WriteSet
from ..engine.ttl import to_milliseconds
from ..errors import L2CommandError
from .backplane import BusNames
from .errors import map_error
from .messages import encode
from .scripts import script

__all__ = ["WriteCommands"]

_ACTIONS: Final = {
    WriteSet: "SET",
    Delete: "DEL",
    TakeLease: "SET NX",
    Release: "DELIFEQ",
    Announce: "PUBLISH",
    Run: "a script",
}

# Indexes remembered until they are trimmed; further ones are when they are added to again.
_MAX_TRIMMED_COUNT: Final = 10_000


class WriteCommands:
    """The commands of one connection's server.

    Args:
        origin: What announcements are signed with.

    Attributes:
        has_conditions: Whether the server has SET ... IFEQ and DELIFEQ.
        indexes: Those that have been used, for whoever trims them; emptied by them.
    """

    def __init__(self, names: BusNames, origin: str) -> None:
        self._names = names
        self._origin = origin
        self.has_conditions = True
        self._announce = script("announce")
        self.indexes: set[str] = set()

    def questions(self) -> list[Command]:
        """Return the commands that show what the server knows; none changes anything."""
        probe = self._names.probe
        announce, _, _ = script("announce").partition("\n")
        return [("SET", probe, "", "IFEQ", ""), ("DELIFEQ", probe, ""), ("EVAL", f"{announce}\nreturn 1", 0)]

    def answers(self, replies: Sequence[Any]) -> None:
        """Take down the replies to ``questions``."""
        replaces, releases, runs = (not isinstance(reply, ResponseError) for reply in replies)
        self.has_conditions = replaces and releases
        whole = script("announce")
        # A server that knows no flags lets such a script run while it has memory.
        self._announce = whole if runs else whole.partition("\n")[2]

    def of(self, write: Write) -> list[Command]:
        """Return the commands that carry out ``write``."""
        match write:
            case WriteSet():
                return [*self._registrations(write.indexes, write.key), self._set(write)]
            case Delete(keys):
                return [_look(keys), ("DEL", *keys), *self._forgetting(write)]
            case TakeLease():
                return [*self._registrations(write.indexes, write.key), self._take(write)]
            case Release(key, placeholder):
                if self.has_conditions:
                    return [("DELIFEQ", key, placeholder)]
                return [("EVAL", script("release"), 1, key, placeholder)]
            case Announce(said):
                before, after = encode(said, self._origin)
                names = self._names
                if said.is_change:
                    return [("EVAL", self._announce, 1, names.sequence, names.channel, before, after)]
                return [("PUBLISH", names.channel, before + b"null" + after)]
            case Track():
                return [("CLIENT", "TRACKINGINFO")]
            case Run(command):
                return [command]

    def _registrations(self, indexes: Sequence[str], key: str) -> list[Command]:
        if not indexes:
            return []
        self._remember(indexes)
        now = int(time.time() * 1000)
        return [("ZADD", index, now, key) for index in indexes]

    def _forgetting(self, write: Delete) -> list[Command]:
        if write.index is None:
            return []
        # Those that are too young to be forgotten now are trimmed.
        self._remember([write.index])
        return [("EVAL", script("forget"), 1, write.index, *write.keys)]

    def _remember(self, indexes: Sequence[str]) -> None:
        if len(self.indexes) < _MAX_TRIMMED_COUNT:
            self.indexes.update(indexes)

    def _set(self, write: WriteSet) -> Command:
        life = () if write.ttl is None else ("PX", to_milliseconds(write.ttl))
        if write.replaces is None:
            return ("SET", write.key, write.value, *life)
        if self.has_conditions:
            return ("SET", write.key, write.value, "IFEQ", write.replaces, *life)
        milliseconds = 0 if write.ttl is None else to_milliseconds(write.ttl)
        return ("EVAL", script("replace"), 1, write.key, write.replaces, write.value, milliseconds)

    def _take(self, write: TakeLease) -> Command:
        milliseconds = to_milliseconds(write.ttl)
        if self.has_conditions:
            return ("SET", write.key, write.placeholder, "NX", "GET", "PX", milliseconds)
        return ("EVAL", script("take"), 1, write.key, write.placeholder, milliseconds)

    def result(self, write: Write, replies: Sequence[Any]) -> WriteResult:
        """Return what the replies to the commands of ``write`` mean."""
        if isinstance(write, Delete):
            return _deleted(*replies[:2])
        reply = replies[-1]
        if isinstance(write, TakeLease) and isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
            return TakeLease.NO_STRING
        for each in replies:
            if isinstance(each, ResponseError):
                return map_error(each, _ACTIONS[type(write)]) or L2CommandError(str(each))
        if isinstance(write, WriteSet):
            return int(reply is not None and reply != 0)
        return reply


def _look(keys: Sequence[str | bytes]) -> Command:
    """Return the command that looks at keys before they are deleted, so that no placeholder is counted as a value."""
    if len(keys) == 1:
        return ("GETRANGE", keys[0], 0, len(PLACEHOLDER_PREFIX) - 1)
    return ("EVAL", script("placeholders"), len(keys), *keys, PLACEHOLDER_PREFIX)


def _deleted(look: Any, reply: Any) -> WriteResult:
    """Return how many values were deleted. What the look cannot say is counted as a value."""
    if isinstance(reply, ResponseError):
        return map_error(reply, _ACTIONS[Delete]) or L2CommandError(str(reply))
    placeholders = look if isinstance(look, int) else int(isinstance(look, bytes) and is_placeholder(look))
    return max(0, reply - placeholders)
