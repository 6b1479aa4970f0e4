"""Writes as commands, and their replies as results.

Plain commands write values, never a script: with tracking by broadcast, only the effects of a connection's own plain
commands are left out of the tracking invalidations for its process (CLIENT TRACKING with NOLOOP). With tracking by
interest a read follows each write whose value L1 keeps: the write has ended the registration of the key. For a server
without ``SET ... IFEQ`` (Valkey 8.1) or ``DELIFEQ`` (9.0) there are scripts that do the same; such a server is not
asked to track.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from valkey.exceptions import OutOfMemoryError, ResponseError

from ...engine.coherence.placeholders import PLACEHOLDER_PREFIX, is_placeholder
from ...engine.level2.writes import (
    INDEX_MARGIN,
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
from ...indexes.scripts import members_script, register_script
from ...ttl import to_milliseconds
from .backplane import BackplaneNames
from .errors import is_not_now, map_error
from .messages import encode
from .packing import TRANSACTION_COUNT, Sendable, packed_pttl, packed_set, packed_take
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

# The writes that add keys to indexes.
_INDEXED: Final = (WriteSet, TakeLease)

# Indexes that a process remembers as listed. Beyond the bound it lists an index again at each use.
_MAX_LISTED_COUNT: Final = 10_000


class Batch(NamedTuple):
    """The commands for several writes.

    Attributes:
        commands: First the commands that add keys to indexes, one for each of ``indexes``; then the command that lists
            new indexes, if there are any; then the commands of the writes, in order. Some are packed, also several in
            one ``bytes``.
        counts: The number of commands of each write, without those for indexes.
    """

    commands: list[Sendable]
    indexes: list[str]
    counts: list[int]
    lists_indexes: bool = False

    @property
    def reply_count(self) -> int:
        """The number of replies to the commands."""
        return len(self.indexes) + self.lists_indexes + sum(self.counts)


class _Members:
    """The keys that one batch adds to an index.

    Attributes:
        keys: The keys.
        life: Milliseconds that the index must live from now on; 0 for no expiry.
    """

    __slots__ = ("keys", "life")

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.life = 1

    def add(self, key: str, life: int) -> None:
        """Add a key that is in the index for ``life`` milliseconds, 0 for no end."""
        self.keys.append(key)
        self.life = 0 if life == 0 or self.life == 0 else max(life, self.life)


class WriteCommands:
    """Builds the commands that the server of one connection supports.

    Args:
        origin: Signs the announcements of this process.
        ask_tracking: Returns the commands that ask for the state of tracking.
        packs: Whether the connection takes packed commands.

    Attributes:
        has_conditions: Whether the server has SET ... IFEQ and DELIFEQ.
        registers: Whether a read must follow each write whose value L1 keeps. Only with ``packs`` and conditions.
        has_lost_right: Whether the server has refused a write because of the commands that register its key.
        must_probe: Whether the features of the server are unknown, because it could not carry the probes out.
        listed: The indexes that this process has listed in the register of indexes since the last trim, each with
            whether it was listed as an index without an expiry.
    """

    def __init__(
        self, names: BackplaneNames, origin: str, ask_tracking: Callable[[], list[Command]], *, packs: bool
    ) -> None:
        self._names = names
        self._origin = origin
        self._ask_tracking = ask_tracking
        self._packs = packs
        self.has_conditions = True
        self.registers = False
        self.has_lost_right = False
        self.must_probe = True
        self._announce = script("announce")
        self.listed: dict[str, bool] = {}

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
        members: dict[str, _Members] = {}
        commands: list[Sendable] = []
        counts: list[int] = []
        for write in writes:
            if isinstance(write, _INDEXED) and write.indexes:
                life = _index_life(write)
                for index in write.indexes:
                    members.setdefault(index, _Members()).add(write.key, life)
            if type(write) is WriteSet:
                commands.append(self._set(write))
                counts.append(TRANSACTION_COUNT if self.registers else 1)
                continue
            own = self.of(write)
            commands += own
            counts.append(len(own))
        if not members:
            return Batch(commands, [], counts)
        additions: list[Sendable] = [
            ("EVAL", members_script("add"), 1, index, each.life, *each.keys) for index, each in members.items()
        ]
        listing = self._list_indexes(members)
        return Batch([*additions, *listing, *commands], list(members), counts, bool(listing))

    def of(self, write: Write) -> list[Sendable]:
        """Return the commands that carry out ``write``, without those that add its key to indexes."""
        match write:
            case WriteSet():
                return [self._set(write)]
            case Delete(keys):
                return [_count_placeholders(keys), ("DEL", *keys), *self._index_removals(write)]
            case TakeLease():
                # A write between the two has replaced the placeholder: the load cannot store its value then.
                return [self._take(write), *self._registration(write.key)]
            case Release(key, placeholder):
                if self.has_conditions:
                    # L1 may keep the error of the load.
                    return [("DELIFEQ", key, placeholder), *self._registration(key)]
                return [("EVAL", script("release"), 1, key, placeholder)]
            case Announce(announcement):
                before, after = encode(announcement, self._origin)
                names = self._names
                if announcement.is_change:
                    # Single keys are announced only while a process needs that.
                    declined = (names.declined,) if announcement.has_keys_alone else ()
                    return [("EVAL", self._announce, 1, names.sequence, names.channel, before, after, *declined)]
                return [("PUBLISH", names.channel, before + b"null" + after)]
            case Track():
                return list(self._ask_tracking())
            case Run(command):
                return [command]

    def _registration(self, key: str) -> list[Sendable]:
        return [packed_pttl(key)] if self.registers else []

    def _list_indexes(self, members: Mapping[str, _Members]) -> list[Sendable]:
        """Return the command that lists the indexes which this process has not listed since the last trim."""
        # An index that loses its end must be listed again: the register must not end before the index.
        listed = self.listed
        new = [
            index for index, each in members.items() if index not in listed or (each.life == 0 and not listed[index])
        ]
        if not new:
            return []
        if len(listed) + len(new) <= _MAX_LISTED_COUNT:
            listed.update({index: members[index].life == 0 for index in new})
        lives = [members[index].life for index in new]
        return [("EVAL", register_script("list"), 1, self._names.indexes, 0 if 0 in lives else max(lives), *new)]

    def _index_removals(self, write: Delete) -> list[Sendable]:
        # members_forget.lua leaves young members in the index; a later trim removes them.
        return [] if write.index is None else [("EVAL", members_script("forget"), 1, write.index, *write.keys)]

    def _set(self, write: WriteSet) -> Sendable:
        if self._packs and (self.has_conditions or write.replaces is None):
            # The race "write between": without MULTI, another client's write may come between SET and PTTL. The server
            # would report it to no process, and register the key for this process only behind it.
            return packed_set(write, registers=self.registers)
        life: tuple[str | int, ...] = () if write.ttl is None else ("PX", to_milliseconds(write.ttl))
        if write.keeps_expiry:
            life = ("KEEPTTL",)
        if write.replaces is None:
            return ("SET", write.key, write.value, *life)
        if self.has_conditions:
            return ("SET", write.key, write.value, "IFEQ", write.replaces, *life)
        return ("EVAL", script("replace"), 1, write.key, write.replaces, write.value, *life)

    def _take(self, write: TakeLease) -> Sendable:
        if self._packs and self.has_conditions:
            return packed_take(write)
        milliseconds = to_milliseconds(write.ttl)
        if self.has_conditions:
            return ("SET", write.key, write.placeholder, "NX", "GET", "PX", milliseconds)
        return ("EVAL", script("take"), 1, write.key, write.placeholder, milliseconds)

    def results(self, writes: Sequence[Write], batch: Batch, replies: Sequence[Any]) -> list[WriteResult]:
        """Return the result of each of ``writes`` from the replies to the commands of ``batch``."""
        start = len(batch.indexes) + batch.lists_indexes
        refused = {
            index: reply
            for index, reply in zip(batch.indexes, replies, strict=False)
            if isinstance(reply, ResponseError)
        }
        results: list[WriteResult] = []
        for write, count in zip(writes, batch.counts, strict=True):
            end = start + count
            if type(write) is WriteSet:
                result = self._stored(write, replies, start, end)
            else:
                result = _result(write, replies[start:end])
            start = end
            # A key that is missing from its index would survive the invalidation of its group.
            refusal = _index_refusal(write, refused) if refused else None
            results.append(result if refusal is None else _refusal(write, refusal))
        return results

    def _stored(self, write: WriteSet, replies: Sequence[Any], start: int, end: int) -> WriteResult:
        """Return the result of ``write`` from the replies from ``start`` to ``end``."""
        reply = replies[end - 1]
        if type(reply) is list:
            reply = reply[0]  # The server has run the transaction.
        elif end - start == TRANSACTION_COUNT:
            begun, queued, _, executed = replies[start:end]
            if isinstance(begun, ResponseError) or isinstance(queued, ResponseError):
                reply = queued  # Without a transaction, because the user has lost the right, it is the reply itself.
            # The server has queued the value and not run the transaction: another command was refused.
            self.has_lost_right |= queued == b"QUEUED" and isinstance(executed, ResponseError)
        if isinstance(reply, ResponseError):
            return _refusal(write, reply)
        return int(reply is not None and reply != 0)


def _index_life(write: WriteSet | TakeLease) -> int:
    """Return the milliseconds that the indexes of the written entry must live from now on; 0 for no expiry."""
    ttl = write.index_ttl if isinstance(write, TakeLease) else write.ttl
    return 0 if ttl is None else to_milliseconds(ttl + INDEX_MARGIN)


def _result(write: Write, replies: Sequence[Any]) -> WriteResult:
    """Return the result of ``write`` from the replies to its commands; of a Track, the replies."""
    if isinstance(write, Delete):
        return _deleted_count(*replies[:2])
    if isinstance(write, Track):
        return replies  # ``Tracking`` interprets them.
    reply = replies[0]
    if isinstance(reply, ResponseError):
        if isinstance(write, TakeLease) and str(reply).startswith("WRONGTYPE"):
            return TakeLease.NO_STRING
        return _refusal(write, reply)
    return reply


def _index_refusal(write: Write, refused: Mapping[str, ResponseError]) -> ResponseError | None:
    """Return the first error with which an index of ``write`` refused its key, or None if all indexes took the key."""
    indexes = write.indexes if isinstance(write, _INDEXED) else ()
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
