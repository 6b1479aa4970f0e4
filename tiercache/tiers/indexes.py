"""Indexes: which keys belong to a tool, a model or a tag, for those who remove them together.

    {name}:__tc:idx:{kind}:{value}      sorted set of full keys, scored by the millisecond of the last write

``%`` and ``:`` of the value are percent-encoded. A tag may be given to an entry of any tier but the sessions'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from ..engine.entry import Group
from ..errors import UsageError
from .session_place import check_text, encode_id

__all__ = ["index_key", "indexes_of", "tag_groups"]

_KINDS: Final = frozenset({"tool", "model", "tag"})


def index_key(name: str, group: Group) -> str:
    """Return the key of the index of ``group`` in the cache ``name``."""
    return f"{name}:__tc:idx:{group.kind}:{encode_id(group.value)}"


@lru_cache(maxsize=4096)
def indexes_of(name: str, groups: tuple[Group, ...]) -> tuple[str, ...]:
    """Return the keys of the indexes that an entry of ``groups`` belongs in."""
    return tuple(index_key(name, group) for group in groups if group.kind in _KINDS)


def tag_groups(tags: Iterable[str]) -> tuple[Group, ...]:
    """Return the groups of entries with ``tags``.

    Raises:
        UsageError: They are no sequence of names.
    """
    # A str is an iterable of str, and never what was meant.
    if isinstance(tags, str) or not isinstance(tags, Sequence | set | frozenset):
        raise UsageError(f"tags must be a sequence of names, not {type(tags).__name__}")
    names = dict.fromkeys(check_text(tag, "a tag") for tag in tags)
    if "" in names:
        raise UsageError("a tag must not be empty")
    return tuple(Group("tag", name) for name in names)
