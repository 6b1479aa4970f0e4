"""Messages and generations of LangChain as JSON, and back.

The form is LangChain's own: ``dumps`` writes it, and ``load`` restores classes of langchain-core alone.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, TypeVar

from ..extras import missing_extra

try:
    from langchain_core.load import dumps
    from langchain_core.load.load import load
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGeneration
    from pydantic import BaseModel
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["from_json", "to_json"]

T = TypeVar("T")

# The function without the warning that it is new.
_load: Any = inspect.unwrap(load)


def to_json(item: Any) -> Any:
    """Return a message or a generation as JSON, or None if the JSON would not restore an equal object.

    A pydantic object that a model has parsed becomes its JSON, from which LangChain makes the object again.
    """
    # An object in the message may raise any exception.
    try:
        plain = _without_parsed(item)
        data = json.loads(dumps(plain))
        return data if from_json(data, type(plain)) == plain else None
    except Exception:
        return None


def from_json(data: Any, kind: type[T]) -> T | None:
    """Return the object that ``to_json`` has written, or None if ``data`` does not restore a ``kind``."""
    # Any program can write the entry, and another version of LangChain may have other fields.
    try:
        item = _load(data, allowed_objects="core", secrets_from_env=False)
    except Exception:
        return None
    return item if isinstance(item, kind) else None


def _without_parsed(item: Any) -> Any:
    """Return ``item`` with the JSON of a pydantic object that the model has parsed, and not the object."""
    if isinstance(item, ChatGeneration):
        message = _without_parsed(item.message)
        return item if message is item.message else item.model_copy(update={"message": message})
    parsed = item.additional_kwargs.get("parsed") if isinstance(item, BaseMessage) else None
    if not isinstance(parsed, BaseModel):
        return item
    fields = parsed.model_dump(mode="json", by_alias=True)
    if type(parsed)(**fields) != parsed:
        raise ValueError("the JSON of the parsed object makes another object")
    return item.model_copy(update={"additional_kwargs": {**item.additional_kwargs, "parsed": fields}})
