"""Chats as items of a cache.

A chat is a namespace with one item, a JSON list with one element for each message. So a list of all chats reads one
index, and each change of a chat, its removal too, is one step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from ...errors import UsageError
from ...tiers.items.store import Append, Get, Item, ItemStore, Namespaces, Put
from ...tiers.keys.canonical_json import compact_json
from .messages import to_items

__all__ = ["ITEM", "add", "change", "foreign", "keys", "read"]

R = TypeVar("R")

# The key of the item in the namespace of its chat.
ITEM: Final = "messages"


async def read(items: ItemStore, key: str) -> list[Any]:
    """Return the elements of a chat, and restart its window; none for an absent chat.

    Raises:
        UsageError: Other software has written the chat.
    """
    (item,) = await items.run([Get((key,), ITEM, renew=True)])
    return _elements_of(item) if isinstance(item, Item) else []


async def add(items: ItemStore, append: Append) -> None:
    """Append to a chat. Errors as for ``read``."""
    (is_done,) = await items.run([append])
    if not is_done:
        raise foreign(append.namespace[0])


async def keys(items: ItemStore) -> list[str]:
    """Return the keys of all chats, sorted."""
    (namespaces,) = await items.run([Namespaces()])
    assert isinstance(namespaces, list)
    return sorted(namespace[0] for namespace in namespaces if len(namespace) == 1)


async def change(
    items: ItemStore, key: str, window: float | None, edit: Callable[[list[Any]], tuple[R, list[Any] | None]]
) -> R | None:
    """Change a chat in one step; return the result of ``edit``, or None if there is no such chat.

    Args:
        window: Seconds for which the chat lives after its last use, or None for no end.
        edit: Gets the elements; returns a result and the elements that are left, or None to remove the chat. It runs
            again each time that another writer was faster.
    """
    while True:
        (item,) = await items.run([Get((key,), ITEM)])
        if not isinstance(item, Item):
            return None
        before = _elements_of(item)
        result, left = edit(before)
        if left == before:
            return result
        data = None if left is None else compact_json(left, "messages")
        (is_done,) = await items.run([Put((key,), ITEM, data, window, expected=item.data)])
        if is_done:
            return result


def foreign(key: str) -> UsageError:
    """Return the error about a chat that other software has written."""
    return UsageError(f"chat {key!r} has other content than messages of LlamaIndex")


def _elements_of(item: Item) -> list[Any]:
    elements = to_items(item.data)
    if elements is None:
        raise foreign(item.namespace[0])
    return elements
