"""Writes as commands, and replies as their results.

Values are written by plain commands, never by a script or in MULTI: what a connection does so itself, the server does
not tell its own subscription of (CLIENT TRACKING with NOLOOP). ``SET ... IFEQ`` (Valkey 8.1) and ``DELIFEQ`` (9.0) have
scripts in their place where the server does not know them; it is not asked to track then.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from valkey.exceptions import ResponseError

from ...engine.coherence.leases import PLACEHOLDER_PREFIX, is_placeholder
from ...engine.level2.writes import (
    Announce,
    Command,
    Delete,
    Release,
    Run,
    TakeLease,
    Track,
    Write,
    WriteResult,
    WriteSet,
)
from ...errors import L2CommandError
from ...ttl import to_milliseconds
from .backplane import BusNames
from .errors import map_error
from .messages import encode
from .scripts import script

__all__ = ["Batch", "WriteCommands"]

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


class Batch(NamedTuple):
    """What is sent for several writes.

    Attributes:
        commands: First those that add keys to indexes, one for each of ``indexes``; then those of the writes, in order.
        counts: How many the latter are, for each write.
    """

    commands: list[Command]
    indexes: list[str]
    counts: list[int]


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

    def batch(self, writes: Sequence[Write]) -> Batch:
        """Return what carries out ``writes``, in order."""
        members: dict[str, list[str]] = {}
        commands: list[Command] = []
        counts: list[int] = []
        for write in writes:
            if isinstance(write, WriteSet | TakeLease):
                for index in write.indexes:
                    members.setdefault(index, []).append(write.key)
            those = self.of(write)
            commands += those
            counts.append(len(those))
        return Batch([*self._registrations(members), *commands], list(members), counts)

    def of(self, write: Write) -> list[Command]:
        """Return the commands that carry out ``write``, but those that add its key to indexes."""
        match write:
            case WriteSet():
                return [self._set(write)]
            case Delete(keys):
                return [_look(keys), ("DEL", *keys), *self._forgetting(write)]
            case TakeLease():
                return [self._take(write)]
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

    def _registrations(self, members: Mapping[str, Sequence[str]]) -> list[Command]:
        """Return the commands that add keys to indexes: a command an index, however many keys."""
        if not members:
            return []
        self._remember(members)
        now = int(time.time() * 1000)
        return [("ZADD", index, *[part for key in keys for part in (now, key)]) for index, keys in members.items()]

    def _forgetting(self, write: Delete) -> list[Command]:
        if write.index is None:
            return []
        # Those that are too young to be forgotten now are trimmed.
        self._remember([write.index])
        return [("EVAL", script("forget"), 1, write.index, *write.keys)]

    def _remember(self, indexes: Iterable[str]) -> None:
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

    def results(self, writes: Sequence[Write], batch: Batch, replies: Sequence[Any]) -> list[WriteResult]:
        """Return what the replies to the commands of ``batch`` mean, for each of ``writes``."""
        start = len(batch.indexes)
        refused = {
            index: reply
            for index, reply in zip(batch.indexes, replies, strict=False)
            if isinstance(reply, ResponseError)
        }
        results: list[WriteResult] = []
        for write, count in zip(writes, batch.counts, strict=True):
            own = replies[start : start + count]
            start += count
            # A key that its index does not have would not be found by whoever removes the group.
            refusal = _refused(write, refused) if refused else None
            results.append(_result(write, own) if refusal is None else _refusal(write, refusal))
        return results


def _result(write: Write, replies: Sequence[Any]) -> WriteResult:
    """Return what the replies to the commands of ``write`` mean. For a Track that is said elsewhere."""
    if isinstance(write, Delete):
        return _deleted(*replies[:2])
    (reply,) = replies
    if isinstance(reply, ResponseError) and not isinstance(write, Track):
        if isinstance(write, TakeLease) and str(reply).startswith("WRONGTYPE"):
            return TakeLease.NO_STRING
        return _refusal(write, reply)
    if isinstance(write, WriteSet):
        return int(reply is not None and reply != 0)
    return reply


def _refused(write: Write, refused: Mapping[str, ResponseError]) -> ResponseError | None:
    """Return why the key of ``write`` was not added to one of its indexes, None if it was to all."""
    indexes = write.indexes if isinstance(write, WriteSet | TakeLease) else ()
    return next((refused[index] for index in indexes if index in refused), None)


def _refusal(write: Write, error: ResponseError) -> WriteResult:
    return map_error(error, _ACTIONS[type(write)]) or L2CommandError(str(error))


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
