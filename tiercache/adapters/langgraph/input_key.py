"""A key for the input of a node, from its content alone: the same in every process, and for every order of a dict.

LangGraph makes the key of a cached node with pickle. The bytes of a pickle depend on the order in which fields were
set, and on which parts of the input are the same object, so that equal inputs get different keys.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from ...errors import UsageError
from ..extras import missing_extra

try:
    from ..object_digest import object_digest
except ImportError as error:
    raise missing_extra("langgraph", error) from error

__all__ = ["node_key"]


def node_key(*args: Any, **kwargs: Any) -> str:
    """Return a key for the input of a node, for ``CachePolicy(key_func=node_key)``.

    The parts of an input may be None, bool, int, float, complex, str, bytes, list, tuple, deque, dict, set, enums,
    dates and times, Decimal, UUID, paths, dataclasses, and pydantic models such as LangChain's messages. The order of a
    dict and of a set does not matter. Every other difference does: ``1``, ``1.0`` and ``True`` have three keys, and two
    messages with different ids have two.

    Returns:
        64 hexadecimal digits.

    Raises:
        UsageError: A part of the input is of another kind; the message names the place and the class. Select the parts
            that count in a function of your own: ``key_func=lambda state: node_key(state["question"])``.
    """
    try:
        parts = [object_digest(arg, "the input") for arg in args]
        return sha256(b"".join([*parts, object_digest(kwargs, "the keyword arguments")])).hexdigest()
    except UsageError as error:
        raise UsageError(f"{error}; pass a key_func that selects the parts of the input that count") from error
