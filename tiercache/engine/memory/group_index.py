"""The keys in L1 by group, so that a drop of a group costs the entries that it removes, and not all of L1.

An entry has at most two groups beside its tags: its tier, and then a model, a tool, a thread or all kv tiers. Its key
stands in one place for both, and in one place for each tag:

    tier ─▶ model, tool, ... ─▶ keys        the entries of a tier are those of all its parts
    tag ─▶ keys                             in the ``TagTable``

A single key stands there itself, two or more stand in a dict: threads and tags with one entry are many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ..entries.entry import Entry, Group, has_tags
from .tag_table import Keys, TagTable, keys_in, with_key, without_key

__all__ = ["GroupIndex"]

_Place: TypeAlias = tuple[Group | None, Group | None]


class GroupIndex:
    """The keys of the entries of one L1, by group.

    Args:
        entries: The entries of L1 by key.

    Attributes:
        tags: The tags of the entries.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.tags = TagTable(entries)
        self._tiers: dict[Group | None, dict[Group | None, Keys]] = {}

    def add(self, key: str, groups: tuple[Group, ...]) -> None:
        """Note the key of an entry of ``groups``, which L1 takes. Its tags are noted already: ``TagTable.share``."""
        tier, part = _place(groups)
        parts = self._tiers.get(tier)
        if parts is None:
            parts = self._tiers[tier] = {}
        keys = parts.get(part)
        if isinstance(keys, dict):
            keys[key] = None
        else:
            parts[part] = with_key(keys, key)

    def remove(self, key: str, groups: tuple[Group, ...]) -> None:
        """Forget the key of an entry of ``groups``, which ``add`` has noted."""
        tier, part = _place(groups)
        # The empty dict of a tier stays: tiers are few.
        parts = self._tiers[tier]
        keys = parts[part]
        left = without_key(keys, key)
        if left is None:
            del parts[part]
        elif left is not keys:
            parts[part] = left
        if has_tags(groups):
            self.tags.release(key, groups)

    def keys_of(self, group: Group) -> list[str]:
        """Return the keys of the entries of ``group``, at a cost of these keys and of the number of tiers."""
        if group.kind == "tag":
            return self.tags.keys_of(group)
        places: list[Keys] = list(self._tiers.get(group, {}).values())
        places += [parts[group] for parts in self._tiers.values() if group in parts]
        return [key for keys in places for key in keys_in(keys)]

    def __len__(self) -> int:
        return len(self.tags) + sum(map(len, self._tiers.values()))

    def clear(self) -> None:
        """Forget all keys."""
        self._tiers.clear()
        self.tags.clear()


def _place(groups: tuple[Group, ...]) -> _Place:
    """Return the tier and the part of an entry of ``groups``; None stands for a group that the entry does not have.

    Raises:
        ValueError: The entry has a third group beside its tags, so that a drop of that group would not find the entry.
    """
    if has_tags(groups):
        groups = tuple([group for group in groups if group.kind != "tag"])
    tier, part = groups if len(groups) == 2 else (*groups, None, None)[: max(2, len(groups))]
    return tier, part
