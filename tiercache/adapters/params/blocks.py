"""Blocks: the content of messages in the form of betterdb-agent-cache, and everything that has no place in it.

Nothing is lost: a field without a place is in the block's or the message's own dict under ``KEPT``, and a part of an
unknown form is in a block of its own, whole. So two requests that differ make params that differ.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final, Literal, TypeAlias

from ...errors import UsageError
from ...tiers.keys.canonical_json import compact_json
from ...tiers.keys.exact_json import MAX_DEPTH
from ..normalizer import BinaryNormalizer, BinaryRef, Kind
from .fields import Fields, dicts_in
from .plain import KEPT, plain

__all__ = [
    "Block",
    "binary_block",
    "blocks_of",
    "call_block",
    "file_id",
    "image_source",
    "kept_block",
    "media_type_of",
    "parsed_arguments",
    "text_block",
    "with_rest",
]

Block: TypeAlias = dict[str, Any]

_DATA_URL: Final = "data:"
# A request has some levels around the arguments of a call.
_MAX_ARGUMENT_DEPTH: Final = MAX_DEPTH - 20


def kept_block(**kept: Any) -> Block:
    """Return a block with a part of the request as it is, under the name of its kind."""
    return {"type": KEPT, **kept}


def with_rest(block: Block, fields: Fields) -> Block:
    """Return a block or a message with the fields that have no place in it."""
    if rest := fields.rest():
        block[KEPT] = rest
    return block


async def blocks_of(parts: object, place: str, convert: Callable[[Fields], Awaitable[Block | None]]) -> list[Block]:
    """Return a block for each part of a list.

    Args:
        convert: Returns the block of a part, and takes the fields that it has placed; or None for an unknown form.

    Raises:
        UsageError: ``parts`` is no list of mappings.
    """
    blocks: list[Block] = []
    for number, part in enumerate(dicts_in(parts, place)):
        fields = Fields(part, place, number)
        block = await convert(fields)
        blocks.append(kept_block(part=part) if block is None else with_rest(block, fields))
    return blocks


def text_block(fields: Fields, name: str = "text") -> Block | None:
    """Return the block of a text, or None if there is no text."""
    text = fields.take(name, str)
    return None if text is None else {"type": "text", "text": text}


def media_type_of(data: str, default: str) -> str:
    """Return the media type of a data URL, or ``default`` where none is named."""
    end = data.find(";") if data.startswith(_DATA_URL) else -1
    return data[len(_DATA_URL) : end] if end > len(_DATA_URL) else default


async def binary_block(
    normalizer: BinaryNormalizer, kind: Kind, source: dict[str, Any], media_type: str | None = None
) -> Block:
    """Return the block of a binary part.

    Args:
        source: A source of ``BinaryRef``.
        media_type: None: that of the data URL in the source, or of any image.
    """
    if media_type is None:
        media_type = media_type_of(source["data"], "image/*") if source["type"] == "base64" else "image/*"
    ref: BinaryRef = {"kind": kind, "source": source}  # type: ignore[typeddict-item]
    text: Any = normalizer(ref)
    if isawaitable(text):  # A plain function, such as ``passthrough``, does as well.
        text = await text
    if not isinstance(text, str):
        raise UsageError(f"the normalizer must return a str, not {type(text).__name__}")
    return {"type": "binary", "kind": kind, "mediaType": media_type, "ref": text}


def image_source(url: str) -> dict[str, Any]:
    """Return the source of an image that a request names by a URL, or by a data URL."""
    return {"type": "base64", "data": url} if url.startswith(_DATA_URL) else {"type": "url", "url": url}


def file_id(fields: Fields, provider: Literal["openai", "anthropic"]) -> dict[str, Any] | None:
    """Return the source of a file that the provider keeps, or None if the request names none."""
    name = fields.take_text("file_id")
    return None if name is None else {"type": "file_id", "file_id": name, "provider": provider}


def call_block(identifier: str, name: str, args: Any) -> Block:
    """Return the block of a call of a tool."""
    return {"type": "tool_call", "id": identifier, "name": name, "args": args}


def parsed_arguments(fields: Fields, name: str = "arguments") -> Any:
    """Return the arguments of a call, parsed from their JSON, a field that is a str.

    The field stays if its text is not one of those that ``json.dumps`` writes for its value: then the block has both.
    """
    text = fields.whole[name]
    try:
        args = plain(json.loads(text), name, depth=_MAX_ARGUMENT_DEPTH)
        if _is_written_by_json(text, args):
            fields.take(name, str)
        return args
    # No JSON; or nested too deeply, or with a lone surrogate: such a value could not be hashed.
    except (ValueError, RecursionError, UsageError):
        return {"__raw": text}


def _is_written_by_json(text: str, args: Any) -> bool:
    # Raises for a value that cannot be hashed.
    return compact_json(args, "arguments").decode() == text or text in (
        json.dumps(args),
        json.dumps(args, ensure_ascii=False),
        json.dumps(args, separators=(",", ":")),
    )
