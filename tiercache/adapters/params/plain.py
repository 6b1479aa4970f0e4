"""Requests as plain JSON, as the SDKs send them: objects as dicts, without the fields that are not given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import UsageError
from ...text import shown
from ...tiers.keys.absent import is_absent
from ...tiers.keys.exact_json import MAX_DEPTH

__all__ = ["KEPT", "plain"]

# The name of everything in prepared params that betterdb-agent-cache has no place for.
KEPT = "tiercache"


def plain(value: Any, place: str, *, sent: bool = True, depth: int = MAX_DEPTH) -> Any:
    """Return a copy of ``value`` that consists of plain dicts, lists and scalars. Scalars of other types stay.

    Args:
        place: The place of the value, for an error.
        sent: Whether models of pydantic become the fields that an SDK sends of them, those that are set; otherwise all
            fields but None.
        depth: The levels of nesting that may be in it.

    Raises:
        UsageError: ``value`` is nested too deeply, or a dict in it has a key that is no str.
    """
    try:
        return _copy(value, depth, sent)
    except _DefectError as error:
        raise UsageError(f"{place}{''.join(reversed(error.path))} {error}") from error.__cause__


class _DefectError(Exception):
    """A value is no JSON. ``path`` has the steps to its place, the last one first."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.path: list[str] = []


def _copy(value: Any, depth: int, sent: bool) -> Any:
    kind = type(value)
    if kind is str or kind is int or value is None:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # A plain str, also for a member of an enum.
    if isinstance(value, Mapping):
        return _copy_mapping(value, depth, sent)
    if isinstance(value, list | tuple):
        _check_depth(depth)
        copied: list[Any] = []
        try:
            for item in value:
                copied.append(_copy(item, depth - 1, sent))
        except _DefectError as error:
            error.path.append(f"[{len(copied)}]")
            raise
        return copied
    fields = _fields_of(value, sent)
    return value if fields is value else _copy(fields, depth, sent)


def _copy_mapping(value: Mapping[Any, Any], depth: int, sent: bool) -> dict[str, Any]:
    _check_depth(depth)
    copied: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise _DefectError(f"has the key {shown(key)}, which must be a str, not {type(key).__name__}")
        try:
            if type(item) is str:
                copied[key] = item
            elif not is_absent(item):
                copied[str.__str__(key)] = _copy(item, depth - 1, sent)
        except _DefectError as error:
            error.path.append(f".{key}")
            raise
    return copied


def _check_depth(depth: int) -> None:
    if depth == 0:
        raise _DefectError(f"is nested deeper than {MAX_DEPTH} levels, or contains itself")


def _fields_of(value: Any, sent: bool) -> Any:
    """Return the fields of an object of an SDK, or of the schema of a class; any other object itself."""
    if isinstance(value, type):
        # The class of a structured answer: an SDK sends its schema.
        schema = getattr(value, "model_json_schema", None)
        return value if schema is None else {"type": KEPT, "schema": schema()}
    dump = getattr(type(value), "model_dump", None)
    if dump is None:
        return value
    try:
        if not sent:
            return dump(value, mode="json", exclude_none=True)
        # The SDK of OpenAI never sends the fields of this name, such as a parsed answer.
        return dump(value, mode="json", exclude_unset=True, exclude=getattr(value, "__api_exclude__", None))
    # pydantic refuses an object that is no JSON by a ValueError, its serializers also by a TypeError.
    except (TypeError, ValueError) as error:
        raise _DefectError(f"is a {type(value).__name__} that is no JSON: {error}") from error
