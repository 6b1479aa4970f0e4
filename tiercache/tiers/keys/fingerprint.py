"""An exact fingerprint of a request: what is hashable and equal only for requests that make the same key.

Of a flat request (names, numbers, short texts and messages of short texts) it is the JSON that orjson writes; of any
other ``marshal``'s account, which tells every type apart and says everything of a value (CPython, Python/marshal.c,
``w_object``). Long strings at the usual places are not copied into it but stand beside it, as themselves: CPython
remembers the hash of a str, and compares one with itself by its address.

Why no two requests that may be remembered (see ``may_remember``) and differ have one fingerprint:

- JSON is written only for what a walk has found to be of exact JSON types and without tuples. A float has a point or
  an exponent in it, an int has neither, and orjson refuses keys that are no exact str: so it can be read back too.
  JSON begins with ``{"`` or ``{}``, where marshal has a type after the brace; neither of these is one.
- The account can be read back, so different accounted values have different accounts, whatever else they are made of.
  Only exact dicts, lists, tuples, strs, ints, floats, bools and None are written as such; their subclasses are refused.
- In the place of a long string stands an Ellipsis, which no such request has. So the account shows at which places
  strings were taken out; these stand beside it in the order of the places, and are equal where fingerprints are.
- A list of messages becomes a tuple that begins with an Ellipsis, followed by the messages that are more than a role
  and a text; the roles and the texts of the others stand beside the account in two tuples, in which an Ellipsis
  holds the places of the former. The same for blocks that are a type and a text. So the list can be put together again,
  but for the order of the two keys of a message, which does not matter to the key.
- What ``marshal`` accepts besides (bytes, sets, complex, Ellipsis, code, and as bytes any object with a buffer, numpy's
  numbers and strs among them) leaves a mark in the account that such requests do not have. It may be looked up; it is
  never found.

One request may have several fingerprints: order of keys, and which of its strings are one object, show in them.

What is remembered under an account is made from what the account says (``said_by``), not from the request: whatever
another thread does to that meanwhile, the two belong together.
"""

from __future__ import annotations

from collections.abc import Hashable
from marshal import dumps, loads
from typing import Any, Final

import orjson

from .canonical_json import agrees_on

__all__ = ["fingerprint", "is_json", "is_still", "may_remember", "said_by", "to_keep"]

# Version 4 writes a string that occurs again as a reference, and short ASCII without an encoder: twice as fast as
# version 2 on tool definitions. Later versions add only what no request has.
_VERSION: Final = 4
# Characters from which a string is taken out, of a request that has long ones.
_LONG: Final = 512
# Characters up to which a text is written as JSON.
_SHORT: Final = 1024
# Characters that messages have without being long: to take out texts costs as much as copying and hashing so many.
_ROOM: Final = 2048
_ROOM_OF_MESSAGE: Final = 1024
# Parameters up to which only the messages are looked at.
_FEW: Final = 8
# Parameters that hold messages or blocks: prompts and contexts are long. Others (tools) are many short strings.
_WALKED: Final = frozenset({"messages", "input", "system"})
_NO_OTHERS: Final = (...,)


def fingerprint(value: Any) -> Hashable | None:
    """Return the fingerprint of ``value``, None where it has none. Keeps nothing of it but strings."""
    try:
        if type(value) is dict:
            long = None if "tools" in value else _flat_or_long(value)
            if long is False:
                try:
                    return orjson.dumps(value)
                except orjson.JSONEncodeError:  # Lone surrogates, integers past 64 bits, keys of other types.
                    pass
            elif long or _has_long(value):
                return _with_long(value)
        return dumps(value, _VERSION)
    # Not only ValueError, marshal's refusal: keys and buffers may run the caller's code. What is wrong with a request
    # is said where its JSON is made.
    except Exception:
        return None


def _flat_or_long(params: dict[Any, Any]) -> bool | None:
    """Return False if ``params`` are flat, True if a text in a message is long by itself, None where it is neither.

    Flat are plain values, and lists of mappings of texts, on which json and orjson agree.
    """
    for value in params.values():
        kind = type(value)
        if kind is str:
            if len(value) > _SHORT:
                return None
        elif kind is list:
            for message in value:
                if type(message) is not dict:
                    return None
                for text in message.values():
                    if type(text) is not str:
                        return None
                    if len(text) > _SHORT:
                        return len(text) > _ROOM + _ROOM_OF_MESSAGE * len(value) or None
        elif kind is float:
            if not (1e-4 <= abs(value) < 1e16 or value == 0):
                return None
        elif not (kind is int or kind is bool or value is None):
            return None
    return False


