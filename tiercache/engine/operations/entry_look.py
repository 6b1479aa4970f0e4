"""Looks at entries in both levels, of one key or of all keys that match a pattern. They count and change nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from ..call import Call
from ..coherence.placeholders import is_placeholder
from ..engine import Engine
from ..entries.entry import MATCHING, Entry, Group
from ..entries.rules import TierRules
from ..level2.level2 import Stored
from ..runtime.l2 import L2
from ..runtime.runtime import Runtime
from .invalidate import is_text
from .key_scan import distinct_pages

__all__ = ["EntryLooks", "Found"]

# Entries that are read at once: large values must fit into the deadline of one exchange.
_READ_COUNT: Final = 50


class Found(NamedTuple):
    """A key, as both levels have it at one moment.

    Attributes:
        stored: The value in Valkey and its remaining lifetime. None if there is no value, or it must not be read.
        kept: The copy in L1 that a lookup gets, or None.
        now: The monotonic second of the look.
        wall: The second of the look, since the epoch.
    """

    key: str
    stored: Stored | None
    kept: Entry | None
    now: float
    wall: float


class _Look:
    """A look from one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def found(self, key: str, stored: Stored | None) -> Found:
        """Return ``key`` as L1 has it now, and Valkey had it in ``stored``."""
        l1, now = self._runtime.l1, self._runtime.now()
        if stored is not None and stored.value is not None and is_placeholder(stored.value):
            stored = None
        kept = l1.peek(key)
        if kept is not None and (now >= kept.deadline or not l1.trusts(kept.began, now)):
            kept = None
        return Found(key, stored, kept, now, self._runtime.clock.wall())


class EntryLooks:
    """The looks at the entries of one tier.

    Raises:
        L2UnavailableError: Valkey did not answer; any method may raise this.
        L2CommandError: Valkey refused a command; any method may raise this.
    """

    def __init__(self, engine: Engine, rules: TierRules) -> None:
        self._engine = engine
        self._rules = rules

    async def one(self, call: Call) -> Found:
        """Return the entry of ``call``."""
        runtime = await self._engine.open()
        l2, stored = runtime.l2, None
        if isinstance(l2, L2) and not l2.pending.covers(call.key, call.all_groups):
            runtime.breaker.check_allowed()
            stored = await l2.level2.get(call.key)
        return _Look(runtime).found(call.key, stored)

    async def pages(self, pattern: str) -> AsyncIterator[list[Found]]:
        """Yield the entries whose keys match ``pattern``, in pages.

        An entry that exists throughout is yielded; an entry that comes or goes during the scan may be.
        """
        runtime = await self._engine.open()
        l2, look = runtime.l2, _Look(runtime)
        if not isinstance(l2, L2):
            kept = runtime.l1.keys_of_group(Group(MATCHING, pattern), runtime.now())
            for start in range(0, len(kept), _READ_COUNT):
                found = [look.found(key, None) for key in kept[start : start + _READ_COUNT]]
                yield [each for each in found if each.kept is not None]
            return
        runtime.breaker.check_allowed()
        # Values that are still queued are entries too.
        await l2.pipe.flush()
        async for page in distinct_pages(l2.level2, pattern):
            keys = [key.decode() for key in page if is_text(key)]
            for start in range(0, len(keys), _READ_COUNT):
                chunk = [
                    key for key in keys[start : start + _READ_COUNT] if not l2.pending.covers(key, (self._rules.group,))
                ]
                values = await l2.level2.get_many(chunk) if chunk else []
                found = [look.found(key, stored) for key, stored in zip(chunk, values, strict=True)]
                yield [each for each in found if each.stored is not None]
