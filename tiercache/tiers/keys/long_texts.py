"""Long texts of a request: which requests have them, and how a fingerprint refers to them instead of copying them.

``fingerprint`` proves that the result is exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from marshal import dumps
from typing import Any, Final

__all__ = ["LONG_TOTAL", "MARSHAL_VERSION", "are_long", "has_long_texts", "outline_and_texts"]

# Version 4 writes a string that occurs again as a reference, and a short ASCII string without an encoder: twice as fast
# as version 2 for tool definitions. Later versions add only types that no request has.
MARSHAL_VERSION: Final = 4

# Messages are long if they have more characters than this,
LONG_TOTAL: Final = 4096
# and more than this on average. To refer to a message costs as much as to copy and hash so many characters.
_LONG_AVERAGE: Final = 1024
# Characters of a text outside of the messages that is long.
_LONG_PARAMETER: Final = 2048
# In a request with long texts, every text of so many characters stands beside the outline.
_LONG_TEXT: Final = 512

# Parameters that hold messages or blocks: prompts and contexts are long. Other lists (tools) are many short strings.
_MESSAGE_LISTS: Final = frozenset({"messages", "input", "system"})
_NO_OTHERS: Final = (...,)


def are_long(messages: Sequence[Any]) -> bool:
    """Return whether to refer to the texts of ``messages`` takes less time than to copy them.

    Raises:
        Exception: A message is not a mapping, or has no content.
    """
    length = 0
    for message in messages:
        content = message["content"]
        if type(content) is str:
            length += len(content)
        elif content is not None:
            return True  # Perhaps blocks, whose length is unknown.
    return length > LONG_TOTAL and length > _LONG_AVERAGE * len(messages)


def has_long_texts(params: dict[Any, Any]) -> bool:
    """Return whether to refer to the texts of a request takes less time than to copy them."""
    for name, value in params.items():
        kind = type(value)
        if kind is str:
            if len(value) > _LONG_PARAMETER:
                return True
        elif kind is list and name in _MESSAGE_LISTS and are_long([_with_content(item) for item in value]):
            return True
    return False


def _with_content(item: Any) -> dict[str, Any]:
    """Return ``item`` as a message for ``are_long``."""
    if type(item) is not dict:
        return {"content": item}
    return item if "content" in item else {"content": None}


def outline_and_texts(params: dict[Any, Any]) -> Hashable:
    """Return the marshal bytes of ``params`` without their long texts, followed by these texts.

    The result is the bytes alone if no text is long. Errors as for ``marshal.dumps``.
    """
    texts: list[Any] = []
    outline = params.copy()
    for name, value in params.items():
        if type(value) is str:
            if len(value) >= _LONG_TEXT:
                texts.append(value)
                outline[name] = ...
        elif type(value) is list and name in _MESSAGE_LISTS:
            outline[name] = _outline_of_list(value, texts, "role", "content")
    data = dumps(outline, MARSHAL_VERSION)
    return (data, *texts) if texts else data


def _outline_of_list(items: list[Any], texts: list[Any], first: str, second: str) -> Any:
    """Return the outline of a list of mappings, most of which are two texts, ``first`` and ``second``.

    The two texts of a mapping stand beside the outline even if they are short: to refer to them costs less than to
    write a mapping.
    """
    firsts: list[Any] = []
    seconds: list[Any] = []
    others: list[Any] = [...]
    for item in items:
        if type(item) is dict and len(item) == 2:
            name, other_name = item
            # A subclass of str could equal a name and stand in JSON as another.
            if type(name) is str and type(other_name) is str:
                one, two = item.get(first), item.get(second)
                if type(one) is str and type(two) is str:
                    firsts.append(one)
                    seconds.append(two)
                    continue
        firsts.append(...)
        seconds.append(...)
        others.append(item)
    texts.append(tuple(firsts))
    texts.append(tuple(seconds))
    if len(others) == 1:
        return _NO_OTHERS
    for place in range(1, len(others)):
        others[place] = _outline_of(others[place], texts)
    return tuple(others)


def _outline_of(value: Any, texts: list[Any]) -> Any:
    """Return ``value`` without its long texts at any depth, which move to ``texts``; itself if it has no long text."""
    kind = type(value)
    if kind is str and len(value) >= _LONG_TEXT:
        texts.append(value)
        return ...
    if kind is list:
        # Perhaps blocks.
        if len(value) > 1 and type(value[0]) is dict and "text" in value[0]:
            return _outline_of_list(value, texts, "type", "text")
    elif kind is not dict:
        return value
    outline = value
    for place, item in value.items() if kind is dict else enumerate(value):
        new = _outline_of(item, texts)
        if new is not item:
            if outline is value:
                outline = value.copy()
            outline[place] = new
    return outline