def _has_long(params: dict[Any, Any]) -> bool:
    """Return whether long strings are to be taken out."""
    messages = params.get("messages")
    if type(messages) is list and len(params) <= _FEW:
        # A text besides the messages is seldom long, and to account for it is as exact.
        return _are_long(messages)
    for value in params.values():
        kind = type(value)
        if kind is str:
            if len(value) > _ROOM:
                return True
        elif kind is list and _are_long(value):
            return True
    return False


def _are_long(messages: list[Any]) -> bool:
    room = _ROOM + _ROOM_OF_MESSAGE * len(messages)
    for message in messages:
        content = message.get("content") if type(message) is dict else message
        if type(content) is str:
            room -= len(content)
            if room < 0:
                return True
        elif content is not None:  # Blocks, perhaps, of whatever length.
            return True
    return False


def _with_long(params: dict[Any, Any]) -> Hashable:
    held: list[Any] = []
    outlined = params.copy()
    for name, value in params.items():
        if type(value) is str:
            if len(value) >= _LONG:
                held.append(value)
                outlined[name] = ...
        elif type(value) is list and name in _WALKED:
            outlined[name] = _outlined_list(value, held, "role", "content")
    account = dumps(outlined, _VERSION)
    return (account, *held) if held else account


def _outlined_list(items: list[Any], held: list[Any], first: str, second: str) -> Any:
    """Return what stands in the account for a list of mappings, most of them with two texts, ``first`` and ``second``.

    For short messages too it costs less to hold them than to account for them.
    """
    firsts: list[Any] = []
    seconds: list[Any] = []
    others: list[Any] = [...]
    for item in items:
        if type(item) is dict and len(item) == 2:
            name, other_name = item
            # A subclass of str could be equal to a name and stand in JSON as another.
            if type(name) is str and type(other_name) is str:
                one, two = item.get(first), item.get(second)
                if type(one) is str and type(two) is str:
                    firsts.append(one)
                    seconds.append(two)
                    continue
        firsts.append(...)
        seconds.append(...)
        others.append(item)
    held.append(tuple(firsts))
    held.append(tuple(seconds))
    if len(others) == 1:
        return _NO_OTHERS
    for place in range(1, len(others)):
        others[place] = _without_long(others[place], held)
    return tuple(others)


def _without_long(value: Any, held: list[Any]) -> Any:
    """Return ``value`` with the long strings in it, at any depth, moved to ``held``: itself where it has none."""
    kind = type(value)
    if kind is str and len(value) >= _LONG:
        held.append(value)
        return ...
    if kind is list:
        # Blocks, perhaps.
        if len(value) > 1 and type(value[0]) is dict and "text" in value[0]:
            return _outlined_list(value, held, "type", "text")
    elif kind is not dict:
        return value
    outlined = value
    for place, item in value.items() if kind is dict else enumerate(value):
        new = _without_long(item, held)
        if new is not item:
            if outlined is value:
                outlined = value.copy()
            outlined[place] = new
    return outlined


def is_json(account: bytes) -> bool:
    """Return whether an account is the JSON of a flat request."""
    return account[:2] in (b'{"', b"{}")


def said_by(mark: Hashable) -> Any:
    """Return the value whose account ``mark`` is, a new one: orjson and json agree on it. None where that cannot be."""
    if type(mark) is not bytes:
        return None
    if is_json(mark):
        return orjson.loads(mark)
    value = loads(mark)
    return value if agrees_on(value) else None


def to_keep(mark: Hashable) -> Hashable:
    """Return ``mark`` for keeping: the buffer that orjson wrote into is larger than what it wrote."""
    return bytes(memoryview(mark)) if type(mark) is bytes else mark


def may_remember(value: object, mark: Hashable) -> bool:
    """Return whether ``mark`` may stand for ``value`` from now on, and for whatever else has the same fingerprint.

    It may if ``value`` is of exact JSON types, tuples included, through and through, and has not been changed by
    another thread since ``mark`` was made: what was made of it since may be of something else.
    """
    try:
        return _is_plain(value) and is_still(value, mark)
    except RuntimeError:  # It is being changed right now, or is nested too deeply.
        return False


def is_still(value: object, mark: Hashable) -> bool:
    """Return whether ``mark`` is a fingerprint of ``value`` as it is now."""
    return fingerprint(value) == mark


def _is_plain(value: object) -> bool:
    kind = type(value)
    if kind is str or kind is int or kind is float or kind is bool or value is None:
        return True
    if kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str and not _is_plain(key):
                return False
            if type(item) is not str and not _is_plain(item):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:  # type: ignore[attr-defined]  # noqa: SIM110 - a third faster than all()
            if type(item) is not str and not _is_plain(item):
                return False
        return True
    return False
