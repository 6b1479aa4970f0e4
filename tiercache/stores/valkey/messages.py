"""Announcements as they travel: one JSON object each, on the channel ``{name}:__tc:bus:{db}``.

    {"v":1, "s":<number or null>, "o":"<origin>", "k":[keys], "g":[[kind,value]], "f":[[kind,value]],
     "w":[keys], "d":[keys], "p":true}

``v`` is the version of this form; ``s`` the change's place in the sequence; the others are the fields of Announcement,
in their order, and are left out where they are empty. What is not of this form is not understood, and never passed
over.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from ...engine.entries.entry import Group
from ...engine.level2.announcement import Announcement, Received, Unreadable

__all__ = ["decode", "encode", "own"]

_VERSION: Final = 1


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


_DECODER: Final = msgspec.json.Decoder(_Body)
_ENCODER: Final = msgspec.json.Encoder()
_UNREAD: Final = Announcement()
_START: Final = b'{"v":%d,"s":null,' % _VERSION


def encode(announcement: Announcement, origin: str) -> tuple[bytes, bytes]:
    """Return the message for an announcement of ``origin``: what comes before its number, and what after."""
    said = announcement
    groups, overtaken = (tuple(map(tuple, groups)) for groups in (said.groups, said.overtaken))
    body = _Body(_VERSION, None, origin, said.keys, groups, overtaken, said.wanted, said.settled, said.settings)  # type: ignore[arg-type]
    message = _ENCODER.encode(body)
    assert message.startswith(_START)
    return _START[: -len("null,")], message[len(_START) - 1 :]


def own(origin: str) -> Callable[[bytes], Received | None]:
    """Return what recognises the changes of ``origin``, of which that process needs to read the number alone."""
    pattern = re.compile(rb'\{"v":%d,"s":(\d+),"o":"%b"[,}]' % (_VERSION, re.escape(origin.encode())))

    def read(message: bytes) -> Received | None:
        match = pattern.match(message)
        return None if match is None else Received(_UNREAD, origin, int(match[1]))

    return read


def decode(message: bytes) -> Received | Unreadable:
    """Return what ``message`` says."""
    try:
        body = _DECODER.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Unreadable(f"a message that is not understood: {error}")
    if body.v != _VERSION:
        return Unreadable(f"a message of version {body.v}")
    groups, overtaken = (tuple(Group(*group) for group in found) for found in (body.g, body.f))
    said = Announcement(body.k, groups, overtaken, body.w, body.d, body.p)
    if said.is_change and body.s is None:
        return Unreadable("a change without a number")
    return Received(said, body.o, body.s)
