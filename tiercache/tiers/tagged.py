"""The entries with one tag, as a group that one call invalidates."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine.coherence.placeholders import PLACEHOLDER_PREFIX
from ..engine.entries.entry import Group
from ..engine.entries.rules import UndecodableError
from ..engine.level2.writes import Command
from ..engine.operations.invalidate import GroupEntries
from ..indexes.names import kv_prefixes, tag_index_of
from ..indexes.scripts import members_script
from .values.tags import HEAD_BYTES, encode_tag, split_tags

__all__ = ["entries_with_tag", "tagged_prefixes"]


def tagged_prefixes(name: str) -> tuple[str, ...]:
    """Return the prefixes of the keys of entries that may have tags: not of sessions, which are state."""
    return (f"{name}:llm:", f"{name}:tool:", *kv_prefixes(name))


def entries_with_tag(name: str, group: Group) -> GroupEntries:
    """Return the entries of the cache ``name`` that have the tag ``group``."""
    tag = group.value
    encoded = encode_tag(tag)

    def belongs(data: bytes) -> bool:
        try:
            tags = split_tags(data).tags
        except UndecodableError:
            return False
        return tags is None or tag in tags

    def sift(keys: Sequence[bytes]) -> Command:
        return ("EVAL", members_script("tagged"), len(keys), *keys, encoded, HEAD_BYTES, PLACEHOLDER_PREFIX)

    return GroupEntries(
        group, tagged_prefixes(name), belongs, group_index=tag_index_of(name, group), sift=sift, is_tag=True
    )
