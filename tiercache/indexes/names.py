"""Indexes: which keys belong to a tool, a model or a tag, for those who remove them together.

    {name}:__tc:idx:{kind}:{value}      sorted set of full keys, scored by the millisecond of the last write
    {name}:__tc:indexed                 there while every entry of the tools, models and threads is in its index
    {name}:__tc:indexing                set of claims, by whoever is looking whether that is so
    {name}:__tc:others                  there for a while after another software's marker was found

``%`` and ``:`` of the value are percent-encoded. A tag may be given to an entry of any tier but the sessions'. A
thread's index is its hash (session_place).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from ..engine.entries.entry import Group
from ..engine.level2.writes import Command
from ..engine.operations.invalidate import Index
from ..errors import UsageError
from ..text import check_text, encode_id
from .scripts import index_script

__all__ = ["IndexNames", "index_key", "index_of", "indexes_of", "tag_groups"]

_KINDS: Final = frozenset({"tool", "model", "tag"})


class IndexNames(NamedTuple):
    """The keys by which it is known whether a cache's indexes are complete, in the order of the scripts."""

    flag: str
    claims: str
    trace: str

    @classmethod
    def of(cls, name: str) -> IndexNames:
        """Return those of the cache ``name``."""
        return cls(f"{name}:__tc:indexed", f"{name}:__tc:indexing", f"{name}:__tc:others")

    def command(self, script: str, *args: str | int) -> Command:
        """Return the command that runs the script ``index_{script}``."""
        return ("EVAL", index_script(script), len(self), *self, *args)


def index_key(name: str, group: Group) -> str:
    """Return the key of the index of ``group`` in the cache ``name``."""
    return f"{name}:__tc:idx:{group.kind}:{encode_id(group.value)}"


def index_of(name: str, group: Group) -> Index:
    """Return the index of ``group``, a tool or a model."""
    return Index(index_key(name, group), IndexNames.of(name).command("ask", name))


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
