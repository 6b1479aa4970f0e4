"""Messages of LlamaIndex as JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from ...errors import UsageError
from ...tiers.keys.canonical_json import compact_json
from ..extras import missing_extra

try:
    from llama_index.core.base.llms.types import ChatMessage
except ImportError as error:
    raise missing_extra("llamaindex", error) from error

__all__ = ["messages_of", "to_data", "to_items", "to_json"]

# ChatMessage makes blocks of this argument: a message that was made from a stored one would have them twice.
_MADE_INTO_BLOCKS: Final = "images"


def to_data(messages: Sequence[ChatMessage]) -> bytes:
    """Return the messages as a JSON list.

    Raises:
        UsageError: A message is no ChatMessage, or JSON does not restore it as it is.
    """
    return compact_json([to_json(message) for message in messages], "messages")


def to_items(data: bytes) -> list[Any] | None:
    """Return the JSON of each message, or None for bytes of other software."""
    try:
        items = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return items if isinstance(items, list) else None


def messages_of(items: Sequence[Any]) -> list[ChatMessage] | None:
    """Return the messages that ``to_data`` has written, or None if an item is no message."""
    messages = [_from_json(item) for item in items]
    found = [message for message in messages if message is not None]
    return found if len(found) == len(messages) else None


def to_json(message: Any) -> Any:
    """Return the message as JSON. Errors as for ``to_data``."""
    if not isinstance(message, ChatMessage):
        raise UsageError(f"a message must be a ChatMessage of LlamaIndex, not {type(message).__name__}")
    # An object in the message may raise any exception.
    try:
        data = _without_images(message.model_dump(mode="json"))
        restored = ChatMessage.model_validate(json.loads(json.dumps(data)))
        if restored.model_dump() == _without_images(message.model_dump()):
            return data
    except Exception:
        pass
    raise UsageError(f"a message of role {message.role.value!r} has content that JSON does not restore as it is")


def _without_images(data: dict[str, Any]) -> dict[str, Any]:
    data["additional_kwargs"].pop(_MADE_INTO_BLOCKS, None)
    return data


def _from_json(data: object) -> ChatMessage | None:
    # Any program can write the item, and another version of LlamaIndex may have other blocks.
    try:
        return ChatMessage.model_validate(data)
    except Exception:
        return None
