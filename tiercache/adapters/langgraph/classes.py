"""The classes that a saver restores from a checkpoint: those of a list, and an error for every other class.

LangGraph's serializer returns the arguments of a class that its list does not have, a dict for example. A graph would
go on with that state. The saver raises an error instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from ...errors import UnreadableCheckpointError, UsageError
from ...tiers.checkpoints.checkpoint import Place
from ..extras import missing_extra

try:
    from langgraph.checkpoint.serde.event_hooks import register_serde_event_listener
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
except ImportError as error:
    raise missing_extra("langgraph", error) from error

__all__ = ["refuse_pickle", "strict_serializer", "watching_classes"]

# The names of the refused classes, while a checkpoint is restored.
_REFUSED: Final[ContextVar[list[str] | None]] = ContextVar("tiercache_refused_classes", default=None)


def strict_serializer(allowed: Iterable[type | tuple[str, str]]) -> Any:
    """Return LangGraph's serializer, which restores the classes that LangGraph takes for safe, and ``allowed``."""
    return JsonPlusSerializer(allowed_msgpack_modules=[*allowed] or None)


def refuse_pickle(serde: Any) -> None:
    """Refuse a serializer of the caller that would restore pickles.

    Raises:
        UsageError: ``serde``, or the serializer inside of an encrypting one, has ``pickle_fallback``.
    """
    if getattr(serde, "pickle_fallback", False):
        raise UsageError("serde must not have pickle_fallback: a pickle in Valkey could run any code")
    inner = getattr(serde, "serde", None)
    if inner is not None:
        refuse_pickle(inner)


@contextmanager
def watching_classes(thread: str, place: Place) -> Iterator[None]:
    """Raise an error at the end of the block if the serializer has refused a class in it.

    Raises:
        UnreadableCheckpointError: A class is not allowed. The message names it.
    """
    refused: list[str] = []
    token = _REFUSED.set(refused)
    try:
        yield
    finally:
        _REFUSED.reset(token)
    if refused:
        raise UnreadableCheckpointError(
            f"checkpoint {place.id!r} of thread {thread!r} contains {', '.join(dict.fromkeys(refused))}, which this "
            "saver does not restore: give the class to TierCacheSaver(cache, allow=[...])"
        )


def _note(event: Any) -> None:
    refused = _REFUSED.get()
    if refused is not None and "blocked" in event["kind"]:
        refused.append(f"{event['module']}.{event['name']}")


register_serde_event_listener(_note)
