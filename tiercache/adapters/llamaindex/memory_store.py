"""The store of the messages of LlamaIndex's ``Memory``.

An element of a chat is ``{"status": "active", "message": {...}}``. ``chat_items`` has the form of a chat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...identity import KeepsIdentity
from ...tiers.items.store import Append, ItemStore, Put
from ...tiers.keys.canonical_json import compact_json
from ...ttl import Ttl, check_ttl
from ..extras import missing_extra
from ..item_stores import TwoFacedItems
from .chat_items import ITEM, add, change, foreign, keys, read
from .messages import messages_of, to_json

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
except ImportError as error:
    raise missing_extra("llamaindex", error) from error

__all__ = ["TierCacheMemoryStore"]

R = TypeVar("R")


class TierCacheMemoryStore(KeepsIdentity, AsyncDBChatStore):
    """The messages of LlamaIndex's ``Memory`` by the id of its session, active and archived ones.

    They are state, as those of ``TierCacheChatStore``: each read asks Valkey, and each change is one step, which loses
    no message of another worker. All methods use ``cache.sync`` on threads, because ``Memory`` calls its store from
    event loops of its own.

    Args:
        cache: The cache.
        store: The name of the store: 1 to 128 of ``A-Z a-z 0-9 _ -``. Stores of one name share their messages.
        ttl: Lifetime of a session after its last use: seconds, a string such as ``"30d"``, a timedelta, or
            ``NO_EXPIRY``. None: sessions have no end.

    Attributes:
        store: The name of the store.
        ttl: The lifetime in seconds, or None for no end.

    Every method raises:
        L2UnavailableError: Valkey did not answer. A change may or may not have happened.
        L2CommandError: Valkey refused.
        UsageError: An argument is wrong, such as a message that JSON does not restore as it is; other software has
            written the messages; or the cache is closed or has no such face. Nothing is changed.
    """

    store: str
    ttl: float | None
    _items: TwoFacedItems = PrivateAttr()

    def __init__(self, cache: AgentCache, *, store: str = "llamaindex-memory", ttl: Ttl | None = None) -> None:
        items = TwoFacedItems(cache, store)
        fields: dict[str, Any] = {"store": store, "ttl": None if ttl is None else check_ttl(ttl)}
        super().__init__(**fields)
        self._items = items

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes beside the fields of the store."""
        return "TierCacheMemoryStore"

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Return the messages of a session, the oldest first.

        Args:
            status: Only messages of this status; None: all.
            limit: Most messages; None: all.
            offset: The number of messages to leave out at the beginning.
        """
        elements = await self._run(lambda items: read(items, key))
        found = [element for element in elements if _is_of(element, status, key)]
        start = offset or 0
        return _restored(key, found[start : None if limit is None else start + limit])

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """Return the number of messages of a session, of one status or of all."""
        return len(await self.get_messages(key, status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE) -> None:
        """Add a message to a session."""
        await self.add_messages(key, [message], status)

    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Add messages to a session in one step."""
        if messages:
            append = Append((key,), ITEM, _data(messages, status), self.ttl)
            await self._run(lambda items: add(items, append))

    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Replace all messages of a session, the archived ones too."""
        put = Put((key,), ITEM, _data(messages, status) if messages else None, self.ttl)
        await self._run(lambda items: items.run([put]))

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove the message at ``idx`` among all messages of a session; return it, or None if there is none."""
        if not isinstance(idx, int) or isinstance(idx, bool):
            raise UsageError(f"idx must be a whole number, not {idx!r}")

        def edit(elements: list[Any]) -> tuple[list[ChatMessage], list[Any] | None]:
            left = list(elements)
            taken = [left.pop(idx)] if 0 <= idx < len(left) else []
            return _restored(key, taken), left or None

        removed = await self._change(key, edit)
        return removed[0] if removed else None

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Remove the messages of a session, of one status or of all."""

        def edit(elements: list[Any]) -> tuple[None, list[Any] | None]:
            return None, [element for element in elements if not _is_of(element, status, key)] or None

        await self._change(key, edit)

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Remove the oldest ``n`` active messages of a session, in one step; return them."""

        def edit(elements: list[Any]) -> tuple[list[ChatMessage], list[Any] | None]:
            places = _oldest(key, elements, n)
            left = [element for place, element in enumerate(elements) if place not in places]
            return _restored(key, [elements[place] for place in places]), left or None

        return await self._change(key, edit) or []

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the oldest ``n`` active messages of a session, in one step; return them."""

        def edit(elements: list[Any]) -> tuple[list[ChatMessage], list[Any] | None]:
            places = _oldest(key, elements, n)
            archived = {place: {**elements[place], "status": MessageStatus.ARCHIVED.value} for place in places}
            left = [archived.get(place, element) for place, element in enumerate(elements)]
            return _restored(key, list(archived.values())), left

        return await self._change(key, edit) or []

    async def get_keys(self) -> list[str]:
        """Return the ids of all sessions, sorted. Reads one index, and scans no keys."""
        return await self._run(keys)

    async def _run(self, operation: Callable[[ItemStore], Coroutine[Any, Any, R]]) -> R:
        return await asyncio.to_thread(self._items.run_plain, operation)

    async def _change(self, key: str, edit: Callable[[list[Any]], tuple[R, list[Any] | None]]) -> R | None:
        return await self._run(lambda items: change(items, key, self.ttl, edit))


def _data(messages: Sequence[ChatMessage], status: MessageStatus) -> bytes:
    word = MessageStatus(status).value
    return compact_json([{"status": word, "message": to_json(message)} for message in messages], "messages")


def _is_of(element: Any, status: MessageStatus | None, key: str) -> bool:
    """Return whether an element has the status. Raises UsageError for an element of other software."""
    if not isinstance(element, dict) or not isinstance(element.get("status"), str):
        raise foreign(key)
    return status is None or element["status"] == MessageStatus(status).value


def _oldest(key: str, elements: list[Any], count: int) -> list[int]:
    """Return the places of the oldest active elements."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise UsageError(f"n must be a whole number from 0, not {count!r}")
    return [place for place, each in enumerate(elements) if _is_of(each, MessageStatus.ACTIVE, key)][:count]


def _restored(key: str, elements: list[Any]) -> list[ChatMessage]:
    messages = messages_of([each.get("message") for each in elements if _is_of(each, None, key)])
    if messages is None:
        raise foreign(key)
    return messages
