"""The seams: the one module of the tests that reaches into the private parts of tiercache.

A test imports a named seam from here and does not write ``cache._engine...`` or ``monkeypatch.setattr(...)`` itself.
When a part of the package moves, this module changes and the tests stay. There are five kinds of seam:

1. **Hold**: ``HeldReads``, ``HeldWrites``, ``HeldReplies``, ``HeldPings``, ``HeldPositions`` stop a request or a reply
   between the cache and Valkey, so that a test can act at that moment. ``slow_writes`` delays every write.
2. **Record**: ``record_reads`` and ``record_writes`` list the requests that reach Valkey; ``refuse_commands`` lists
   commands and sends none.
3. **Lose**: ``LostReplies`` and ``fail_next_fill`` raise ``L2UnavailableError`` at a chosen write;
   ``cancel_loads_with_lease_reply`` cancels a load in the loop step of a reply.
4. **Look**: ``L1View`` shows L1; ``internals`` shows the runtime, leases, coherence and pending invalidations of a
   cache; ``PipeView``, ``BatchView`` and ``SessionView`` show a write pipe, a batch loader and the session tier.
5. **Remove a guard**: each ``without_...`` function disables one guard against a race. A test that passes with the
   guard must fail without it.

A seam that takes a ``monkeypatch`` lasts until the monkeypatch is undone: until the end of the test or of its
``context()``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import valkey

from tests.support import SEQUENCE, until
from tiercache import AgentCache, L2UnavailableError
from tiercache.engine.coherence.coherence import Coherence
from tiercache.engine.coherence.leases import Leases, is_placeholder
from tiercache.engine.entries.entry import Entry
from tiercache.engine.level2.breaker import Breaker
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Delete, Release, Run, TakeLease, Write, WriteSet
from tiercache.engine.memory.fences import Fences
from tiercache.engine.memory.flights import Flight
from tiercache.engine.operations.change import KeyChange
from tiercache.stores.valkey.store import ValkeyLevel2

__all__ = [
    "NOTHING_REGISTERED",
    "BatchView",
    "HeldPings",
    "HeldPositions",
    "HeldReads",
    "HeldReplies",
    "HeldWrites",
    "L1View",
    "LostReplies",
    "PipeView",
    "SessionView",
    "any_write",
    "cancel_loads_with_lease_reply",
    "caught_up",
    "changes_an_entry",
    "fail_next_fill",
    "in_l1",
    "internals",
    "position_of",
    "record_reads",
    "record_writes",
    "refuse_commands",
    "slow_writes",
    "without_awaited_check",
    "without_bar",
    "without_fences",
    "without_lease_wakeups",
    "without_overtaking",
    "without_second_drop",
    "without_write_check",
]


# Hold


class HeldReads:
    """Holds the replies to reads: Valkey has answered, and the value has not reached the cache.

    Args:
        method: The read of the second level to hold: ``get`` or ``get_many``.

    Attributes:
        answered: Set once Valkey has answered a read.
        release: Set by the test to let every reply through.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str = "get") -> None:
        self.answered = asyncio.Event()
        self.release = asyncio.Event()
        read = getattr(ValkeyLevel2, method)

        async def held(level2: ValkeyLevel2, keys: Any) -> Any:
            stored = await read(level2, keys)
            self.answered.set()
            await self.release.wait()
            return stored

        monkeypatch.setattr(ValkeyLevel2, method, held)


def changes_an_entry(write: Write) -> bool:
    """Return whether ``write`` changes an entry. Leases, announcements and the listing of a thread's fields do not."""
    if isinstance(write, Run):
        return "HKEYS" not in write.command
    return isinstance(write, WriteSet | Delete)


def any_write(write: Write) -> bool:
    """Return True."""
    return True


class HeldWrites:
    """Holds the batches that contain a chosen write, and so every batch behind them, before they reach Valkey.

    By default leases and announcements in earlier batches pass, so that a load can begin whose fill is then held.

    Args:
        chosen: Whether a write holds its batch.
        error: Raised on release instead of sending the batch, or None to send it.

    Attributes:
        sending: Set once a batch is held.
        release: Set by the test to let every batch through.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        chosen: Callable[[Write], bool] = changes_an_entry,
        *,
        error: Exception | None = None,
    ) -> None:
        self.sending = asyncio.Event()
        self.release = asyncio.Event()
        apply = ValkeyLevel2.apply

        async def held(level2: ValkeyLevel2, writes: Any) -> Any:
            if any(map(chosen, writes)):
                self.sending.set()
                await self.release.wait()
                if error is not None:
                    raise error
            return await apply(level2, writes)

        monkeypatch.setattr(ValkeyLevel2, "apply", held)


class HeldReplies:
    """Holds the replies to batches that contain a write of one of ``kinds``: Valkey has carried them out.

    Attributes:
        answered: Set once Valkey has carried out such a batch.
        release: Set by the test to let every reply through.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *kinds: type) -> None:
        self.answered = asyncio.Event()
        self.release = asyncio.Event()
        apply = ValkeyLevel2.apply

        async def held(level2: ValkeyLevel2, writes: Any) -> Any:
            outcomes = await apply(level2, writes)
            if any(isinstance(write, kinds) for write in writes):
                self.answered.set()
                await self.release.wait()
            return outcomes

        monkeypatch.setattr(ValkeyLevel2, "apply", held)


