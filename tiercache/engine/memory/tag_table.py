"""The tags of the entries in L1: one object for each tag, its bytes, and the keys of the entries that have it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from ..entries.entry import Entry, Group, has_tags

__all__ = ["Keys", "TagTable", "keys_in", "tuple_size", "with_key", "without_key"]

# The keys of some entries, at least one: a single key itself, or a dict whose keys they are.
Keys: TypeAlias = str | dict[str, None]

# Bytes of a tuple without items, with the header of the garbage collector; and of one more item.
_TUPLE_BYTES: Final = sys.getsizeof(()) + 16
_ITEM_BYTES: Final = 8
# Bytes of a key in a dict: 22 when the dict has just filled up, 88 when it has just grown.
_KEY_BYTES: Final = 50
# Bytes of a Group, and of its place in the table.
_GROUP_BYTES: Final = _TUPLE_BYTES + 2 * _ITEM_BYTES + 136
# A tag is common if it has more keys than this number, and than this fraction of L1.
_COMMON_COUNT: Final = 256
_COMMON_FRACTION: Final = 1 / 8
# A dict with more bytes than these, and than these for each of its keys, has lost most of its keys.
_SPARSE_BYTES: Final = 1000
_SPARSE_KEY_BYTES: Final = 250


def tuple_size(groups: tuple[Group, ...]) -> int:
    """Return the bytes of the tuple itself, which an entry with tags has for itself."""
    return _TUPLE_BYTES + _ITEM_BYTES * len(groups)


class TagTable:
    """The tags that the entries of one L1 have.

    Of a common tag the table knows only the number of its entries, and the entries take no bytes for their keys. A look
    for them visits all of L1, most often eight entries or fewer for each that it finds. L1 may have outgrown the tag
    since: then that look notes the keys, and the next look visits no other entry.

    Args:
        entries: The entries of L1 by key.

    Attributes:
        size_bytes: Bytes of all tags.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        # For each tag the shared object, and the keys of the entries that have it, or the number of these entries.
        self._tags: dict[Group, tuple[Group, Keys | int]] = {}
        self.size_bytes = 0

    def share(self, key: str, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        """Note the tags of an entry that L1 takes; return its ``groups`` with shared objects for the tags."""
        if not has_tags(groups):
            return groups
        # A dict: a value that another client wrote may have the same tag twice.
        shared: dict[Group, None] = {}
        for group in groups:
            shared[self._note(key, group) if group.kind == "tag" and group not in shared else group] = None
        return tuple(shared)

    def _note(self, key: str, tag: Group) -> Group:
        """Note that the entry of ``key`` has ``tag``; return the shared object of the tag."""
        known = self._tags.get(tag)
        if known is None:
            self._tags[tag] = tag, key
            self.size_bytes += _size_of(tag)
            return tag
        shared, keys = known
        if isinstance(keys, int):
            self._tags[shared] = shared, keys + 1
            return shared
        self.size_bytes -= _size_of_keys(keys)
        keys = with_key(keys, key)
        self.size_bytes += _size_of_keys(keys)
        if isinstance(keys, dict) and self._is_common(len(keys)):
            self.size_bytes -= _size_of_keys(keys)
            self._tags[shared] = shared, len(keys)
        elif keys is not known[1]:
            self._tags[shared] = shared, keys
        return shared

    def _is_common(self, count: int) -> bool:
        return count > _COMMON_COUNT and count > len(self._entries) * _COMMON_FRACTION

    def release(self, key: str, groups: tuple[Group, ...]) -> None:
        """Forget the entry of ``key`` with ``groups``, which ``share`` has returned."""
        if not has_tags(groups):
            return
        for group in groups:
            if group.kind == "tag":
                self._forget(key, group)

    def _forget(self, key: str, tag: Group) -> None:
        shared, keys = self._tags[tag]
        if isinstance(keys, int):
            if keys > 1:
                self._tags[shared] = shared, keys - 1
                return
        else:
            self.size_bytes -= _size_of_keys(keys)
            left = without_key(keys, key)
            if left is not None:
                self.size_bytes += _size_of_keys(left)
                if left is not keys:
                    self._tags[shared] = shared, left
                return
        del self._tags[tag]
        self.size_bytes -= _size_of(tag)

    def keys_of(self, tag: Group) -> list[str]:
        """Return the keys of the entries that have ``tag``. Visits all entries if the tag is common."""
        known = self._tags.get(tag)
        if known is None:
            return []
        shared, keys = known
        if not isinstance(keys, int):
            return list(keys_in(keys))
        found = [key for key, entry in self._entries.items() if tag in entry.groups]
        if found and not self._is_common(len(found)):
            again: Keys = found[0] if len(found) == 1 else dict.fromkeys(found)
            self._tags[shared] = shared, again
            self.size_bytes += _size_of_keys(again)
        return found

    def clear(self) -> None:
        """Forget all entries."""
        self._tags.clear()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._tags)


def with_key(keys: Keys | None, key: str) -> Keys:
    """Return ``keys`` with ``key`` in it."""
    if keys is None:
        return key
    if isinstance(keys, str):
        return {keys: None, key: None}
    keys[key] = None
    return keys


def without_key(keys: Keys, key: str) -> Keys | None:
    """Return ``keys`` without ``key``, maybe another object, or None if no key is left."""
    if isinstance(keys, str):
        return None
    del keys[key]
    if not keys:
        return None
    # A dict keeps its room when its keys go: it would take these bytes, and a walk would cost their number.
    is_sparse = sys.getsizeof(keys) > _SPARSE_BYTES + _SPARSE_KEY_BYTES * len(keys)
    return dict.fromkeys(keys) if is_sparse else keys


def keys_in(keys: Keys) -> Iterable[str]:
    """Return each of ``keys``."""
    return (keys,) if isinstance(keys, str) else keys


def _size_of_keys(keys: Keys) -> int:
    return 0 if isinstance(keys, str) else _KEY_BYTES * len(keys)


def _size_of(group: Group) -> int:
    return _GROUP_BYTES + sys.getsizeof(group.value)
