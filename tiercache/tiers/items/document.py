"""The documents in items: JSON objects, as frameworks give them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ...errors import UsageError
from ...tier_options import TierOptions
from ..keys.canonical_json import compact_json
from .store import Item

__all__ = ["document_data", "document_of"]

_MAX_BYTES: Final = TierOptions().max_value_bytes


def document_data(value: object) -> bytes:
    """Return the JSON of a document.

    Raises:
        UsageError: ``value`` is no mapping, is not JSON, or is larger than 32 MiB.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"value must be a mapping, not {type(value).__name__}")
    data = compact_json(dict(value), "value")
    if _MAX_BYTES is not None and len(data) > _MAX_BYTES:
        raise UsageError(f"value has {len(data)} bytes of JSON, and at most {_MAX_BYTES} can be stored")
    return data


def document_of(item: Item) -> dict[str, Any] | None:
    """Return the document of an item as a new object, or None if other software wrote something else."""
    try:
        value = json.loads(item.data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
