"""Announcements as messages on the channel ``{name}:__tc:bus:{db}``: one JSON object each.

    {"v":1, "s":<number or null>, "o":"<origin>", "k":[keys], "g":[[kind,value]], "f":[[kind,value]],
     "w":[keys], "d":[keys], "p":true, "m":[patterns]}

``v`` is the version of this form. ``s`` is the change's number in the sequence of changes. ``o`` is the origin, the
runtime that announces. The other fields are those of Announcement, in its order; empty fields are left out. ``m``
has the groups of matching keys, which are not in ``g``: a version that does not know patterns cannot read the message.
A message of any other form decodes to Unreadable, and is never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from ...engine.entries.entry import MATCHING, Group
from ...engine.entries.key_pattern import LONGEST_PATTERN_BYTES, matcher
from ...engine.level2.announcement import Announcement, Received, Unreadable
from ...errors import UsageError

__all__ = ["decode", "encode", "reader_of_own"]

_VERSION: Final = 1
# The highest number: counters in Valkey have 64 bits.
_MOST: Final = 2**63 - 1


class _Body(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    v: int
    s: int | None
    o: str
    k: tuple[str, ...] = ()
    g: tuple[tuple[str, str], ...] = ()
    f: tuple[tuple[str, str], ...] = ()
    w: tuple[str, ...] = ()
    d: tuple[str, ...] = ()
    p: bool = False
    m: tuple[str, ...] = ()


_DECODER: Final = msgspec.json.Decoder(_Body)
_ENCODER: Final = msgspec.json.Encoder()
_UNREAD: Final = Announcement()
_START: Final = b'{"v":%d,"s":null,' % _VERSION


def encode(announcement: Announcement, origin: str) -> tuple[bytes, bytes]:
    """Return the message for an announcement of ``origin`` in two parts, between which the number belongs."""
    overtaken = tuple(map(tuple, announcement.overtaken))
    groups = tuple([tuple(group) for group in announcement.groups if group.kind != MATCHING])
    patterns = tuple([group.value for group in announcement.groups if group.kind == MATCHING])
    keys, awaited, ended = announcement.keys, announcement.awaited_leases, announcement.ended_leases
    body = _Body(_VERSION, None, origin, keys, groups, overtaken, awaited, ended, announcement.policies, patterns)  # type: ignore[arg-type]
    message = _ENCODER.encode(body)
    assert message.startswith(_START)
    return _START[: -len("null,")], message[len(_START) - 1 :]


def reader_of_own(origin: str) -> Callable[[bytes], Received | None]:
    """Return a function that reads the number of a change that ``origin`` announced, and returns None for the rest.

    ``origin`` is this process, which needs no more than the number of its own announcements.
    """
    pattern = re.compile(rb'\{"v":%d,"s":(\d{1,18}),"o":"%b"[,}]' % (_VERSION, re.escape(origin.encode())))

    def read(message: bytes) -> Received | None:
        match = pattern.match(message)
        return None if match is None else Received(_UNREAD, origin, int(match[1]))

    return read


def _is_pattern(pattern: str) -> bool:
    if len(pattern) > LONGEST_PATTERN_BYTES:
        return False
    try:
        matcher(pattern)
    except UsageError:
        return False
    return True


def decode(message: bytes) -> Received | Unreadable:
    """Return the announcement in ``message``, or the reason why it cannot be read."""
    try:
        body = _DECODER.decode(message)
    # ValueError: text that is not UTF-8, or a number of more digits than Python reads.
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return Unreadable(f"a message that cannot be decoded: {error}")
    if body.v != _VERSION:
        return Unreadable(f"a message of version {body.v}")
    if body.s is not None and not 0 <= body.s <= _MOST:
        return Unreadable("a number that no counter in Valkey has")
    if not all(map(_is_pattern, body.m)):
        return Unreadable("a pattern that no cache of this version sends")
    groups, overtaken = (tuple(Group(*group) for group in pairs) for pairs in (body.g, body.f))
    groups += tuple([Group(MATCHING, pattern) for pattern in body.m])
    announcement = Announcement(body.k, groups, overtaken, body.w, body.d, body.p)
    if announcement.is_change and body.s is None:
        return Unreadable("a change without a number")
    return Received(announcement, body.o, body.s)
