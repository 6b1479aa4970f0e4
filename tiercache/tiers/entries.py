"""Entries as a person sees them: where an entry is, how large and how old it is, and how long it stays."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..engine.call import Call
from ..engine.entries.entry import names_of_tags
from ..engine.entries.rules import TierRules, UndecodableError
from ..engine.operations.entry_look import EntryLooks, Found
from .values.codec import EntryCodec

__all__ = ["Entries", "Entry", "Names"]


class Names(NamedTuple):
    """The names of an entry. Attributes as for ``Entry``."""

    group: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the llm tier, the tool tier or a kv tier, at the moment at which the cache looked at it.

    Attributes:
        key: The key in Valkey, as results have it.
        tier: The name of the tier: "llm", "tool", "kv", or the name given to ``AgentCache.tier``.
        group: The model of an answer, or the tool of a result. None for kv, and for an answer that cannot be read.
        name: The key of a kv value as the caller wrote it. None for llm and tool, whose keys are hashes.
        exists: Whether either level has the entry.
        in_l1: Whether L1 of this process has a copy that lookups get.
        in_l2: Whether Valkey has the entry.
        size_bytes: Bytes in Valkey, as they are stored; of an entry in L1 alone, bytes that it takes there; 0 for none.
        ttl: Seconds that the entry has left in Valkey; inf without an end. None if Valkey has no entry.
        l1_ttl: Seconds that L1 keeps its copy; inf without an end. None if L1 has no copy.
        age: Seconds since the entry was stored, or None if that is not known: the bytes of a kv entry do not have it.
        cost: Dollars that it cost to make the value, or None.
        tags: The tags, as far as the entry lists them.
        is_compressed: Whether the entry as a whole is compressed in Valkey.
        is_readable: Whether this process can read the entry in Valkey. Lookups treat another entry as a miss.
    """

    key: str
    tier: str
    group: str | None
    name: str | None
    exists: bool
    in_l1: bool
    in_l2: bool
    size_bytes: int
    ttl: float | None
    l1_ttl: float | None
    age: float | None
    cost: float | None
    tags: tuple[str, ...]
    is_compressed: bool
    is_readable: bool


class Entries:
    """The entries of one tier, as records.

    Args:
        names_of: Returns the names of an entry from its key and its value, which is None if it cannot be read.
    """

    def __init__(self, looks: EntryLooks, rules: TierRules, names_of: Callable[[str, Any], Names]) -> None:
        self._looks = looks
        self._rules = rules
        self._names_of = names_of

    async def scan(self, pattern: str) -> AsyncIterator[Entry]:
        """Yield the entries whose keys match ``pattern``. Errors as for ``EntryLooks.pages``."""
        async for page in self._looks.pages(pattern):
            for found in page:
                yield self._record(found)

    async def one(self, call: Call) -> Entry:
        """Return the entry of ``call``. Errors as for ``EntryLooks.one``."""
        return self._record(await self._looks.one(call))

    def _record(self, found: Found) -> Entry:
        """Return the record of an entry, or of a key without one."""
        stored, kept = found.stored, found.kept
        data = None if stored is None else stored.value
        value, tags, is_compressed, is_readable = self._read(data)
        if kept is not None:
            value = kept.value
            tags = tuple(dict.fromkeys(names_of_tags(kept.groups) + tags))
        size_bytes = 0 if kept is None else kept.size_bytes
        return Entry(
            found.key,
            self._rules.tier,
            *self._names_of(found.key, value),
            exists=stored is not None or kept is not None,
            in_l1=kept is not None,
            in_l2=stored is not None,
            size_bytes=size_bytes if data is None else len(data),
            ttl=None if stored is None else math.inf if stored.ttl is None else stored.ttl,
            l1_ttl=None if kept is None else kept.deadline - found.now,
            age=_age(found, value),
            cost=None if value is None else value.cost,
            tags=tags,
            is_compressed=is_compressed,
            is_readable=is_readable or stored is None,
        )

    def _read(self, data: bytes | None) -> tuple[Any, tuple[str, ...], bool, bool]:
        """Return the value in ``data`` or None, the tags, whether it is compressed, and whether it can be read."""
        if data is None:
            return None, (), False, False
        codec = self._rules.codec
        assert isinstance(codec, EntryCodec)
        is_compressed = codec.is_compressed(data)
        try:
            decoded = codec.decode(data)
        except UndecodableError:
            return None, (), is_compressed, False
        return decoded.value, decoded.tags, is_compressed, True


def _age(found: Found, value: Any) -> float | None:
    kept = found.kept
    if kept is not None and kept.stored_at != -math.inf:
        return max(0.0, found.now - kept.stored_at)
    if value is None or value.stored_at == -math.inf:
        return None
    return max(0.0, found.wall - float(value.stored_at))
