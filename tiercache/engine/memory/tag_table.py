"""The tags of the entries in L1: one object for each tag, however many entries have it, and its bytes."""

from __future__ import annotations

import sys
from typing import Final

from ..entries.entry import Group, has_tags

__all__ = ["TagTable", "tuple_size"]

# Bytes of a tuple without items, with the header of the garbage collector; and of one more item.
_TUPLE_BYTES: Final = sys.getsizeof(()) + 16
_ITEM_BYTES: Final = 8
# Bytes of a Group, of its place in the table, and of its count.
_GROUP_BYTES: Final = _TUPLE_BYTES + 2 * _ITEM_BYTES + 136


def tuple_size(groups: tuple[Group, ...]) -> int:
    """Return the bytes of the tuple itself, which an entry with tags has for itself."""
    return _TUPLE_BYTES + _ITEM_BYTES * len(groups)


class TagTable:
    """The tags that the entries of one L1 have.

    Attributes:
        size_bytes: Bytes of all tags.
    """

    def __init__(self) -> None:
        # For each tag the shared object, and the number of entries that have it.
        self._tags: dict[Group, tuple[Group, int]] = {}
        self.size_bytes = 0

    def share(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        """Return ``groups`` of an entry that L1 takes, with shared objects for the tags."""
        if not has_tags(groups):
            return groups
        shared: list[Group] = []
        for group in groups:
            if group.kind != "tag":
                shared.append(group)
                continue
            known = self._tags.get(group)
            if known is None:
                known = (group, 0)
                self.size_bytes += _size_of(group)
            self._tags[known[0]] = known[0], known[1] + 1
            shared.append(known[0])
        return tuple(shared)

    def release(self, groups: tuple[Group, ...]) -> None:
        """Forget one entry of ``groups``, which ``share`` has returned."""
        if not has_tags(groups):
            return
        for group in groups:
            if group.kind != "tag":
                continue
            shared, count = self._tags[group]
            if count > 1:
                self._tags[shared] = shared, count - 1
            else:
                del self._tags[shared]
                self.size_bytes -= _size_of(shared)

    def clear(self) -> None:
        """Forget all entries."""
        self._tags.clear()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._tags)


def _size_of(group: Group) -> int:
    return _GROUP_BYTES + sys.getsizeof(group.value)
