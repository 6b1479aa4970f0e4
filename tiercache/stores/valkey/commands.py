"""Writes as commands, and their replies as results.

Plain commands write values, never a script or MULTI: only the effects of a connection's own plain commands are left
out of the tracking invalidations for its process (CLIENT TRACKING with NOLOOP). For a server without ``SET ... IFEQ``
(Valkey 8.1) or ``DELIFEQ`` (9.0) there are scripts that do the same; such a server is not asked to track.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from valkey.exceptions import OutOfMemoryError, ResponseError

from ...engine.coherence.placeholders import PLACEHOLDER_PREFIX, is_placeholder
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
from .backplane import BackplaneNames
from .errors import is_not_now, map_error
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

# Indexes remembered until the next trim. An index beyond the bound is remembered at a later use, once there is room.
_MAX_REMEMBERED_COUNT: Final = 10_000


class Batch(NamedTuple):
    """The commands for several writes.

    Attributes:
        commands: First the commands that add keys to indexes, one for each of ``indexes``; then the commands of the
            writes, in order.
        counts: The number of commands of each write, without those for indexes.
    """

    commands: list[Command]
    indexes: list[str]
    counts: list[int]


class WriteCommands:
    """Builds the commands that the server of one connection supports.

    Args:
        origin: Signs the announcements of this process.

    Attributes:
        has_conditions: Whether the server has SET ... IFEQ and DELIFEQ.
        must_probe: Whether the features of the server are unknown, because it could not carry the probes out.
        indexes: The indexes that were used since the last trim. The store removes the ones that it trims.
    """

    def __init__(self, names: BackplaneNames, origin: str) -> None:
        self._names = names
        self._origin = origin
        self.has_conditions = True
        self.must_probe = True
        self._announce = script("announce")
        self.indexes: set[str] = set()

    def probes(self) -> list[Command]:
        """Return commands whose replies show which features the server has. The commands change nothing."""
        probe = self._names.probe
        announce, _, _ = script("announce").partition("\n")
        return [("SET", probe, "", "IFEQ", ""), ("DELIFEQ", probe, ""), ("EVAL", f"{announce}\nreturn 1", 0)]

    def take_probe_replies(self, replies: Sequence[Any]) -> None:
        """Note the server's features from the replies to ``probes``, unless the server cannot carry out writes now."""
        # Such a refusal shows no feature. Without this test, a server without enough replicas or memory would look like
        # an old one, and tracking would stay off.
        self.must_probe = any(is_not_now(reply) or isinstance(reply, OutOfMemoryError) for reply in replies)
        if self.must_probe:
            return
        replaces, releases, runs = (not isinstance(reply, ResponseError) for reply in replies)
        self.has_conditions = replaces and releases
        whole = script("announce")
        # A server that does not know script flags runs the script without them, as long as it has memory.
        self._announce = whole if runs else whole.partition("\n")[2]

    def batch(self, writes: Sequence[Write]) -> Batch:
        """Return the commands that carry out ``writes``, in order."""
        members: dict[str, list[str]] = {}
        commands: list[Command] = []
        counts: list[int] = []
        for write in writes:
            if isinstance(write, WriteSet | TakeLease):
                for index in write.indexes:
                    members.setdefault(index, []).append(write.key)
            own = self.of(write)
            commands += own
            counts.append(len(own))
        return Batch([*self._index_additions(members), *commands], list(members), counts)

    def of(self, write: Write) -> list[Command]:
        """Return the commands that carry out ``write``, without those that add its key to indexes."""
        match write:
            case WriteSet():
                return [self._set(write)]
            case Delete(keys):
                return [_count_placeholders(keys), ("DEL", *keys), *self._index_removals(write)]
            case TakeLease():
                return [self._take(write)]
            case Release(key, placeholder):
                if self.has_conditions:
                    return [("DELIFEQ", key, placeholder)]
                return [("EVAL", script("release"), 1, key, placeholder)]
            case Announce(announcement):
                before, after = encode(announcement, self._origin)
                names = self._names
                if announcement.is_change:
                    return [("EVAL", self._announce, 1, names.sequence, names.channel, before, after)]
                return [("PUBLISH", names.channel, before + b"null" + after)]
            case Track():
                return [("CLIENT", "TRACKINGINFO")]
            case Run(command):
                return [command]

    def _index_additions(self, members: Mapping[str, Sequence[str]]) -> list[Command]:
        """Return the commands that add ``members``, keys by index, to the indexes: one command for each index."""
        if not members:
            return []
        self._remember_indexes(members)
        now = int(time.time() * 1000)
        return [("ZADD", index, *[part for key in keys for part in (now, key)]) for index, keys in members.items()]

    def _index_removals(self, write: Delete) -> list[Command]:
        if write.index is None:
            return []
        # forget.lua leaves young members in the index; a later trim removes them.
        self._remember_indexes([write.index])
        return [("EVAL", script("forget"), 1, write.index, *write.keys)]

    def _remember_indexes(self, indexes: Iterable[str]) -> None:
        if len(self.indexes) < _MAX_REMEMBERED_COUNT:
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
        """Return the result of each of ``writes`` from the replies to the commands of ``batch``."""
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
            # A key that is missing from its index would survive the invalidation of its group.
            refusal = _index_refusal(write, refused) if refused else None
            results.append(_result(write, own) if refusal is None else _refusal(write, refusal))
        return results


def _result(write: Write, replies: Sequence[Any]) -> WriteResult:
    """Return the result of ``write`` from the replies to its commands. ``Tracking`` interprets the reply of a Track."""
    if isinstance(write, Delete):
        return _deleted_count(*replies[:2])
    (reply,) = replies
    if isinstance(reply, ResponseError) and not isinstance(write, Track):
        if isinstance(write, TakeLease) and str(reply).startswith("WRONGTYPE"):
            return TakeLease.NO_STRING
        return _refusal(write, reply)
    if isinstance(write, WriteSet):
        return int(reply is not None and reply != 0)
    return reply


def _index_refusal(write: Write, refused: Mapping[str, ResponseError]) -> ResponseError | None:
    """Return the first error with which an index of ``write`` refused its key, or None if all indexes took the key."""
    indexes = write.indexes if isinstance(write, WriteSet | TakeLease) else ()
    return next((refused[index] for index in indexes if index in refused), None)


def _refusal(write: Write, error: ResponseError) -> WriteResult:
    return map_error(error, _ACTIONS[type(write)]) or L2CommandError(str(error))


def _count_placeholders(keys: Sequence[str | bytes]) -> Command:
    """Return the command that finds placeholders among ``keys`` before their deletion, which must not count them."""
    if len(keys) == 1:
        return ("GETRANGE", keys[0], 0, len(PLACEHOLDER_PREFIX) - 1)
    return ("EVAL", script("placeholders"), len(keys), *keys, PLACEHOLDER_PREFIX)


def _deleted_count(found: Any, reply: Any) -> WriteResult:
    """Return how many values were deleted, or the error if DEL was refused.

    Args:
        found: The reply to ``_count_placeholders``. If it is an error, every deleted key counts as a value.
        reply: The reply to DEL.
    """
    if isinstance(reply, ResponseError):
        return map_error(reply, _ACTIONS[Delete]) or L2CommandError(str(reply))
    placeholders = found if isinstance(found, int) else int(isinstance(found, bytes) and is_placeholder(found))
    return max(0, reply - placeholders)
