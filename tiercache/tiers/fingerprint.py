"""An exact fingerprint of a request: what is hashable and equal only for requests that make the same key.

It is ``marshal``'s account of the request, which tells every type apart and says everything of a value (CPython,
Python/marshal.c, ``w_object``). Long strings at the usual places are not copied into it but stand beside it, as
themselves: CPython remembers the hash of a str, and compares one with itself by its address.

Why no two requests that may be remembered (see ``may_remember``) and differ have one fingerprint:

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
"""

from __future__ import annotations

from collections.abc import Hashable
from marshal import dumps
from typing import Any, Final

__all__ = ["fingerprint", "may_remember"]

# Version 4 writes a string that occurs again as a reference, and short ASCII without an encoder: twice as fast as
# version 2 on tool definitions. Later versions add only what no request has.
_VERSION: Final = 4
# Characters from which taking a string out costs less than copying and hashing it.
_LONG: Final = 512
# Parameters up to which only the messages are looked at.
_FEW: Final = 8
# Parameters that hold messages or blocks: prompts and contexts are long. Others (tools) are many short strings.
_WALKED: Final = frozenset({"messages", "input", "system"})


def fingerprint(value: Any) -> Hashable | None:
    """Return the fingerprint of ``value``, None where it has none. Keeps nothing of it but strings."""
    try:
        if type(value) is dict and _has_long(value):
            return _with_long(value)
        return dumps(value, _VERSION)
    # Not only ValueError, marshal's refusal: keys and buffers may run the caller's code. What is wrong with a request
    # is said where its JSON is made.
    except Exception:
        return None


def _has_long(params: dict[Any, Any]) -> bool:
    """Return whether a long string is to be taken out; False for most, with a short message or two."""
    messages = params.get("messages")
    if type(messages) is list and len(params) <= _FEW:
        # A text besides the messages is seldom long, and to account for it is as exact.
        return _has_long_message(messages)
    for value in params.values():
        kind = type(value)
        if kind is str:
            if len(value) >= _LONG:
                return True
        elif kind is list and _has_long_message(value):
            return True
    return False


def _has_long_message(messages: list[Any]) -> bool:
    for message in messages:
        if type(message) is not dict or type(content := message.get("content")) is not str or len(content) >= _LONG:
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


def may_remember(value: object, mark: Hashable) -> bool:
    """Return whether ``mark`` may stand for ``value`` from now on, and for whatever else has the same fingerprint.

    It may if ``value`` is of exact JSON types, tuples included, through and through, and has not been changed by
    another thread since ``mark`` was made: what was made of it since may be of something else.
    """
    try:
        return _is_plain(value) and fingerprint(value) == mark
    except RuntimeError:  # It is being changed right now, or is nested too deeply.
        return False


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
