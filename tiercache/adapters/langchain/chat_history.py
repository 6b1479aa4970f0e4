"""The messages of a chat for LangChain, in a field of the session tier.

The field is a JSON list with one item for each call of ``add_messages``: a list of messages in LangChain's JSON. So
the messages of one turn are added in one step, and two workers that add at the same time lose no message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...text import check_text
from ...ttl import Ttl, check_ttl
from ..caches import check_cache
from ..extras import missing_extra
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
        self._cache = check_cache(cache)
        for name, text in (("session_id", session_id), ("field", field)):
            if not check_text(text, name):
                raise UsageError(f"{name} must not be empty")
        if ttl is not None:
            check_ttl(ttl)
        self._session_id = session_id
        self._ttl = ttl
        self._field = field

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """The messages, the oldest first. A read of Valkey by plain code: coroutines call ``aget_messages``."""
        return self._read(self._cache.sync.session.get(self._session_id, self._field, fresh=True))

    async def aget_messages(self) -> list[BaseMessage]:
        """Return the messages, the oldest first."""
        return self._read(await self._cache.session.get(self._session_id, self._field, fresh=True))

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages in one step. Raises UsageError for a message that JSON does not restore, and adds nothing."""
        item = _item(messages)
        if item:
            self._cache.sync.session.append(self._session_id, self._field, item, ttl=self._ttl)

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages in one step. Raises UsageError for a message that JSON does not restore, and adds nothing."""
        item = _item(messages)
        if item:
            await self._cache.session.append(self._session_id, self._field, item, ttl=self._ttl)

    def clear(self) -> None:
        """Remove the messages. Other fields of the thread stay."""
        self._cache.sync.session.delete(self._session_id, self._field)

    async def aclear(self) -> None:
        """Remove the messages. Other fields of the thread stay."""
        await self._cache.session.delete(self._session_id, self._field)

    def _read(self, text: str | None) -> list[BaseMessage]:
        messages = [] if text is None else _messages(text)
        if messages is None:
            raise UsageError(f"field {self._field!r} of thread {self._session_id!r} has no messages of LangChain")
        return messages


def _item(messages: Sequence[BaseMessage]) -> list[Any]:
    """Return the messages as one item of the field."""
    item = [to_json(message) for message in messages]
    for message, data in zip(messages, item, strict=True):
        if data is None:
            raise UsageError(f"a message of type {message.type!r} has content that JSON does not restore as it is")
    return item


def _messages(text: str) -> list[BaseMessage] | None:
    """Return the messages in the text of the field, or None if another program has written the text."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or not all(isinstance(item, list) for item in items):
        return None
    found = [from_json(data, BaseMessage) for item in items for data in item]
    messages = [message for message in found if message is not None]
    return messages if len(messages) == len(found) else None
