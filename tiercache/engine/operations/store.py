"""Explicit stores: a value that wins over every load in progress, kept in L1 once Valkey has acknowledged it."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import L2CommandError, L2UnavailableError
from ..call import Call, Loaded
from ..engine import Engine
from ..entries.entry import Entry, names_of_tags
from ..level2.writes import Release, WriteSet
from ..runtime.runtime import Runtime
from .change import KeyChange
from .invalidate import Invalidations

__all__ = ["StoreChange", "Stores", "store_change"]


class Stores:
    """The explicit stores of one cache."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._invalidations = Invalidations(engine)

    async def store(self, call: Call, loaded: Loaded) -> float | None:
        """Write a value; return its lifetime in seconds once Valkey has acknowledged it, or None for no expiry.

        The value wins over every load in progress. Where the tier writes behind, this returns when the write is
        queued and raises nothing: a failure is counted as ``write_errors``.

        Where the tier or tool is disabled at run time, this removes the older value and keeps nothing.

        Raises:
            L2UnavailableError: The write may or may not have happened; L1 no longer has the key. With
                ``TierOptions.on_error`` "degrade" this is counted and not raised.
            L2CommandError: Valkey refused the write.
        """
        runtime = self._engine.open_runtime() or await self._engine.open()
        if runtime.switches.are_off(call.groups):
            # Once the tier is enabled again, no lookup may find the value from before this store.
            await self._invalidations.key(call.key)
            return None
        # Two faces have two queues, and so no order among their stores behind: with both in use, stores wait.
        pipe, is_behind = runtime.l2.pipe, call.rules.writes_behind and runtime.face.is_alone
        size_bytes = len(call.key) + len(loaded.data)
        if not pipe.has_room(size_bytes, is_behind=is_behind):
            await pipe.wait_room(size_bytes, is_behind=is_behind)
            is_behind = is_behind and runtime.face.is_alone
        change = store_change(call, loaded, runtime, is_behind=is_behind)
        change.begin()
        if is_behind:
            pipe.store_behind(change.write, change.done)
        else:
            try:
                await pipe.submit(change.write, change.done)
            except L2UnavailableError as error:
                _swallow(call, error, runtime)
        return change.write.ttl

    async def store_many(self, pairs: Sequence[tuple[Call, Loaded]]) -> None:
        """Write values as ``store`` does, queued together, sent in batches and awaited.

        Raises:
            L2UnavailableError: Some of the writes may have happened; L1 keeps the values that Valkey acknowledged.
            L2CommandError: Valkey refused one write. The others are done.
        """
        runtime = await self._engine.open()
        if pairs and runtime.switches.are_off(pairs[0][0].groups):
            await self._invalidations.keys([call.key for call, _ in pairs])
            return
        pipe = runtime.l2.pipe
        await pipe.wait_room(sum(len(call.key) + len(loaded.data) for call, loaded in pairs))
        changes = [store_change(call, loaded, runtime) for call, loaded in pairs]
        for change in changes:
            change.begin()
        try:
            await pipe.write_all([(change.write, change.done) for change in changes])
        except L2UnavailableError as error:
            for call, _ in pairs:
                _swallow(call, error, runtime)


class StoreChange(KeyChange, kw_only=True, eq=False):
    """The change that an explicit store makes: after the second drop L1 keeps the value.

    Attributes:
        call: The call that stores.
        entry: The entry for L1.
        write: The write to queue between ``begin`` and ``done``.
    """

    call: Call
    entry: Entry
    write: WriteSet

    def done(self, outcome: object) -> None:
        runtime, call, fence = self.runtime, self.call, self.fence
        assert fence is not None
        # Another process may have changed the key after this write: its message may arrive before this answer does.
        is_latest = runtime.fences.allow(fence)
        KeyChange.done(self, outcome)
        if isinstance(outcome, L2CommandError) and self.write.indexes:
            # An index may have refused the key although Valkey took the value: no group operation would find it.
            runtime.l2.pipe.post(Release(self.key, self.write.value))
        if not isinstance(outcome, Exception):
            if is_latest and call.rules.l1:
                runtime.l1.put(self.key, self.entry)
            if runtime.l2.level2 is None and not call.rules.l1:
                return  # Neither level keeps the value.
            call.counters.stored_bytes += len(self.write.value)
            runtime.hooks.store(self.key, call.groups, len(self.write.value), self.write.ttl)


class StoreBehindChange(StoreChange, kw_only=True, eq=False):
    """The change of a store whose caller does not wait: reads find the value from ``begin`` on.

    The write must be queued before the next await.
    """

    def begin(self) -> int:
        count = KeyChange.begin(self)
        runtime, fence = self.runtime, self.fence
        assert fence is not None
        runtime.l2.behind.add(self.entry, fence)
        if self.call.rules.l1 and runtime.fences.allow(fence):
            runtime.l1.put(self.key, self.entry)
        return count

    def done(self, outcome: object) -> None:
        StoreChange.done(self, outcome)
        runtime, call, fence = self.runtime, self.call, self.fence
        assert fence is not None
        is_last = runtime.l2.behind.answered(fence)
        if isinstance(outcome, Exception):
            call.counters.write_errors += 1
            runtime.hooks.error("l2.store", outcome)
            runtime.log.warn_once("a stored value did not reach Valkey (counted as write_errors): %s", outcome)
            if is_last:
                # The value that Valkey still has is older than the one that the caller has stored.
                runtime.l2.pending.remove(call.key, outcome)


def store_change(call: Call, loaded: Loaded, runtime: Runtime, *, is_behind: bool = False) -> StoreChange:
    """Return the change that stores ``loaded`` for ``call``."""
    rules, key, now = call.rules, call.key, runtime.now()
    lifetime = rules.lifetime(loaded.ttl, call.ttl)
    entry = call.entry(loaded.value, lifetime, runtime.clock, since=now, began=now, tags=call.tags)
    data = rules.codec.pack(loaded.data, names_of_tags(call.tags))
    write = WriteSet(key, data, lifetime, indexes=call.indexes, announced=True)
    kind = StoreBehindChange if is_behind else StoreChange
    return kind(runtime, key, call.all_groups, call=call, entry=entry, write=write)


def _swallow(call: Call, error: L2UnavailableError, runtime: Runtime) -> None:
    """Count the error of a store if the tier wants no error, and raise it otherwise."""
    if call.rules.on_error != "degrade":
        raise error
    call.counters.write_errors += 1
    runtime.log.warn_once("a stored value did not reach Valkey (counted as write_errors): %s", error)
    # The value that Valkey still has is older than the one that the caller has stored.
    runtime.l2.pending.remove(call.key, error)
