"""The names of the indexes in Valkey, and of the keys that record whether the indexes are complete.

    {name}:__tc:idx:{kind}:{value}      sorted set of full keys, scored by the millisecond of the last write; lives a
                                        minute longer than the entries in it
    {name}:__tc:indexes                 register of the indexes, so that any process of the cache trims them
    {name}:__tc:evicted                 flag: the server evicts keys, or has done so, and may have evicted an index
    {name}:__tc:indexed                 flag: exists while every entry of tools, models and threads is in its index
    {name}:__tc:indexing                set of claims, one for each process that is checking all entries
    {name}:__tc:others                  trace: exists for a while after a process found another software's marker

``kind`` is tool, model or tag; ``%`` and ``:`` in ``value`` are percent-encoded. Entries of every tier except the
session tier may have tags. The index of a thread is the thread's own hash (``tiers/session/key.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from ..engine.entries.entry import Group
from ..engine.level2.writes import Command
from ..engine.operations.invalidate import Index
from ..errors import UsageError
from ..text import check_name, encode_id
from .scripts import index_script

__all__ = [
    "IndexNames",
    "evicted_key",
    "index_key",
    "index_of",
    "indexes_of",
    "kv_prefixes",
    "tag_groups",
    "tag_index_of",
]

_KINDS: Final = frozenset({"tool", "model"})


class IndexNames(NamedTuple):
    """The keys that record whether the indexes of a cache are complete, in the order of the scripts.

    Attributes:
        flag: Exists while the indexes are complete.
        claims: The claims of the processes that are checking all entries.
        trace: Exists for a while after a process found another software's marker.
    """

    flag: str
    claims: str
    trace: str

    @classmethod
    def of(cls, name: str) -> IndexNames:
        """Return the keys of the cache ``name``."""
        return cls(f"{name}:__tc:indexed", f"{name}:__tc:indexing", f"{name}:__tc:others")

    def command(self, script: str, *args: str | int) -> Command:
        """Return the command that runs the script ``index_{script}`` on these keys."""
        return ("EVAL", index_script(script), len(self), *self, *args)


def kv_prefixes(name: str) -> tuple[str, ...]:
    """Return the prefixes of the entries of all kv tiers of the cache ``name``: without a scope, and with one."""
    return (f"{name}:__tc:kv:", f"{name}:__tc:kvs:")


def index_key(name: str, group: Group) -> str:
    """Return the key of the index of ``group`` in the cache ``name``."""
    return f"{name}:__tc:idx:{group.kind}:{encode_id(group.value)}"


def index_of(name: str, group: Group) -> Index:
    """Return the index of ``group``, a tool or a model."""
    return Index(index_key(name, group), IndexNames.of(name).command("ask", name))


def evicted_key(name: str) -> str:
    """Return the key of the flag that the server may have evicted an index of the cache ``name``."""
    return f"{name}:__tc:evicted"


def tag_index_of(name: str, group: Group) -> Index:
    """Return the index of ``group``, a tag. Other software writes no tags, so the index lacks no entry of theirs."""
    return Index(index_key(name, group), ("EXISTS", evicted_key(name)), complete_reply=0)


@lru_cache(maxsize=4096)
def indexes_of(name: str, groups: tuple[Group, ...]) -> tuple[str, ...]:
    """Return the keys of the indexes of the models and tools among ``groups``."""
    return tuple(index_key(name, group) for group in groups if group.kind in _KINDS)


def tag_groups(tags: Iterable[str]) -> tuple[Group, ...]:
    """Return the groups of entries with ``tags``.

    Raises:
        UsageError: ``tags`` is no sequence of names, or a name is empty or too long.
    """
    # A str is a sequence of str too, but a caller that passes a str means a single tag.
    if isinstance(tags, str) or not isinstance(tags, Sequence | set | frozenset):
        raise UsageError(f"tags must be a sequence of names, not {type(tags).__name__}")
    names = dict.fromkeys(check_name(tag, "a tag") for tag in tags)
    return tuple(Group("tag", name) for name in names)