class HeldPings:
    """Holds the ping with which a cache opens its connection.

    Attributes:
        release: Set by the test to send every ping.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = asyncio.Event()
        ping = ValkeyLevel2.ping

        async def held(level2: ValkeyLevel2) -> None:
            await self.release.wait()
            await ping(level2)

        monkeypatch.setattr(ValkeyLevel2, "ping", held)


class HeldPositions:
    """Holds the reply to one cache's request for the number of the last change.

    Attributes:
        answered: Set once Valkey has answered.
        release: Set by the test to let the reply through.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: AgentCache) -> None:
        self.answered = asyncio.Event()
        self.release = asyncio.Event()
        level2 = internals(cache).unguarded_level2
        ask = level2.last_number

        async def held() -> int:
            number: int = await ask()
            self.answered.set()
            await self.release.wait()
            return number

        monkeypatch.setattr(level2, "last_number", held)


def slow_writes(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> None:
    """Delay every batch of writes by ``seconds``."""
    apply = ValkeyLevel2.apply

    async def slow(level2: ValkeyLevel2, writes: Any) -> Any:
        await asyncio.sleep(seconds)
        return await apply(level2, writes)

    monkeypatch.setattr(ValkeyLevel2, "apply", slow)


# Record


def record_reads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list to which each read of entries from Valkey appends its keys."""
    reads: list[list[str]] = []
    get, get_many = ValkeyLevel2.get, ValkeyLevel2.get_many

    async def recorded(level2: ValkeyLevel2, key: str) -> Any:
        reads.append([key])
        return await get(level2, key)

    async def recorded_many(level2: ValkeyLevel2, keys: Any) -> Any:
        reads.append(list(keys))
        return await get_many(level2, keys)

    monkeypatch.setattr(ValkeyLevel2, "get", recorded)
    monkeypatch.setattr(ValkeyLevel2, "get_many", recorded_many)
    return reads


def record_writes(monkeypatch: pytest.MonkeyPatch) -> list[list[Write]]:
    """Return a list to which each batch of writes is appended before it is sent."""
    batches: list[list[Write]] = []
    apply = ValkeyLevel2.apply

    async def recorded(level2: ValkeyLevel2, writes: Any) -> Any:
        batches.append(list(writes))
        return await apply(level2, writes)

    monkeypatch.setattr(ValkeyLevel2, "apply", recorded)
    return batches


def refuse_commands(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Send no command that bypasses the write pipe; return a list to which each is appended."""
    commands: list[Any] = []
    monkeypatch.setattr(ValkeyLevel2, "execute", lambda level2, sent: commands.append(sent))
    return commands


# Lose


class LostReplies:
    """Carries out each batch that contains a write of one of ``kinds``, and then raises ``L2UnavailableError``.

    A batch that contains a ``Release`` of ``kinds`` is not even sent.

    Attributes:
        is_on: Whether replies are lost; set to False by the test.
        lost: The writes whose replies were lost.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *kinds: type) -> None:
        self.is_on = True
        self.lost: list[Write] = []
        apply = ValkeyLevel2.apply

        async def lossy(level2: ValkeyLevel2, writes: Any) -> Any:
            concerned = [write for write in writes if self.is_on and isinstance(write, kinds)]
            self.lost += concerned
            if any(isinstance(write, Release) for write in concerned):
                raise L2UnavailableError("not even sent")
            outcomes = await apply(level2, writes)
            if concerned:
                raise L2UnavailableError("the reply was lost")
            return outcomes

        monkeypatch.setattr(ValkeyLevel2, "apply", lossy)


def fail_next_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise ``L2UnavailableError`` instead of sending the next batch that contains a value; send all other batches."""
    apply = ValkeyLevel2.apply
    failed: list[Write] = []

    async def failing(level2: ValkeyLevel2, writes: Any) -> Any:
        values = [write for write in writes if isinstance(write, WriteSet) and not is_placeholder(write.value)]
        if values and not failed:
            failed.extend(values)
            raise L2UnavailableError("not sent")
        return await apply(level2, writes)

    monkeypatch.setattr(ValkeyLevel2, "apply", failing)


def cancel_loads_with_lease_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel every load in the loop step in which the reply to its lease arrives, before the load runs again."""
    submit = WritePipe.submit

    def cancel() -> None:
        for task in asyncio.all_tasks():
            if task.get_name() == "tiercache-load":
                task.cancel()

    def submitted(pipe: WritePipe, write: Any, on_done: Any = None) -> Any:
        def done(outcome: Any) -> None:
            on_done(outcome)
            if isinstance(write, TakeLease):
                asyncio.get_running_loop().call_soon(cancel)

        return submit(pipe, write, done if on_done is not None else None)

    monkeypatch.setattr(WritePipe, "submit", submitted)


# Look


class L1View:
    """Shows the L1 of a cache, without the effects of a lookup."""

    def __init__(self, cache: AgentCache) -> None:
        self._l1: Any = cache._engine.l1
        self._now = cache._engine.now

    def entry(self, key: str) -> Entry | None:
        """Return the entry that L1 keeps under ``key``, served or not, or None."""
        entry: Entry | None = self._l1.peek(key)
        return entry

    def has(self, key: str) -> bool:
        """Return whether L1 keeps an entry under ``key``, served or not."""
        return self.entry(key) is not None

    def is_trusted(self, key: str) -> bool:
        """Return whether L1 keeps an entry under ``key`` that it would serve now, as far as trust goes."""
        entry = self.entry(key)
        return entry is not None and bool(self._l1.trusts(entry.began, self._now()))

    @property
    def trusted_until(self) -> float:
        """The monotonic second until which every entry is trusted."""
        return float(self._l1.trusted_until)

    def end_trust(self) -> None:
        """End the trust in L1: from now on an entry is trusted only for ``max_staleness`` after its read."""
        self._l1.trusted_until = -math.inf

    @property
    def entry_count(self) -> int:
        """The number of entries, expired entries included."""
        return int(self._l1.entry_count)

    @property
    def size_bytes(self) -> int:
        """The weight of the entries."""
        return int(self._l1.size_bytes)


def in_l1(cache: AgentCache, key: str) -> bool:
    """Return whether L1 keeps an entry under ``key``, served or not."""
    return L1View(cache).has(key)


class Registered(NamedTuple):
    """How many reads and loads a runtime has registered.

    Attributes:
        fences: Open fences: reads, loads and explicit writes in progress.
        flights: Flights that a caller could join.
        loads: Tasks that load.
    """

    fences: int
    flights: int
    loads: int


NOTHING_REGISTERED = Registered(0, 0, 0)


class Internals:
    """The parts of one opened cache on Valkey. Each member reads the part at the moment of the call."""

    def __init__(self, cache: AgentCache) -> None:
        self._engine: Any = cache._engine

    @property
    def _runtime(self) -> Any:
        runtime = self._engine.runtime
        assert runtime is not None, "the cache is not open"
        return runtime

    @property
    def _l2(self) -> Any:
        l2 = self._runtime.l2
        assert l2.level2 is not None, "the cache has no second level"
        return l2

    @property
    def registered(self) -> Registered:
        """The reads and loads in progress."""
        runtime = self._runtime
        return Registered(len(runtime.fences), len(runtime.flights._by_key), len(runtime._loading))

    def is_joinable(self, key: str) -> bool:
        """Return whether a caller would join a flight of ``key``."""
        return self._runtime.flights.joinable(key) is not None

    @property
    def breaker(self) -> Breaker:
        """The breaker in front of Valkey."""
        breaker: Breaker = self._runtime.breaker
        return breaker

    @property
    def unguarded_level2(self) -> Any:
        """The second level behind the breaker."""
        return self._l2.level2._level2

    # Coherence

    @property
    def coherence(self) -> Coherence:
        """The decisions over L1, fences and leases."""
        coherence: Coherence = self._l2.coherence
        return coherence

    def distrust(self) -> None:
        """End the trust in every entry that the cache keeps or loads, as after a missed announcement."""
        self.coherence.distrust("a test")

    @property
    def subscription(self) -> object:
        """The subscription to announcements, or None while there is none."""
        return self._l2.listener._subscription

    # Leases

    def is_lease_wanted(self, key: str) -> bool:
        """Return whether another process waits for the lease that this cache holds on ``key``."""
        return bool(self._l2.leases._held[key].is_awaited)

    @property
    def lease_waiter_count(self) -> int:
        """The number of keys for whose lease this cache waits."""
        return len(self._l2.leases._waiting)

    # Writes

    @property
    def has_pending_invalidations(self) -> bool:
        """Whether there is an invalidation that Valkey has not acknowledged."""
        return bool(self._l2.pending)

    @property
    def retry_task(self) -> asyncio.Task[None] | None:
        """The task that retries pending invalidations, or None if there is none."""
        task: asyncio.Task[None] | None = self._l2.pending._task
        return task

    async def retry_pending_invalidations(self) -> None:
        """Retry every pending invalidation now, without the pause."""
        await self._l2.pending._repeat_all()

    @property
    def write_behind_count(self) -> int:
        """The number of keys whose write-behind store Valkey has not acknowledged."""
        return len(self._l2.behind)


def internals(cache: AgentCache) -> Internals:
    """Return the parts of ``cache``, which must be open when they are looked at."""
    return Internals(cache)


async def caught_up(cache: AgentCache, plain: valkey.Valkey) -> None:
    """Return when ``cache`` has received the announcement of every change made up to now."""
    last = int(plain.get(SEQUENCE) or 0)
    coherence = internals(cache).coherence
    await until(lambda: position_of(coherence) >= last)


def position_of(coherence: Coherence) -> float:
    """Return the number of the last change that ``coherence`` has received, or -inf before the first subscription."""
    return -math.inf if coherence._position is None else coherence._position.number


class PipeView:
    """Shows the bookkeeping of a write pipe."""

    def __init__(self, pipe: WritePipe) -> None:
        self._pipe: Any = pipe

    @property
    def bookkeeping(self) -> tuple[int, dict[Any, int], dict[Any, int], dict[str, Any]]:
        """The queued bytes, writes by key, explicit writes by key, and unsent stores that a later store may replace."""
        pipe = self._pipe
        return pipe.queued_bytes, pipe._in_flight, pipe._explicit, pipe._unsent_stores._by_key

    @property
    def is_room_wanted(self) -> bool:
        """Whether a store waits for room in the queue, or has been admitted and not queued yet."""
        return bool(self._pipe._budget.is_awaited)


class BatchView:
    """Shows the batch that a batch loader collects."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    @property
    def size(self) -> int:
        """The number of calls in the batch, 0 if there is no batch."""
        return 0 if self.batch is None else len(self.batch._places)

    @property
    def batch(self) -> Any:
        """The batch, or None if there is no batch."""
        return self._loader._collecting

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task that calls the function for the batch, or None before the window ends."""
        task: asyncio.Task[Any] | None = self.batch._task
        return task

    @staticmethod
    def is_timer_cancelled(batch: Any) -> bool:
        """Return whether the window of ``batch`` no longer runs."""
        return bool(batch._timer.cancelled())


class SessionView:
    """Shows the memory of a session tier, on Valkey or in process memory alone."""

    def __init__(self, cache: AgentCache) -> None:
        self._session: Any = cache.session

    def use_thread(self, thread_id: str) -> None:
        """Note a use of a thread and of a field of the same name."""
        self._session._active.seen(thread_id, 0.0, math.inf)
        self._session._store._sliding.note(thread_id, 0.0, 10.0)

    @property
    def active_threads(self) -> list[str]:
        """The threads that count as active, the thread used longest ago first."""
        return list(self._session._active._ends)

    @property
    def sliding_count(self) -> int:
        """The number of fields whose renewal is remembered."""
        return len(self._session._store._sliding._known)

    @property
    def kept_counts(self) -> tuple[int, int, int]:
        """Of sessions in process memory: the fields as counted, the fields that are there, the threads."""
        store = self._session._store
        return store._count, sum(map(len, store._threads.values())), len(store._threads)


# Remove a guard


def without_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a change of a key or a group break no fence: reads and loads in progress keep the right to store."""
    monkeypatch.setattr(Fences, "break_key", lambda fences, key: None)
    monkeypatch.setattr(Fences, "break_group", lambda fences, group: None)
    monkeypatch.setattr(Fences, "written", Fences.close)


def without_overtaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a loaded value break no fence of older reads and loads of its key."""
    monkeypatch.setattr(Fences, "overtake", lambda fences, fence: None)


def without_second_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop a key from L1 before its change is sent, and not again once Valkey has acknowledged the change."""

    def close_fence(change: KeyChange, outcome: object) -> None:
        assert change.fence is not None
        change.runtime.fences.close(change.fence)

    monkeypatch.setattr(KeyChange, "done", close_fence)


def without_write_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a read fill L1 although a write of its key is queued or in flight."""
    monkeypatch.setattr(WritePipe, "is_writing", lambda pipe, key: False)


def without_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loads be stored while the source data of their key is being changed."""
    monkeypatch.setattr(Fences, "barred", lambda *_: nullcontext())


def without_lease_wakeups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wake no load that waits for a lease: it looks again only by itself."""
    monkeypatch.setattr(Leases, "wake", lambda leases, key: None)


def without_awaited_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a caller that leaves one key of a batch cancel the load, although callers wait for its other keys."""
    monkeypatch.setattr(Flight, "is_awaited", False)
