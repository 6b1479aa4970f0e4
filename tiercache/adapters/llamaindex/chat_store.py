"""The store of chats for LlamaIndex's memory buffers. ``chat_items`` has the form of a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...identity import KeepsIdentity
from ...tiers.items.store import Append, ItemStore, Put
from ...ttl import Ttl, check_ttl
from ..extras import missing_extra
from ..item_stores import TwoFacedItems
from .chat_items import ITEM, add, change, foreign, keys, read
from .messages import messages_of, to_data

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.storage.chat_store.base import BaseChatStore
except ImportError as error:
    raise missing_extra("llamaindex", error) from error

__all__ = ["TierCacheChatStore"]

# Returns the messages that it takes out of the elements of a chat, and the elements that are left.
_Take = Callable[[list[Any]], tuple[list[ChatMessage], list[Any] | None]]


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
        return self._items.run_plain(lambda items: self._read(items, key))

    def add_message(self, key: str, message: ChatMessage) -> None:
        """Add a message to a chat."""
        append = self._append(key, message)
        self._items.run_plain(lambda items: add(items, append))

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove a chat; return its messages, or None if there is no such chat."""
        take = _taker(key, None)
        return self._items.run_plain(lambda items: change(items, key, self.ttl, take))

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove the message at ``idx``, from the end if it is negative; return it, or None if there is none."""
        take = _taker(key, _checked(idx))
        return _first(self._items.run_plain(lambda items: change(items, key, self.ttl, take)))

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Remove the last message of a chat; return it, or None if there is none."""
        return self.delete_message(key, -1)

    def get_keys(self) -> list[str]:
        """Return the keys of all chats, sorted. Reads one index, and scans no keys."""
        return self._items.run_plain(keys)

    # For coroutines

    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace the messages of a chat."""
        put = self._put(key, messages)
        await self._items.run(lambda items: items.run([put]))

    async def aget_messages(self, key: str) -> list[ChatMessage]:
        """Return the messages of a chat, the oldest first."""
        return await self._items.run(lambda items: self._read(items, key))

    async def async_add_message(self, key: str, message: ChatMessage) -> None:
        """Add a message to a chat."""
        append = self._append(key, message)
        await self._items.run(lambda items: add(items, append))

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove a chat; return its messages, or None if there is no such chat."""
        take = _taker(key, None)
        return await self._items.run(lambda items: change(items, key, self.ttl, take))

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove the message at ``idx``, as ``delete_message``."""
        take = _taker(key, _checked(idx))
        return _first(await self._items.run(lambda items: change(items, key, self.ttl, take)))

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """Remove the last message of a chat; return it, or None if there is none."""
        return await self.adelete_message(key, -1)

    async def aget_keys(self) -> list[str]:
        """Return the keys of all chats, as ``get_keys``."""
        return await self._items.run(keys)

    # The operations

    def _put(self, key: str, messages: Sequence[ChatMessage]) -> Put:
        return Put((key,), ITEM, to_data(messages), self.ttl)

    def _append(self, key: str, message: ChatMessage) -> Append:
        return Append((key,), ITEM, to_data([message]), self.ttl)

    async def _read(self, items: ItemStore, key: str) -> list[ChatMessage]:
        return _restored(key, await read(items, key))


def _restored(key: str, elements: list[Any]) -> list[ChatMessage]:
    messages = messages_of(elements)
    if messages is None:
        raise foreign(key)
    return messages


def _taker(key: str, idx: int | None) -> _Take:
    """Return a function that takes the message at ``idx``, or all messages and the chat itself if it is None."""

    def take(elements: list[Any]) -> tuple[list[ChatMessage], list[Any] | None]:
        if idx is None:
            return _restored(key, elements), None
        left = list(elements)
        taken = [left.pop(idx)] if -len(left) <= idx < len(left) else []
        return _restored(key, taken), left

    return take


def _checked(idx: object) -> int:
    if not isinstance(idx, int) or isinstance(idx, bool):
        raise UsageError(f"idx must be a whole number, not {idx!r}")
    return idx


def _first(messages: list[ChatMessage] | None) -> ChatMessage | None:
    return messages[0] if messages else None
