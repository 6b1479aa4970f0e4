"""Explicit stores: a value that wins over every load under way, written in its turn and kept in L1 when Valkey has it.

Another part of ``Engine``, whose helpers it uses.
"""

from __future__ import annotations

from msgspec import Struct

from ..call import Call, Loaded
from ..engine import Engine
from ..entries.entry import Entry
from ..level2.queued_write import OnDone
from ..level2.writes import WriteSet
from ..memory.fences import Fence
from ..runtime.l2 import L2
from ..runtime.runtime import Runtime

__all__ = ["store", "storing"]


async def store(engine: Engine, request: Call, fresh: Loaded) -> float | None:
    """Write a value; return its lifetime when Valkey has acknowledged it. It wins over every load under way.

    Where the tier writes behind it returns when the write is queued, and raises nothing: a failure is counted.

    Raises:
        L2UnavailableError: The write may or may not have happened; L1 no longer has the key.
        L2CommandError: Valkey refused it.
    """
    runtime = engine.open_runtime() or await engine.open()
    if runtime.l2 is None:
        write, keep = storing(engine, runtime, request, fresh)
        keep(1)
        return write.ttl
    pipe, is_behind = runtime.l2.pipe, request.policy.writes_behind
    size_bytes = len(request.key) + len(fresh.data)
    if not pipe.has_room(size_bytes, is_behind=is_behind):
        await pipe.wait_room(size_bytes, is_behind=is_behind)
    write, keep = storing(engine, runtime, request, fresh, is_behind=is_behind)
    if is_behind:
        pipe.store_behind(write, keep)
    else:
        await pipe.submit(write, keep)
    return write.ttl


def storing(
    engine: Engine, runtime: Runtime, request: Call, fresh: Loaded, *, is_behind: bool = False
) -> tuple[WriteSet, OnDone]:
    """Drop what is in L1 and return the write of a value, with what must be done when its outcome is known.

    Args:
        is_behind: Whether reads are to find the value from now on. It must be queued before the next await.
    """
    policy, key = request.policy, request.key
    data = policy.codec.pack(fresh.data)
    lifetime = policy.lifetime(fresh.ttl, request.ttl)
    now = engine.now()
    entry = engine.entry(policy, request, fresh.value, lifetime, since=now, began=now)
    engine.l1.drop(key)
    # A later change, by whomever, may be heard of before this write is answered.
    fence = runtime.fences.open_for_write(key, request.groups)
    if is_behind and runtime.l2 is not None:
        runtime.l2.behind.add(entry, fence)
        if policy.l1 and engine.may_keep(runtime, fence):
            engine.l1.put(key, entry)
    write = WriteSet(key, data, lifetime, indexes=request.indexes, announced=True)
    return write, _Stored(engine, runtime, request, fence, entry, len(data), is_behind)


class _Stored(Struct, eq=False):
    """What is done when the outcome of a store is known: an object, which costs less than a closure with its cells."""

    engine: Engine
    runtime: Runtime
    request: Call
    fence: Fence
    entry: Entry
    size_bytes: int
    is_behind: bool

    def __call__(self, outcome: int | Exception) -> None:
        engine, runtime, request = self.engine, self.runtime, self.request
        fence, l2 = self.fence, runtime.l2
        is_latest = engine.may_keep(runtime, fence)
        engine.written(runtime, fence)
        is_last = self.is_behind and l2 is not None and l2.behind.answered(fence)
        if isinstance(outcome, Exception):
            if self.is_behind and l2 is not None:
                _lost(engine, l2, request, outcome, is_last=is_last)
            return
        if l2 is not None:
            l2.pending.note((request.key,), outcome)
        request.counters.stored_bytes += self.size_bytes
        if request.policy.l1 and is_latest:
            engine.l1.put(request.key, self.entry)


def _lost(engine: Engine, l2: L2, request: Call, error: Exception, *, is_last: bool) -> None:
    """Take down that a store whose caller does not wait for it has failed."""
    request.counters.write_errors += 1
    engine.warn_once("A stored value did not reach Valkey (counted as write_errors): %s", error)
    if is_last:
        # What Valkey still has is older than what the caller knows to be stored.
        l2.pending.remove(request.key, error)
