"""An exact fingerprint of a request: a hashable value that is equal only for requests that make the same key.

A fingerprint has one of three forms:

1. The JSON that orjson writes, for a flat request of one or two short messages.
2. The bytes that ``marshal`` writes, for most other requests.
3. For a request with long texts: a tuple of the bytes that ``marshal`` writes for the request without them (the
   *outline*), and of the texts themselves, which are not copied. CPython stores the hash of a str in the str, and
   compares a str with itself by address, so that a text of any length costs almost nothing. ``long_texts`` makes
   this form.

Only requests of exact types (see ``exact_json``) are remembered under a fingerprint. Two of them that make different
keys never have the same fingerprint:

1. Form 1 is written only for exact JSON, in which orjson writes every type in another way: a float has a point or an
   exponent in it and an int has neither, and a key that is not str is refused. So ``orjson.loads`` returns the request.
2. Forms 1 and 2 differ. JSON of a request begins with ``{"`` or ``{}``. marshal writes a type after ``{``, and neither
   of the two characters is a type.
3. In form 2, ``marshal.loads`` returns the request: marshal records every type and every content (CPython,
   Python/marshal.c, ``w_object``). 1, 1.0, True and "1" differ, and so do a list and a tuple. marshal refuses
   subclasses of the exact types.
4. Form 3 is a tuple, and the others are bytes.
5. In form 3, an Ellipsis stands in the outline at the place of each long text. No request of exact types contains an
   Ellipsis. So the outline shows the places of the texts, which follow in the order of these places.
6. In form 3, a list of messages stands in the outline as a tuple that begins with an Ellipsis, followed by the messages
   that are more than a role and a text. The roles and the texts of the other messages are in two tuples beside the
   outline, in which an Ellipsis marks each message that is in the outline. The list can be put together again from
   these, except for the order of the two keys in a message, which does not matter to the key. A list of blocks, each a
   type and a text, is treated in the same way.

A request of other types is never found, because no remembered request has its fingerprint:

7. marshal refuses most types. The request then has no fingerprint.
8. marshal accepts bytes, sets, complex numbers, Ellipsis and code, and it writes an object with a buffer as bytes, such
   as a number or a text of numpy. Its bytes then record a type that no request of exact types has.
9. In form 3, a request that contains an Ellipsis has more of them in its outline than the lists and texts beside the
   outline account for.

One request may have several fingerprints: the order of its keys makes a difference, and so does which of its strings
are the same object.
"""

from __future__ import annotations

from collections.abc import Hashable
from marshal import dumps, loads
from typing import Any, Final

import orjson

from .long_texts import LONG_TOTAL, MARSHAL_VERSION, are_long, has_long_texts, outline_and_texts

__all__ = ["fingerprint", "fingerprint_of_request", "is_json", "read_back"]

# Characters up to which a text is written as JSON.
_SHORT_TEXT: Final = 1024
# Messages up to which a request may be written as JSON. For more of them marshal takes less time.
_FEW_MESSAGES: Final = 2
# Messages up to which the first and the last one are looked at, instead of all.
_SAMPLED_MESSAGES: Final = 8
# A value of fewer marshal bytes is not searched for long texts: the search would cost more than it saves.
_FEW_BYTES: Final = 12_288


def fingerprint(value: Any) -> Hashable | None:
    """Return the fingerprint of ``value``, or None if it has none. The result refers only to strings of ``value``.

    A tier must always use the same function of this module: ``fingerprint_of_request`` returns an exact fingerprint
    too, but often one of another form.
    """
    try:
        data = dumps(value, MARSHAL_VERSION)
        return data if len(data) < _FEW_BYTES else _after_search(value, data)
    # marshal refuses by ValueError, but keys and buffers may run the caller's code, which may raise anything. The error
    # of the request is raised where its JSON is made.
    except Exception:
        return None


def fingerprint_of_request(params: Any) -> Hashable | None:
    """Return the fingerprint of ``params``, or None if they have none: as ``fingerprint``, but faster for messages.

    The messages decide on the form before anything is copied.
    """
    try:
        messages = params["messages"]
        # marshal refuses other mappings than a dict, whose copy() and values() may return anything.
        if type(params) is dict:
            count = len(messages)
            if count <= _FEW_MESSAGES:
                found = _of_flat_request(params)
                if found is not None:
                    return found
            elif count <= _SAMPLED_MESSAGES:
                # A long text is the first message or the last one most of the time.
                messages = (messages[0], messages[-1])
            if are_long(messages):
                return outline_and_texts(params)
        data = dumps(params, MARSHAL_VERSION)
        return data if len(data) < _FEW_BYTES else _after_search(params, data)
    # Messages of another shape; or orjson refuses lone surrogates, integers past 64 bits, or keys that are not str.
    except Exception:
        return fingerprint(params)


def _of_flat_request(params: dict[Any, Any]) -> Hashable | None:
    """Return the fingerprint of a request of scalars and of lists of mappings of texts, or None if it is another one.

    Only exact JSON is written here: a test compares this function with ``exact_json``. The function is on the hot path,
    so that it looks at types and lengths in one walk of its own.
    """
    for value in params.values():
        kind = type(value)
        if kind is str:
            if len(value) > _SHORT_TEXT:
                return outline_and_texts(params) if len(value) > LONG_TOTAL else None
        elif kind is list:
            for message in value:
                if type(message) is not dict:
                    return None
                for text in message.values():
                    if type(text) is not str:
                        return None
                    if len(text) > _SHORT_TEXT:
                        return outline_and_texts(params) if len(text) > LONG_TOTAL else None
        elif kind is float:
            if not (1e-4 <= abs(value) < 1e16 or value == 0):
                return None
        elif kind is not int and kind is not bool and value is not None:
            return None
    return orjson.dumps(params)


def _after_search(value: Any, data: bytes) -> Hashable:
    """Return the fingerprint of ``value``, whose marshal bytes are ``data``, after a search for long texts."""
    return outline_and_texts(value) if type(value) is dict and has_long_texts(value) else data


def is_json(data: bytes) -> bool:
    """Return whether a fingerprint that is bytes has the first form. The request is exact JSON then."""
    return data.startswith((b'{"', b"{}"))


def read_back(data: bytes, *, is_json: bool) -> Any:
    """Return the value whose fingerprint is ``data``: a new object, which no other thread can change.

    The value may be of other than exact types unless the fingerprint has the first form.
    """
    return orjson.loads(data) if is_json else loads(data)
