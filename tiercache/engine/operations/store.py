"""Explicit stores: a value that wins over every load in progress, kept in L1 once Valkey has acknowledged it."""

from __future__ import annotations

from collections.abc import Sequence

from ..call import Call, Loaded
from ..engine import Engine
from ..level2.writes import WriteSet
from ..runtime.runtime import Runtime
from .change import KeyChange

__all__ = ["StoreChange", "Stores"]


class Stores:
    """The explicit stores of one cache."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def store(self, call: Call, loaded: Loaded) -> float | None:
        """Write a value; return its lifetime in seconds once Valkey has acknowledged it, or None for no expiry.

        The value wins over every load in progress. Where the tier writes behind, this returns when the write is
        queued and raises nothing: a failure is counted as ``write_errors``.

        Raises:
            L2UnavailableError: The write may or may not have happened; L1 no longer has the key.
            L2CommandError: Valkey refused the write.
        """
        runtime = self._engine.open_runtime() or await self._engine.open()
        pipe, is_behind = runtime.l2.pipe, call.policy.writes_behind
        size_bytes = len(call.key) + len(loaded.data)
        if not pipe.has_room(size_bytes, is_behind=is_behind):
            await pipe.wait_room(size_bytes, is_behind=is_behind)
        change = StoreChange(runtime, call, loaded, is_behind=is_behind)
        change.begin()
        if is_behind:
            pipe.store_behind(change.write, change.done)
        else:
            await pipe.submit(change.write, change.done)
        return change.write.ttl

    async def store_many(self, pairs: Sequence[tuple[Call, Loaded]]) -> None:
        """Write values as ``store`` does, queued together, sent in batches and awaited.

        Raises:
            L2UnavailableError: Some of the writes may have happened; L1 keeps the values that Valkey acknowledged.
            L2CommandError: Valkey refused one write. The others are done.
        """
        runtime = await self._engine.open()
        pipe = runtime.l2.pipe
        await pipe.wait_room(sum(len(call.key) + len(loaded.data) for call, loaded in pairs))
        changes = [StoreChange(runtime, call, loaded) for call, loaded in pairs]
        for change in changes:
            change.begin()
        await pipe.write_all([(change.write, change.done) for change in changes])


class StoreChange(KeyChange):
    """The change that an explicit store makes.

    Args:
        is_behind: Whether reads find the value from ``begin`` on. The write must be queued before the next await.

    Attributes:
        write: The write to queue between ``begin`` and ``done``.
    """

    __slots__ = ("_call", "_entry", "_is_behind", "write")

    def __init__(self, runtime: Runtime, call: Call, loaded: Loaded, *, is_behind: bool = False) -> None:
        super().__init__(runtime, (call.key,), call.groups)
        policy = call.policy
        lifetime = policy.lifetime(loaded.ttl, call.ttl)
        now = runtime.now()
        self._call = call
        self._entry = call.entry(loaded.value, lifetime, runtime.clock, since=now, began=now)
        self._is_behind = is_behind
        data = policy.codec.pack(loaded.data)
        self.write = WriteSet(call.key, data, lifetime, indexes=call.indexes, announced=True)

    def begin(self) -> int:
        count = super().begin()
        if self._is_behind:
            (fence,) = self.fences
            self._runtime.l2.behind.add(self._entry, fence)
            if self._call.policy.l1 and self._runtime.fences.allow(fence):
                self._runtime.l1.put(fence.key, self._entry)
        return count

    def done(self, outcome: object) -> None:
        runtime, call, (fence,) = self._runtime, self._call, self.fences
        # Another process may have changed the key after this write: its message may arrive before this answer does.
        is_latest = runtime.fences.allow(fence)
        super().done(outcome)
        is_last = self._is_behind and runtime.l2.behind.answered(fence)
        if isinstance(outcome, Exception):
            if self._is_behind:
                self._lost(outcome, is_last=is_last)
            return
        call.counters.stored_bytes += len(self.write.value)
        if call.policy.l1 and is_latest:
            runtime.l1.put(fence.key, self._entry)

    def _lost(self, error: Exception, *, is_last: bool) -> None:
        """Count a store whose caller does not wait for it and whose write has failed."""
        runtime, call = self._runtime, self._call
        call.counters.write_errors += 1
        runtime.log.warn_once("a stored value did not reach Valkey (counted as write_errors): %s", error)
        if is_last:
            # The value that Valkey still has is older than the one that the caller has stored.
            runtime.l2.pending.remove(call.key, error)
