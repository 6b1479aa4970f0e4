"""The messages of chats for LlamaIndex, as items of a cache.

A chat is a namespace with one item, the JSON list of its messages. So a list of all chats reads one index, and each
change of a chat, its removal too, is one step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...identity import KeepsIdentity
from ...tiers.items.store import Append, Get, Item, ItemStore, Namespaces, Put
from ...tiers.keys.canonical_json import compact_json
from ...ttl import Ttl, check_ttl
from ..extras import missing_extra
from ..item_stores import TwoFacedItems
from .messages import messages_of, to_data, to_items

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.storage.chat_store.base import BaseChatStore
except ImportError as error:
    raise missing_extra("llamaindex", error) from error

__all__ = ["TierCacheChatStore"]

R = TypeVar("R")

_ITEM: Final = "messages"


class TierCacheChatStore(KeepsIdentity, BaseChatStore):
    """The messages of LlamaIndex's chats, by the key of the chat, for its memories that take a chat store.

    The messages are state: they exist nowhere else. Each read asks Valkey, and has every change that has returned in
    any process. Each change is one step, which loses no message of another worker. The async methods use the cache,
    the other methods use ``cache.sync``, from any thread and inside a running loop.

    Args:
        cache: The cache.
        store: The name of the store: 1 to 128 of ``A-Z a-z 0-9 _ -``. Stores of one name share their chats.
        ttl: Lifetime of a chat after its last use: seconds, a string such as ``"30d"``, a timedelta, or ``NO_EXPIRY``.
            None: chats have no end.

    Attributes:
        store: The name of the store.
        ttl: The lifetime in seconds, or None for no end.

    Every method raises:
        L2UnavailableError: Valkey did not answer. A change may or may not have happened.
        L2CommandError: Valkey refused.
        UsageError: An argument is wrong, such as a message that JSON does not restore as it is; other software has
            written the chat; or the cache is closed or has no such face. Nothing is changed.
    """

    store: str
    ttl: float | None
    _items: TwoFacedItems = PrivateAttr()

    def __init__(self, cache: AgentCache, *, store: str = "llamaindex-chat", ttl: Ttl | None = None) -> None:
        items = TwoFacedItems(cache, store)
        fields: dict[str, Any] = {"store": store, "ttl": None if ttl is None else check_ttl(ttl)}
        super().__init__(**fields)
        self._items = items

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes beside the fields of the store."""
        return "TierCacheChatStore"

    # For plain code

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace the messages of a chat."""
        put = self._put(key, messages)
        self._items.run_plain(lambda items: items.run([put]))

    def get_messages(self, key: str) -> list[ChatMessage]:
        """Return the messages of a chat, the oldest first."""
        return self._items.run_plain(lambda items: _read(items, key))

    def add_message(self, key: str, message: ChatMessage) -> None:
        """Add a message to a chat."""
        append = self._append(key, message)
        self._items.run_plain(lambda items: _add(items, append))

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove a chat; return its messages, or None if there is no such chat."""
        return self._items.run_plain(lambda items: self._change(items, key, _take_all))

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove the message at ``idx``, from the end if it is negative; return it, or None if there is none."""
        take = _taker(idx)
        return _first(self._items.run_plain(lambda items: self._change(items, key, take)))

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Remove the last message of a chat; return it, or None if there is none."""
        return self.delete_message(key, -1)

    def get_keys(self) -> list[str]:
        """Return the keys of all chats, sorted. Reads one index, and scans no keys."""
        return self._items.run_plain(_keys)

    # For coroutines

    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace the messages of a chat."""
        put = self._put(key, messages)
        await self._items.run(lambda items: items.run([put]))

    async def aget_messages(self, key: str) -> list[ChatMessage]:
        """Return the messages of a chat, the oldest first."""
        return await self._items.run(lambda items: _read(items, key))

    async def async_add_message(self, key: str, message: ChatMessage) -> None:
        """Add a message to a chat."""
        append = self._append(key, message)
        await self._items.run(lambda items: _add(items, append))

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove a chat; return its messages, or None if there is no such chat."""
        return await self._items.run(lambda items: self._change(items, key, _take_all))

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove the message at ``idx``, as ``delete_message``."""
        take = _taker(idx)
        return _first(await self._items.run(lambda items: self._change(items, key, take)))

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """Remove the last message of a chat; return it, or None if there is none."""
        return await self.adelete_message(key, -1)

    async def aget_keys(self) -> list[str]:
        """Return the keys of all chats, as ``get_keys``."""
        return await self._items.run(_keys)

    # The operations

    def _put(self, key: str, messages: Sequence[ChatMessage]) -> Put:
        return Put((key,), _ITEM, to_data(messages), self.ttl)

    def _append(self, key: str, message: ChatMessage) -> Append:
        return Append((key,), _ITEM, to_data([message]), self.ttl)

    async def _change(
        self, items: ItemStore, key: str, take: Callable[[list[Any]], tuple[list[Any], list[Any] | None]]
    ) -> list[ChatMessage] | None:
        """Take messages out of a chat in one step; return them, or None if there is no such chat.

        Args:
            take: Gets the JSON of the messages; returns that of the taken messages, and that of the messages that
                are left, or None to remove the chat. It runs again each time that another writer was faster.
        """
        while True:
            (item,) = await items.run([Get((key,), _ITEM)])
            if not isinstance(item, Item):
                return None
            taken, left = take(_items_of(item))
            messages = _checked(item, messages_of(taken))
            if left is not None and not taken:
                return messages
            data = None if left is None else compact_json(left, "messages")
            (is_done,) = await items.run([Put((key,), _ITEM, data, self.ttl, expected=item.data)])
            if is_done:
                return messages


async def _read(items: ItemStore, key: str) -> list[ChatMessage]:
    (item,) = await items.run([Get((key,), _ITEM, renew=True)])
    return _checked(item, messages_of(_items_of(item))) if isinstance(item, Item) else []


async def _add(items: ItemStore, append: Append) -> None:
    (is_done,) = await items.run([append])
    if not is_done:
        raise _foreign(append.namespace[0])


async def _keys(items: ItemStore) -> list[str]:
    (namespaces,) = await items.run([Namespaces()])
    assert isinstance(namespaces, list)
    return sorted(namespace[0] for namespace in namespaces if len(namespace) == 1)


def _items_of(item: Item) -> list[Any]:
    return _checked(item, to_items(item.data))


def _checked(item: Item, found: R | None) -> R:
    if found is None:
        raise _foreign(item.namespace[0])
    return found


def _foreign(key: str) -> UsageError:
    return UsageError(f"chat {key!r} has other content than messages of LlamaIndex")


def _take_all(items: list[Any]) -> tuple[list[Any], None]:
    return items, None


def _taker(idx: object) -> Callable[[list[Any]], tuple[list[Any], list[Any]]]:
    """Return a function that takes the item at ``idx``."""
    if not isinstance(idx, int) or isinstance(idx, bool):
        raise UsageError(f"idx must be a whole number, not {idx!r}")

    def take(items: list[Any]) -> tuple[list[Any], list[Any]]:
        left = list(items)
        return ([left.pop(idx)] if -len(items) <= idx < len(items) else []), left

    return take


def _first(messages: list[ChatMessage] | None) -> ChatMessage | None:
    return messages[0] if messages else None
