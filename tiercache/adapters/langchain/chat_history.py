"""The messages of a chat for LangChain, in a field of the session tier.

The field is a JSON list with one item for each call of ``add_messages``: a list of messages in LangChain's JSON. So
the messages of one turn are added in one step, and two workers that add at the same time lose no message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...ttl import Ttl
from ..extras import missing_extra
from ..list_field import ListField, SyncListField
from .serialization import from_json, to_json

try:
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.messages import BaseMessage
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["TierCacheChatMessageHistory"]

_FIELD: Final = "langchain.messages"


class TierCacheChatMessageHistory(BaseChatMessageHistory):
    """The messages of one chat, kept in the session tier, in the order in which they were added.

    The messages are state: they exist nowhere else. Each read asks Valkey, and has every message whose addition has
    returned in any process. The sync methods and ``messages`` use ``cache.sync``.

    Args:
        cache: The cache.
        session_id: The id of the chat: the id of the thread in ``cache.session``.
        ttl: The window of the messages: each read and each addition restarts it. None takes that of the session tier,
            then the cache's.
        field: The name of the field of the thread, so that a thread can have several histories.

    Every method raises:
        L2UnavailableError: Valkey did not answer. Messages that the call adds may or may not have been added.
        L2CommandError: Valkey refused.
        UsageError: An argument is wrong, the cache is closed or has no such face, or a stored message cannot be read.
    """

    def __init__(self, cache: AgentCache, session_id: str, *, ttl: Ttl | None = None, field: str = _FIELD) -> None:
        self._list = ListField(cache, session_id, field, ttl=ttl)
        self._plain_list = SyncListField(cache, session_id, field, ttl=ttl)

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """The messages, the oldest first. A read of Valkey by plain code: coroutines call ``aget_messages``."""
        return self._read(self._plain_list.read())

    async def aget_messages(self) -> list[BaseMessage]:
        """Return the messages, the oldest first."""
        return self._read(await self._list.read())

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages in one step. Raises UsageError for a message that JSON does not restore, and adds nothing."""
        item = _item(messages)
        if item:
            self._plain_list.append(item)

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages in one step. Raises UsageError for a message that JSON does not restore, and adds nothing."""
        item = _item(messages)
        if item:
            await self._list.append(item)

    def clear(self) -> None:
        """Remove the messages. Other fields of the thread stay."""
        self._plain_list.delete()

    async def aclear(self) -> None:
        """Remove the messages. Other fields of the thread stay."""
        await self._list.delete()

    def _read(self, items: list[Any]) -> list[BaseMessage]:
        messages = _messages(items)
        if messages is None:
            raise UsageError(f"{self._list} has no messages of LangChain")
        return messages


def _item(messages: Sequence[BaseMessage]) -> list[Any]:
    """Return the messages as one item of the field."""
    item = [to_json(message) for message in messages]
    for message, data in zip(messages, item, strict=True):
        if data is None:
            raise UsageError(f"a message of type {message.type!r} has content that JSON does not restore as it is")
    return item


def _messages(items: list[Any]) -> list[BaseMessage] | None:
    """Return the messages in the items of the field, or None if another program has written one of them."""
    if not all(isinstance(item, list) for item in items):
        return None
    found = [from_json(data, BaseMessage) for item in items for data in item]
    messages = [message for message in found if message is not None]
    return messages if len(messages) == len(found) else None
