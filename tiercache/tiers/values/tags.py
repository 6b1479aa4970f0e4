"""The tags of an entry: a header before the entry's other bytes in Valkey.

    {"tcTags":["a","b"],"response":...      llm and tool: one more field of the JSON object, the first
    tc:tags:["a","b"]<LF>tc:zstd:...        llm and tool, compressed
    t["a","b"]<LF>j...                      kv

An index may be evicted or expire. The tags of an entry live and end with the entry, so a sweep of all entries finds
every entry of a tag, and a process that reads an entry knows which of its tags are in an index already. An entry
without tags has no header.

``]`` is written as ``\\u005d`` in a tag, so that the first ``]`` ends the list. A list of more than ``MAX_LIST_BYTES``
is written as the JSON null: a sweep takes such an entry for an entry of every tag.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
import orjson

from ...engine.entries.rules import UndecodableError

__all__ = ["HEADER_OPENINGS", "HEAD_BYTES", "MAX_LIST_BYTES", "Tagged", "encode_tag", "join_tags", "split_tags"]

# Most bytes of a list of tags: about 200 tags of usual length. A sweep looks at this many bytes of each entry.
MAX_LIST_BYTES: Final = 8192
# Bytes at the beginning of an entry that certainly contain its header.
HEAD_BYTES: Final = MAX_LIST_BYTES + 16

_JSON_OPENING: Final = b'{"tcTags":'
_TEXT_OPENING: Final = b"tc:tags:"
_KV_OPENINGS: Final = (b"t[", b"tn")
# Every entry with tags begins with one of these bytes, and no other entry does.
HEADER_OPENINGS: Final = (_JSON_OPENING, _TEXT_OPENING, *_KV_OPENINGS)

_TOO_MANY: Final = b"null"
_decode_list: Final = msgspec.json.Decoder(list[str]).decode


class Tagged(NamedTuple):
    """An entry's bytes without its tags, and its tags.

    Attributes:
        data: The bytes without the header.
        tags: The tags, or None if the entry has more tags than its header lists.
    """

    data: bytes
    tags: tuple[str, ...] | None


def encode_tag(tag: str) -> bytes:
    """Return ``tag`` as a header has it: JSON, in quotes."""
    return orjson.dumps(tag).replace(b"]", b"\\u005d")


def join_tags(data: bytes, tags: Iterable[str] | None) -> bytes:
    """Return ``data``, the bytes of an entry without a header, behind a header that lists ``tags``.

    Args:
        tags: None stands for more tags than a header lists.
    """
    listed = _TOO_MANY if tags is None else b"[" + b",".join(map(encode_tag, tags)) + b"]"
    if listed == b"[]":
        return data
    if len(listed) > MAX_LIST_BYTES:
        listed = _TOO_MANY
    if data.startswith(b"{"):
        return b"%b%b,%b" % (_JSON_OPENING, listed, data[1:])
    opening = _TEXT_OPENING if data.startswith(b"tc:") else b"t"
    return b"%b%b\n%b" % (opening, listed, data)


def split_tags(data: bytes) -> Tagged:
    """Return the bytes of an entry without its header, and its tags.

    Raises:
        UndecodableError: The header is not one that ``join_tags`` writes.
    """
    if data.startswith(_JSON_OPENING):
        return _split(data, len(_JSON_OPENING), b",", b"{")
    if data.startswith(_KV_OPENINGS):
        return _split(data, 1, b"\n", b"")
    if data.startswith(_TEXT_OPENING):
        return _split(data, len(_TEXT_OPENING), b"\n", b"")
    return Tagged(data, ())


def _split(data: bytes, start: int, separator: bytes, opening: bytes) -> Tagged:
    """Split ``data``, whose list of tags begins at ``start`` and ends before ``separator``.

    Args:
        opening: The first bytes of the entry, which stand before the header.
    """
    if data.startswith(_TOO_MANY, start):
        end = start + len(_TOO_MANY)
    else:
        end = data.find(b"]", start, start + MAX_LIST_BYTES) + 1
    if not end or data[end : end + 1] != separator:
        raise UndecodableError("the header of the tags is damaged")
    rest = opening + data[end + 1 :]
    if data.startswith(_TOO_MANY, start):
        return Tagged(rest, None)
    try:
        return Tagged(rest, tuple(_decode_list(data[start:end])))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UndecodableError(f"the header of the tags is damaged: {error}") from error
