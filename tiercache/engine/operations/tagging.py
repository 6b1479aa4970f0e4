"""Tags of hits: a call with tags that hits an entry without them adds them to the entry before it returns.

    the entry has all tags ──────────────────────────────> nothing to do: a hit costs nothing more
    a tag is missing ──> read the stored bytes
                              │ a value: replace it by the same value with more tags, if it is still there.
                              │          The key joins the indexes of the tags first. The expiry stays.
                              └ nothing, or a refusal, or no answer: the caller must load

A tag holds from the step in which Valkey adds the key to the index: an invalidation of the tag that looks at the index
later finds the entry. An invalidation that looked earlier came before the tag.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Final

from ...errors import L2CommandError, TierCacheError
from ..call import Call
from ..coherence.placeholders import is_placeholder
from ..entries.entry import Entry, Group
from ..entries.lookup import Lookup
from ..entries.rules import UndecodableError
from ..level2.queued_write import ignore_outcome
from ..level2.writes import INDEX_MARGIN, Release, Run, WriteSet
from ..memory.flights import Flight
from ..runtime.l2 import L2
from ..runtime.runtime import Runtime

__all__ = ["Tagging"]

# Another process may replace the bytes between the read and the write of an attempt.
_ATTEMPTS: Final = 10
# Seconds by which the longest pause before an attempt grows with each attempt.
_PAUSE: Final = 0.002


class Tagging:
    """The tags of one call, and the entry that the call has found."""

    def __init__(self, runtime: Runtime, call: Call) -> None:
        self._runtime = runtime
        self._call = call

    async def holds(self, lookup: Lookup) -> bool:
        """Return whether the entry of ``lookup`` has all tags of the call, adding missing tags to a cached entry.

        A loaded value is stored with the tags of all calls that have waited for it.

        Returns:
            False if the entry cannot get the tags: the caller must load.
        """
        entry = lookup.entry
        if entry is None or lookup.source == "loader" or not self._missing_in(entry):
            return True
        # One caller at a time adds tags to a key: of two that read the same bytes, only one could replace them.
        async with self._runtime.tag_locks.alone(self._call.key):
            # Another caller that hit the same entry may have added them in the meantime.
            missing = self._missing_in(entry)
            if not missing:
                return True
            try:
                is_done = await self._add(missing)
            except TierCacheError as error:
                self._runtime.log_refusal(error)
                return False
            if is_done:
                self._runtime.l1.add_tags(self._call.key, entry, missing)
            return is_done

    def join(self, flight: Flight) -> None:
        """Add the tags of the call, which waits for ``flight``, to the load, and the key to their indexes at once.

        An invalidation in another process then finds the load by the index, and takes its right to store. The fill
        repeats the additions.
        """
        call, l2 = self._call, self._runtime.l2
        added = flight.add_tags(call.tag_indexes) if call.tags else ()
        if added and call.rules.lease and isinstance(l2, L2):
            l2.leases.add_indexes(call.key, added, call.expected_ttl)

    def _missing_in(self, entry: Entry) -> tuple[Group, ...]:
        return tuple([tag for tag in self._call.tags if tag not in entry.groups])

    async def _add(self, tags: tuple[Group, ...]) -> bool:
        """Add ``tags`` to the entry in Valkey; return whether the entry has them now."""
        l2, codec, key = self._runtime.l2, self._call.rules.codec, self._call.key
        assert isinstance(l2, L2)
        of_tags = self._call.tag_indexes
        indexes = tuple([of_tags[tag] for tag in tags])
        names = tuple([tag.value for tag in tags])
        for attempt in range(_ATTEMPTS):
            # Two processes in step could take turns in replacing the bytes that the other has read.
            await asyncio.sleep(random.uniform(0, attempt * _PAUSE))
            if l2.pipe.is_writing(key):
                # Valkey may hold an older value than the one in the queue.
                await l2.pipe.flush()
            stored = await l2.level2.get(key)
            if stored is None or stored.value is None or is_placeholder(stored.value):
                return False
            try:
                data = codec.add_tags(stored.value, names)
            except UndecodableError:
                return False
            # A server that evicts may lose the entry and the index of the tag: then no invalidation announces the key,
            # so no other process may keep a copy without the tag.
            announced = await l2.eviction.may_evict()
            write = WriteSet(
                key, data, stored.ttl, stored.value, indexes=indexes, announced=announced, keeps_expiry=True
            )
            is_written, life = await l2.pipe.write_all(
                [(write, partial(self._note_refusal, l2, data)), (Run(("PTTL", key)), ignore_outcome)]
            )
            # Another client may have given the entry a longer life since the read: the indexes must live longer too.
            if is_written and _is_covered(life, stored.ttl):
                return True
        return False

    def _note_refusal(self, l2: L2, data: bytes, outcome: object) -> None:
        """Remove the entry if an index has refused the key: its readers would take the key for indexed."""
        if isinstance(outcome, L2CommandError):
            l2.pipe.post(Release(self._call.key, data))


def _is_covered(life: int, ttl: float | None) -> bool:
    """Return whether indexes that were written for ``ttl`` seconds outlive an entry that has ``life`` ms left."""
    return ttl is None or (life != -1 and life / 1000 <= ttl + INDEX_MARGIN / 2)
