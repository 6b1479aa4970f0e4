"""The seams: the one module of the tests that reaches into the private parts of tiercache.

A test imports a named seam from here and does not write ``cache._parts...`` or ``monkeypatch.setattr(...)`` itself.
When a part of the package moves, this module changes and the tests stay. There are six kinds of seam:

1. **Hold**: ``HeldReads``, ``HeldWrites``, ``HeldReplies``, ``HeldPings``, ``HeldNumbers``, ``HeldCommands`` stop a
   request or a reply between the cache and Valkey, so that a test can act at that moment. ``slow_writes`` delays every
   write.
2. **Record**: ``record_reads`` and ``record_writes`` list the requests that reach Valkey; ``refuse_commands`` lists
   commands and sends none.
3. **Lose**: ``LostReplies`` and ``fail_next_fill`` raise ``L2UnavailableError`` at a chosen write;
   ``cancel_loads_with_lease_reply`` cancels a load in the loop step of a reply.
4. **Look**: ``L1View`` shows L1; ``internals`` shows the runtime, leases, coherence and pending invalidations of a
   cache; ``PipeView``, ``BatchView`` and ``SessionView`` show a write pipe, a batch loader and the session tier.
5. **Act**: ``act_after_command`` and ``act_during_snapshot`` run code of the test at a chosen moment;
   ``set_intervals`` sets the pauses of the background worker.
6. **Remove a guard**: each ``without_...`` function disables one guard against a race. A test that passes with the
   guard must fail without it.

A seam that takes a ``monkeypatch`` lasts until the monkeypatch is undone: until the end of the test or of its
``context()``.
"""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import valkey
from opentelemetry import trace
from valkey.exceptions import ResponseError

from tests.support import until
from tiercache import AgentCache, L2UnavailableError, SyncCache, supervision
from tiercache.assembly import Assembly
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.coherence import listener
from tiercache.engine.coherence.coherence import Coherence
from tiercache.engine.coherence.leases import Leases
from tiercache.engine.coherence.listener import Listener
from tiercache.engine.coherence.pending_invalidations import PendingInvalidations
from tiercache.engine.coherence.placeholders import is_placeholder
from tiercache.engine.entries.counters import OperationCounters, TierCounters
from tiercache.engine.entries.entry import Entry
from tiercache.engine.entries.overrides import Switches
from tiercache.engine.hooks import calls as hook_calls
from tiercache.engine.level2.announcement import Announcement, Received, TrackedChange
from tiercache.engine.level2.breaker import Breaker
from tiercache.engine.level2.probe import Probe
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Delete, Release, Run, TakeLease, Write, WriteSet
from tiercache.engine.memory import pins
from tiercache.engine.memory.fences import Fences
from tiercache.engine.memory.flights import Flight
from tiercache.engine.operations import lease_search
from tiercache.engine.operations.change import KeyChange
from tiercache.engine.runtime import pin_reads
from tiercache.engine.runtime.face import Face
from tiercache.engine.runtime.pin_reads import PinReads
from tiercache.indexes import foreign_writes, reindex
from tiercache.indexes.reindex import Reindex
from tiercache.log import CacheLog
from tiercache.monitor import discovery, service
from tiercache.monitor.discovery import Discovery
from tiercache.monitor.service import MonitorService
from tiercache.monitor.statistics import StatsHash
from tiercache.portal.call import Call
from tiercache.portal.loop_thread import LoopThread
from tiercache.pricing import update
from tiercache.stores.valkey import backplane, messages, scripts, tracking
from tiercache.stores.valkey.backplane import ValkeySubscription
from tiercache.stores.valkey.commands import WriteCommands
from tiercache.stores.valkey.multiplexed import MultiplexedConnection
from tiercache.stores.valkey.pool import PlainConnection
from tiercache.stores.valkey.store import ValkeyLevel2
from tiercache.streams.recording import Recording
from tiercache.telemetry import otel
from tiercache.tiers.conversations.store import Conversations
from tiercache.tiers.items.store import ItemStore
from tiercache.tiers.keys import canonical_json
from tiercache.tiers.llm.exchanges import Exchanges
from tiercache.tiers.runtime_settings import SettingsTable
from tiercache.tiers.tool.policies import ToolPolicies, ToolPolicy
from tiercache.tiers.values import compression

__all__ = [
    "BACKGROUND_JOBS",
    "NOTHING_REGISTERED",
    "BatchView",
    "CountedCalls",
    "HeldCommands",
    "HeldNumbers",
    "HeldPings",
    "HeldReads",
    "HeldReplies",
    "HeldWrites",
    "JobDefect",
    "KnownKeysView",
    "L1View",
    "LostReplies",
    "PipeView",
    "RecordedWire",
    "SessionView",
    "StoreView",
    "TelemetryView",
    "act_after_command",
    "act_after_values",
    "act_before_sync_face",
    "act_before_thread",
    "act_before_tier",
    "act_during_snapshot",
    "any_write",
    "cancel_loads_with_lease_reply",
    "caught_up",
    "change_request_of_keys",
    "changes_an_entry",
    "check_deadline",
    "close_engine",
    "compression_library",
    "connections_in_use",
    "conversations_of",
    "count_exchanges",
    "deaf_to_announcements",
    "embedded_server",
    "end_in_silence",
    "exchanges_of",
    "fail_commands",
    "fail_next_fill",
    "fail_reads",
    "fail_results",
    "followed_recordings",
    "follower_count",
    "handed_over_count",
    "has_ended",
    "held_acceptance",
    "hide_compression_library",
    "hide_conditions",
    "hide_connection_end",
    "hide_embedded_extra",
    "idle_connections",
    "importing_compression_library_by",
    "in_l1",
    "inbox_count",
    "internals",
    "interrupt_following",
    "interrupt_next_call",
    "is_reset",
    "is_tracing",
    "items_of",
    "known_keys",
    "lose_command_replies",
    "monitor_intervals",
    "number_of",
    "pause_pings",
    "peer_remembers_nothing",
    "record_distrusts",
    "record_pings",
    "record_reads",
    "record_reports",
    "record_writes",
    "redirect_prices",
    "refuse_commands",
    "refuse_loader_threads",
    "refuse_spans",
    "remember_no_broken_connections",
    "replace_public",
    "replace_reads",
    "results_of_driver",
    "run_dir_of",
    "set_intervals",
    "set_lease_polls",
    "set_pin_limits",
    "set_tracking_room",
    "shared_connection",
    "slow_writes",
    "stored_args",
    "tier_counters",
    "transport_of",
    "unread_bytes",
    "unsent_bytes",
    "waiter_count",
    "weak_references",
    "without_awaited_check",
    "without_bar",
    "without_exact_json_check",
    "without_fences",
    "without_hand_over",
    "without_hook_mark",
    "without_lease_wakeups",
    "without_looks_at_other_face",
    "without_overtaking",
    "without_second_drop",
    "without_switch_at_fills",
    "without_write_check",
]


# Hold


class HeldReads:
    """Holds the replies to reads: Valkey has answered, and the value has not reached the cache.

    Args:
        method: The read of the second level to hold: ``get`` or ``get_many``.
        cache: The cache whose reads are held, or None for all caches.

    Attributes:
        answered: Set once Valkey has answered a read.
        release: Set by the test to let every reply through.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, method: str = "get", *, cache: AgentCache | None = None
    ) -> None:
        self.answered = asyncio.Event()
        self.release = asyncio.Event()
        holder: Any = ValkeyLevel2 if cache is None else internals(cache).unguarded_level2
        read = getattr(holder, method)

        async def held(*arguments: Any) -> Any:
            stored = await read(*arguments)
            self.answered.set()
            await self.release.wait()
            return stored

        monkeypatch.setattr(holder, method, held)


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
        cache: The cache whose writes are held, or None for all caches.

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
        cache: AgentCache | None = None,
    ) -> None:
        self.sending = asyncio.Event()
        self.release = asyncio.Event()
        apply = ValkeyLevel2.apply
        only = None if cache is None else internals(cache).unguarded_level2

        async def held(level2: ValkeyLevel2, writes: Any) -> Any:
            if only in (None, level2) and any(map(chosen, writes)):
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


class HeldNumbers:
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


class HeldCommands:
    """Holds the reply to the first command ``name`` that bypasses the write pipe.

    Attributes:
        answered: Set once Valkey has answered the command.
        release: Set by the test to let the reply through.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.answered = asyncio.Event()
        self.release = asyncio.Event()
        execute = ValkeyLevel2.execute

        async def held(level2: ValkeyLevel2, commands: Sequence[Any]) -> list[Any]:
            replies = await execute(level2, commands)
            if commands[0][0] == name and not self.answered.is_set():
                self.answered.set()
                await self.release.wait()
            return replies

        monkeypatch.setattr(ValkeyLevel2, "execute", held)


def slow_writes(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> None:
    """Delay every batch of writes by ``seconds``."""
    apply = ValkeyLevel2.apply

    async def slow(level2: ValkeyLevel2, writes: Any) -> Any:
        await asyncio.sleep(seconds)
        return await apply(level2, writes)

    monkeypatch.setattr(ValkeyLevel2, "apply", slow)


# Record


def record_pings(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list to which each PING of the store, sent or not answered, appends None."""
    pings: list[None] = []
    ping = ValkeyLevel2.ping

    async def recorded(level2: ValkeyLevel2) -> None:
        pings.append(None)
        await ping(level2)

    monkeypatch.setattr(ValkeyLevel2, "ping", recorded)
    return pings


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


class CountedCalls:
    """Counts the calls of a function of the package, and passes them on.

    Attributes:
        calls: The number of calls.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls = 0
        function = getattr(owner, name)

        def counting(*given: Any, **named: Any) -> Any:
            self.calls += 1
            return function(*given, **named)

        monkeypatch.setattr(owner, name, counting)


def count_exchanges(monkeypatch: pytest.MonkeyPatch) -> Counter[bool]:
    """Return the counts of exchanges with Valkey: True for those of the background worker, False for all others."""
    exchanges: Counter[bool] = Counter()
    send = MultiplexedConnection.send

    def counted(connection: MultiplexedConnection, *arguments: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        exchanges[task.get_name() == "tiercache-service"] += 1
        return send(connection, *arguments)

    monkeypatch.setattr(MultiplexedConnection, "send", counted)
    return exchanges


class RecordedWire:
    """A connection, and the data of each of its writes.

    Attributes:
        written: The data of each write to the socket, in order.
    """

    def __init__(self, connection: MultiplexedConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connection = connection
        self.written: list[bytes] = []
        write = connection._transport.write

        def counted(data: bytes) -> None:
            self.written.append(data)
            write(data)

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return counted if name == "write" else getattr(transport, name)

        transport = connection._transport
        monkeypatch.setattr(connection, "_transport", Counting())


# Lose


class LostReplies:
    """Carries out each batch that contains a write of one of ``kinds``, and then raises ``L2UnavailableError``.

    A batch that contains a ``Release`` of ``kinds`` is not even sent.

    Args:
        chosen: Which of the writes of ``kinds``; by default all.

    Attributes:
        is_on: Whether replies are lost; set to False by the test.
        lost: The writes whose replies were lost.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *kinds: type, chosen: Callable[[Write], bool] = any_write
    ) -> None:
        self.is_on = True
        self.lost: list[Write] = []
        apply = ValkeyLevel2.apply

        async def lossy(level2: ValkeyLevel2, writes: Any) -> Any:
            concerned = [write for write in writes if self.is_on and isinstance(write, kinds) and chosen(write)]
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


def cancel_loads_with_lease_reply(monkeypatch: pytest.MonkeyPatch, *, before: bool = False) -> None:
    """Cancel every load in the loop step in which the reply to its lease arrives, before the load runs again.

    Args:
        before: Whether the cancellation comes before the reply, not after it.
    """
    submit = WritePipe.submit

    def cancel() -> None:
        for task in asyncio.all_tasks():
            if task.get_name() == "tiercache-load":
                task.cancel()

    def submitted(pipe: WritePipe, write: Any, on_done: Any = None) -> Any:
        def done(outcome: Any) -> None:
            if before and isinstance(write, TakeLease):
                cancel()
            on_done(outcome)
            if not before and isinstance(write, TakeLease):
                asyncio.get_running_loop().call_soon(cancel)

        return submit(pipe, write, done if on_done is not None else None)

    monkeypatch.setattr(WritePipe, "submit", submitted)


def fail_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise ``L2UnavailableError`` instead of sending commands that bypass the write pipe."""

    async def away(level2: ValkeyLevel2, commands: Sequence[Any]) -> list[Any]:
        raise L2UnavailableError("away")

    monkeypatch.setattr(ValkeyLevel2, "execute", away)


def lose_command_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry out commands that bypass the write pipe, and then raise ``L2UnavailableError``."""
    execute = ValkeyLevel2.execute

    async def lost(level2: ValkeyLevel2, commands: Sequence[Any]) -> list[Any]:
        await execute(level2, commands)
        raise L2UnavailableError("the answer was lost")

    monkeypatch.setattr(ValkeyLevel2, "execute", lost)


_JOBS: dict[str, tuple[type, str]] = {
    "statistics": (StatsHash, "send"),
    "registration": (Discovery, "beat"),
    "tool policies": (ToolPolicies, "refresh"),
    "settings": (SettingsTable, "refresh"),
    "trimming of the indexes": (ValkeyLevel2, "trim_indexes"),
    "completion of the indexes": (Reindex, "run"),
    "service": (MonitorService, "_wait"),
    "probe": (Probe, "run"),
    "listener": (Listener, "_follow"),
    "PINGs of the listener": (Listener, "_keep_pinging"),
    "pending invalidations": (PendingInvalidations, "_repeat_all"),
    "pins": (PinReads, "run"),
}
# The names of the background jobs, as their log lines have them.
BACKGROUND_JOBS = tuple(_JOBS)


class JobDefect:
    """Has every run of a background job raise ``ZeroDivisionError``, as a defect would.

    Attributes:
        is_on: Whether the next run raises.
        count: The number of runs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, job: str) -> None:
        self.is_on = True
        self.count = 0
        owner, name = _JOBS[job]
        run = getattr(owner, name)

        async def run_or_raise(*args: Any) -> Any:
            self.count += 1
            if self.is_on:
                raise ZeroDivisionError
            return await run(*args)

        monkeypatch.setattr(owner, name, run_or_raise)


def fail_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise ``ZeroDivisionError``, as a defect would, where the store reads the replies to a batch of writes."""

    def results(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(WriteCommands, "results", results)


def hide_connection_end(monkeypatch: pytest.MonkeyPatch, connection: Any) -> None:
    """Have a connection look open after it has ended, like a connection whose end the loop has not read yet."""
    if isinstance(connection, type) and issubclass(connection, PlainConnection):
        is_connected = property(lambda plain: plain._connection.is_connected)
        monkeypatch.setattr(connection, "is_open", is_connected)
    else:
        monkeypatch.setattr(type(connection), "is_open", True)


def hide_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every server look like one without SET ... IFEQ, DELIFEQ and script flags."""
    answers = WriteCommands.take_probe_replies
    unknown = ResponseError("unknown")
    monkeypatch.setattr(
        WriteCommands, "take_probe_replies", lambda self, replies: answers(self, [unknown] * len(replies))
    )


def hide_embedded_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the ``embedded`` extra look as if it was not installed."""
    monkeypatch.setattr("tiercache.embedded.find_spec", lambda name: None)


def hide_compression_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the library that compresses look as if it was not installed."""
    monkeypatch.setattr(compression, "_library", lambda: None)


@contextmanager
def importing_compression_library_by(
    monkeypatch: pytest.MonkeyPatch, import_module: Callable[[str], Any]
) -> Iterator[None]:
    """Import the library that compresses again, by ``import_module``, at its next use in the block."""
    compression._library.cache_clear()
    monkeypatch.setattr(compression, "import_module", import_module)
    try:
        yield
    finally:
        compression._library.cache_clear()


def change_request_of_keys(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, act: Callable[[], object], *names: str
) -> None:
    """Call ``act`` before each call of a function of a key module: as if another thread ran in that moment.

    Args:
        names: The functions, as far as the module has them.
    """

    def acting(make: Callable[..., Any]) -> Callable[..., Any]:
        def act_and_make(*arguments: Any, **options: Any) -> Any:
            act()
            return make(*arguments, **options)

        return act_and_make

    for name in names:
        if hasattr(module, name):
            monkeypatch.setattr(module, name, acting(getattr(module, name)))


def refuse_spans(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Raise ``AssertionError`` where a span would be made; return a list to which each attempt is appended."""
    made: list[object] = []

    def fail(*args: object, **options: object) -> Any:
        made.append(args)
        raise AssertionError("a span was made")

    for tracer in (trace.NoOpTracer, trace.ProxyTracer):
        monkeypatch.setattr(tracer, "start_span", fail)
    for span in (trace.NonRecordingSpan, otel.OtelSpan):
        monkeypatch.setattr(span, "__init__", fail)
    return made


def remember_no_broken_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every store forget the connections that broke: it does not end them before it opens another."""

    class Forgetful(list[int]):
        def append(self, item: int) -> None: ...

    make = ValkeyLevel2.__init__

    def made(level2: ValkeyLevel2, *arguments: object, **options: object) -> None:
        make(level2, *arguments, **options)  # type: ignore[arg-type]
        level2._writer._broken_ids = Forgetful()

    monkeypatch.setattr(ValkeyLevel2, "__init__", made)


# Act, and set


def act_after_reads(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[str]:
    """Call ``act`` right after the answer to every read of a single key.

    Returns:
        A list to which the key is appended when ``act`` is called.
    """
    acted: list[str] = []
    get = ValkeyLevel2.get

    async def acting(level2: ValkeyLevel2, key: str) -> Any:
        stored = await get(level2, key)
        acted.append(key)
        act()
        return stored

    monkeypatch.setattr(ValkeyLevel2, "get", acting)
    return acted


def replace_reads(monkeypatch: pytest.MonkeyPatch, read: Callable[[Callable[[], Awaitable[Any]]], Any]) -> None:
    """Have ``read`` answer every read of a single key. It receives the real read, to call when it likes."""
    get = ValkeyLevel2.get
    monkeypatch.setattr(ValkeyLevel2, "get", lambda level2, key: read(lambda: get(level2, key)))


def act_after_command(
    monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], Awaitable[object] | object]
) -> list[str]:
    """Call ``act`` right after the answer to the first command ``name`` that bypasses the write pipe.

    Returns:
        A list to which ``name`` is appended when ``act`` is called.
    """
    acted: list[str] = []
    execute = ValkeyLevel2.execute

    async def acting(level2: ValkeyLevel2, commands: Any) -> list[Any]:
        replies = await execute(level2, commands)
        if commands[0][0] == name and not acted:
            acted.append(name)
            done = act()
            if isinstance(done, Awaitable):
                await done
        return replies

    monkeypatch.setattr(ValkeyLevel2, "execute", acting)
    return acted


def act_after_values(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[object]]) -> None:
    """Call ``act`` each time that an operation on a group has read values, before it goes on."""
    get_values = ValkeyLevel2.get_values

    async def acting(level2: ValkeyLevel2, keys: Any) -> list[bytes | None]:
        values = await get_values(level2, keys)
        await act()
        return values

    monkeypatch.setattr(ValkeyLevel2, "get_values", acting)


def act_during_snapshot(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call ``act`` each time that a snapshot adds the counters of an operation or of a label."""
    for kind in (OperationCounters, TierCounters):
        _act_before_add(monkeypatch, kind, act)


def _act_before_add(monkeypatch: pytest.MonkeyPatch, kind: type, act: Callable[[], object]) -> None:
    add = kind.add  # type: ignore[attr-defined]

    def act_and_add(counters: Any, other: Any) -> None:
        act()
        add(counters, other)

    monkeypatch.setattr(kind, "add", act_and_add)


def replace_public(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, function: Callable[..., Any]) -> None:
    """Replace a public method of the cache by a broken one, to see whether the checker notices."""
    assert not name.startswith("_")
    monkeypatch.setattr(owner, name, function)


class MonitorIntervals(NamedTuple):
    """The seconds of the worker that registers the cache.

    Attributes:
        heartbeat: The lifetime of the heartbeat's key.
        beat: The time between two registrations.
    """

    heartbeat: float
    beat: float


def monitor_intervals() -> MonitorIntervals:
    """Return the seconds of the worker that registers the cache."""
    return MonitorIntervals(discovery._HEARTBEAT_SECONDS, service._BEAT_SECONDS)


def fail_reads(monkeypatch: pytest.MonkeyPatch, cache: AgentCache) -> None:
    """Let each read raise ``L2UnavailableError``, before Valkey receives it."""

    async def unavailable(keys: str | Sequence[str]) -> None:
        raise L2UnavailableError(f"no answer for {keys}")

    for name in ("get", "get_many"):
        monkeypatch.setattr(internals(cache).unguarded_level2, name, unavailable)


def record_reports(monkeypatch: pytest.MonkeyPatch, *caches: AgentCache) -> list[tuple[AgentCache, str]]:
    """Return a list that gets each key that the server reports, with the cache to which it reports the key."""
    reports: list[tuple[AgentCache, str]] = []
    owners = {id(internals(cache).coherence): cache for cache in caches}
    apply = Coherence.apply

    def noted(coherence: Coherence, event: Any) -> None:
        if isinstance(event, TrackedChange) and id(coherence) in owners:
            reports.extend((owners[id(coherence)], key) for key in event.keys or ())
        apply(coherence, event)

    monkeypatch.setattr(Coherence, "apply", noted)
    return reports


def record_distrusts(monkeypatch: pytest.MonkeyPatch, cache: AgentCache) -> list[int]:
    """Return a list that gets, at each PING on the subscription, how often the cache has dropped its L1."""
    subscription, pings = internals(cache).subscription, list[int]()
    ping = subscription.ping

    async def noted(stamp: float, number: int) -> None:
        pings.append(cache.local_stats().distrusted_count)
        await ping(stamp, number)

    monkeypatch.setattr(subscription, "ping", noted)
    return pings


@contextmanager
def held_acceptance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold, within the context, each request of a process to receive the announcements of single keys again."""
    decline_keys, release = ValkeySubscription.decline_keys, asyncio.Event()

    async def held(subscription: ValkeySubscription, declines: bool) -> None:
        if not declines:
            await release.wait()
        await decline_keys(subscription, declines)

    monkeypatch.setattr(ValkeySubscription, "decline_keys", held)
    yield
    release.set()


def pause_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each cache that opens now send its PINGs once a minute, or after a third of its ``max_staleness``."""
    monkeypatch.setattr(listener, "_PING_SECONDS", 60.0)


def set_tracking_room(monkeypatch: pytest.MonkeyPatch, keys: int) -> None:
    """Set the number of keys for which the server's table of tracked keys must have room."""
    monkeypatch.setattr(tracking, "_ROOM_KEYS", keys)


def set_intervals(
    monkeypatch: pytest.MonkeyPatch,
    *,
    send: float | None = None,
    beat: float | None = None,
    scan: float | None = None,
    pause: float | None = None,
    page: float | None = None,
) -> None:
    """Set seconds of the background worker.

    Args:
        send: Between two rounds.
        beat: Between two registrations.
        scan: How long the opening cache may scan for entries without an index; a negative number leaves the scan to
            the background.
        pause: Between a defect in a background job and its next run.
        page: On average between two looks at a page of all keys, for entries of other software.
    """
    for module, name, seconds in (
        (service, "_SEND_SECONDS", send),
        (service, "_BEAT_SECONDS", beat),
        (reindex, "_LOOK_SECONDS", scan),
        (supervision, "_PAUSE_SECONDS", pause),
        (foreign_writes, "_PAGE_SECONDS", page),
    ):
        if seconds is not None:
            monkeypatch.setattr(module, name, seconds)


def set_lease_polls(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the seconds between two polls of a load that waits for a lease."""
    monkeypatch.setattr(lease_search, "_FIRST_POLL", seconds)
    monkeypatch.setattr(lease_search, "_LAST_POLL", seconds)


def set_pin_limits(monkeypatch: pytest.MonkeyPatch, *, most_bytes: int) -> None:
    """Set the bytes of pinned answers that a face keeps in memory."""
    monkeypatch.setattr(pins, "MOST_PINNED_BYTES", most_bytes)
    monkeypatch.setattr(pin_reads, "MOST_PINNED_BYTES", most_bytes)


def redirect_prices(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    """Write updated prices to ``target``."""
    monkeypatch.setattr(update, "_TARGET", target)


def _engine_of(cache: AgentCache) -> Any:
    """Return the engine of the main side of the async face."""
    return cache._parts.sides[0].engine


async def close_engine(cache: AgentCache) -> None:
    """Close the levels of a cache, and not its telemetry."""
    await _engine_of(cache).aclose()


# Look


class L1View:
    """Shows the L1 of a cache, without the effects of a lookup."""

    def __init__(self, cache: AgentCache) -> None:
        self._l1: Any = _engine_of(cache).l1
        self._now = _engine_of(cache).now

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
        self._engine: Any = _engine_of(cache)
        self._parts: Any = cache._parts

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

    @property
    def is_closing(self) -> bool:
        """Whether the cache finishes its loads and writes."""
        return bool(self._runtime.is_closing)

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

    @property
    def store(self) -> StoreView:
        """The connections of the second level."""
        return StoreView(self.unguarded_level2)

    async def trim_indexes(self) -> None:
        """Trim the indexes now, as the background worker does."""
        await self._l2.level2.trim_indexes()

    # The Monitor

    async def beat(self) -> None:
        """Do the registration that the background worker does every half minute."""
        assert self._engine._server is not None
        await self._engine._server.service._beat(self._l2.level2)

    def note_change(self, key: str) -> None:
        """Note a change of ``key`` by another client, as the server reports it to a process that tracks keys."""
        assert self._engine._server is not None
        self._engine._server.service.key_changed(key)

    async def look_for_foreign_writes(self) -> bool:
        """Look for entries of other software now, at the reported keys and at the next page of all keys."""
        assert self._engine._server is not None
        search = self._engine._server.service._foreign_writes
        search._page_at = -math.inf
        return await search.look(self._l2.level2)  # type: ignore[no-any-return]

    async def write_marker(self) -> None:
        """Write the marker of the cache, and nothing else that a registration writes."""
        await self._discovery.beat(self._l2.level2)

    @property
    def _discovery(self) -> Any:
        discovery = self._parts.sides[0].discovery
        assert discovery is not None
        return discovery

    @property
    def discovery_write_failed_count(self) -> int:
        """Registrations that failed."""
        return int(self._discovery.write_failed_count)

    def add_failed_registrations(self, count: int) -> None:
        """Count ``count`` more registrations that failed."""
        self._discovery.write_failed_count += count

    @property
    def tool_policies(self) -> Any:
        """The tool policies, with the counts of those that could not be read."""
        return self._parts._tool_policies

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

    @property
    def subscriber_id(self) -> int | None:
        """The number of the connection that listens, or None while there is none."""
        subscription: Any = self.subscription
        return None if subscription is None else subscription.id

    # Leases

    def is_lease_wanted(self, key: str) -> bool:
        """Return whether another process waits for the lease that this cache holds on ``key``."""
        return bool(self._l2.leases._held[key].is_awaited)

    def note_awaited(self, key: str) -> None:
        """Note that another process waits for the lease on ``key``, as its message does."""
        self._l2.leases.note_awaited(key)

    @property
    def held_lease_keys(self) -> list[str]:
        """The keys whose leases this cache holds."""
        return list(self._l2.leases._held)

    @property
    def held_lease_count(self) -> int:
        """The number of leases that this cache holds."""
        return len(self.held_lease_keys)

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


def exchanges_of(cache: AgentCache) -> Exchanges:
    """Return the exchanges of a cache."""
    return cache._parts.exchanges


def conversations_of(cache: AgentCache, store: str = "test") -> Conversations:
    """Return a store of conversations of the cache."""
    return cache._parts.conversations(store)


def items_of(cache: AgentCache, store: str = "test") -> ItemStore:
    """Return an item store of a cache."""
    return cache._parts.items(store)


def followed_recordings() -> list[Recording]:
    """Return the recordings that a follower has not closed."""
    return [thing for thing in gc.get_objects() if type(thing) is Recording and thing._followers]


def follower_count() -> int:
    """Return the number of followers of all recordings."""
    return sum(len(recording._followers) for recording in followed_recordings())


def internals(cache: AgentCache) -> Internals:
    """Return the parts of ``cache``, which must be open when they are looked at."""
    return Internals(cache)


async def caught_up(cache: AgentCache, plain: valkey.Valkey) -> None:
    """Return when ``cache`` has received every announcement and report up to now.

    They arrive in order, so a further announcement is the last of them. It is one of ``cache`` itself, without effect.
    """
    coherence, names = internals(cache).coherence, internals(cache).unguarded_level2._names
    parts: Any = messages.encode(Announcement(keys=("marker",)), coherence._origin)
    last: Any = plain.eval(scripts.script("announce"), 1, names.sequence, names.channel, *parts)
    await until(lambda: number_of(coherence) >= last)


def number_of(coherence: Coherence) -> float:
    """Return the number of the last change that ``coherence`` has received, or -inf before the first subscription."""
    return -math.inf if coherence._number is None else coherence._number


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
        return next(iter(self._loader._collecting.values()), None)

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


class StoreView:
    """Shows the connections of a second level."""

    def __init__(self, level2: Any) -> None:
        self._level2 = level2

    @property
    def pool(self) -> Any:
        """The pool of connections for reads."""
        return self._level2._pool

    @property
    def writer_connection(self) -> Any:
        """The connection of the writer, or None."""
        return self._level2._writer._connection

    @property
    def writer_connection_id(self) -> Any:
        """The number of the writer's connection, or None."""
        return self._level2._writer._connection_id

    @property
    def sends_large_write(self) -> bool:
        """Whether a batch is in flight behind which no read waits."""
        return self._level2._writer._sent_bytes > 64 * 1024

    def command_of(self, write: Write) -> str:
        """Return the name of the command that carries ``write`` out."""
        name: str = self._level2._writer._commands.of(write)[0][0]
        return name

    def read_with_scripts(self, with_scripts: bool) -> None:
        """Have reads of many keys use a script, or plain commands."""
        self._level2._batch_reader._has_scripts = with_scripts

    def count_exchanges(self, monkeypatch: pytest.MonkeyPatch) -> CountedCalls:
        """Return the count of exchanges on the pool from now on."""
        return CountedCalls(monkeypatch, self.pool, "exchange")


def idle_connections(pool: Any) -> Any:
    """Return the idle connections of a plain pool."""
    return pool._idle


def shared_connection(pool: Any) -> Any:
    """Return the connection that all exchanges of a pool share, or None."""
    return pool._connection


def transport_of(connection: Any) -> Any:
    """Return the connection of valkey-py on which a connection of the package is built."""
    return connection._connection


def has_ended(transport: Any) -> bool:
    """Return whether the server has ended a connection of valkey-py, and the loop has read the end."""
    return bool(transport._reader.at_eof())


def unread_bytes(transport: Any) -> int:
    """Return how many bytes the loop has read from a connection of valkey-py that no code has used yet."""
    return len(transport._reader._buffer)


def is_reset(connection: Any) -> bool:
    """Return whether the loop has read that the connection under a plain connection was reset."""
    return bool(connection._connection._writer.is_closing())


def inbox_count(connection: MultiplexedConnection) -> int:
    """Return the number of messages that a connection has received and not handed out."""
    return len(connection._inbox._messages)


def check_deadline(connection: MultiplexedConnection) -> None:
    """Run the timer of a connection's deadline now."""
    connection._deadline.look()


def end_in_silence(connection: MultiplexedConnection) -> None:
    """End a connection as its deadline does when the server is silent."""
    connection._end_in_silence()


def unsent_bytes(connection: MultiplexedConnection) -> int:
    """Return the number of bytes that a connection has written and the network has not taken."""
    return connection._deadline._unsent_bytes()


def embedded_server(cache: AgentCache) -> EmbeddedValkey:
    """Return the embedded server of a cache."""
    server = cache._parts.shared.server
    assert server is not None
    return server


def run_dir_of(server: EmbeddedValkey) -> Path:
    """Return the private folder of an embedded server."""
    return server._run_dir


class TelemetryView:
    """Shows the numbers that a cache reports to telemetry, and replaces them."""

    def __init__(self, cache: AgentCache) -> None:
        self._parts: Any = cache._parts

    def set_gauge(self, name: str, read: Callable[[], float]) -> None:
        """Report ``read()`` as the gauge ``name``."""
        self._parts._source.gauges[name] = read

    def set_counter(self, name: str, read: Callable[[], float]) -> None:
        """Report ``read()`` as the counter ``name``."""
        self._parts._source.counters[name] = read

    def break_collection(self) -> None:
        """Have every collection of the cache's numbers raise, as by a defect."""
        self._parts.shared.tier_rules.append(None)


def results_of_driver(driver: Any) -> Any:
    """Return the results that a driver of the benchmarks collects."""
    return driver._results


def peer_remembers_nothing(peer: Any) -> None:
    """Have a peer of the benchmarks keep no answer in its first level."""
    peer._remember = lambda key, value: None


def is_tracing(cache: AgentCache) -> bool:
    """Return whether a cache makes spans."""
    return _engine_of(cache).tracer is not None


def weak_references(cache: AgentCache) -> list[Any]:
    """Return weak references to a cache, its engine and its L1."""
    return [weakref.ref(cache), weakref.ref(_engine_of(cache)), weakref.ref(_engine_of(cache).l1)]


def tier_counters(tier: Any) -> Any:
    """Return the counters of a tier, by label."""
    return tier._rules.counters


def known_keys(tier: Any) -> Any:
    """Return the keys that the llm or tool tier has found and keeps."""
    return tier._lookup.known


def stored_args(key: Any) -> bytes:
    """Return the arguments of a tool call as its key has them."""
    args: bytes = key._args
    return args


class KnownKeysView:
    """Shows the two generations of known keys."""

    def __init__(self, known: Any) -> None:
        self._known = known

    @property
    def kept(self) -> list[tuple[Any, Any]]:
        """Every fingerprint with its target."""
        return [*self._known._younger.items(), *self._known._older.items()]

    @property
    def generations(self) -> list[tuple[Any, int]]:
        """The targets by fingerprint, and the bytes counted for them, of each generation."""
        known = self._known
        return [(known._younger, known._younger_bytes), (known._older, known._older_bytes)]


def event_of(message: Any) -> Any:
    """Return the event that a subscription makes of a message of the server."""
    return backplane._event(message)


def policies_in(fields: list[bytes]) -> dict[str, ToolPolicy]:
    """Return the tool policies in the fields of their hash."""
    return ToolPolicies("test", CacheLog("test"))._read(fields)


def statistics_in(fields: list[bytes]) -> dict[str, int]:
    """Return the counts in the fields of the statistics hash."""
    return StatsHash("test", lambda: (), {}, CacheLog("test"))._counts(fields)


def compression_library() -> Any:
    """Return the library that compresses, or None if it is not installed."""
    return compression._library()


# Remove a guard


def without_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a change of a key or a group break no fence: reads and loads in progress keep the right to store."""
    monkeypatch.setattr(Fences, "break_key", lambda fences, key: None)
    monkeypatch.setattr(Fences, "break_group", lambda fences, group: None)
    monkeypatch.setattr(Fences, "written", Fences.close)


def without_hook_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cache make events of the calls of an async hook."""
    monkeypatch.setattr(hook_calls, "IN_HOOK", ContextVar("unmarked", default=False))


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


def deaf_to_announcements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every cache count the announcements that it receives, and apply none of them."""

    def count(coherence: Coherence, received: Received) -> None:
        if received.number is not None:
            coherence._check_number(received.number)

    monkeypatch.setattr(Coherence, "_receive", count)


def handed_over_count(cache: AgentCache) -> int:
    """Return how many changes of the sync face wait for the next lookup of the async face."""
    return len(_engine_of(cache).face._queue)


def waiter_count(sync: SyncCache, key: str) -> int:
    """Return how many callers of the sync face wait for the flight of a key of ``kv``."""
    runtime = sync._face.parts.sides[0].engine.runtime
    flight = None if runtime is None else runtime.flights.joinable(f"{sync.name}:__tc:kv:kv:{key}")
    return 0 if flight is None else len(flight._waiters)


def interrupt_following(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise ``InterruptedError`` where a change of another runtime would be applied, as Ctrl-C could."""

    def interrupted(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(Coherence, "follow", interrupted)


def interrupt_next_call(monkeypatch: pytest.MonkeyPatch, result: type | None = None) -> None:
    """Raise KeyboardInterrupt in the next call of a portal: when its task is posted, or once it has its ``result``.

    Args:
        result: The type of the outcome that the interrupted caller does not get; None: the task has just been posted.
    """
    run, begin, is_due = Call.run, Call._begin, [True]

    def interrupted_begin(call: Any, make: Any) -> None:
        begin(call, make)
        if result is None and is_due.pop():
            monkeypatch.setattr(Call, "_begin", begin)
            raise KeyboardInterrupt

    def interrupted_run(call: Any, make: Any, seconds: float | None = None) -> Any:
        outcome = run(call, make, seconds)
        if result is not None and type(outcome) is result and is_due:
            is_due.clear()
            raise KeyboardInterrupt
        return outcome

    monkeypatch.setattr(Call, "_begin", interrupted_begin)
    monkeypatch.setattr(Call, "run", interrupted_run)


def act_before_thread(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call ``act`` once, in the middle of the start of a private thread."""
    _act_first(monkeypatch, LoopThread, "__init__", act)


def act_before_tier(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call ``act`` once, while a kv tier is looked up or made."""
    _act_first(monkeypatch, Assembly, "kv_tier", act)


def act_before_sync_face(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Call ``act`` once, while the parts of a sync face are made."""
    _act_first(monkeypatch, Assembly, "new_sync_face", act)


def _act_first(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, act: Callable[[], object]) -> None:
    original, acts = getattr(owner, name), [act]

    def acting(*args: Any, **kwargs: Any) -> Any:
        if acts:
            acts.pop()()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, acting)


def refuse_loader_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread for a plain function start, as on a machine without a further thread."""
    start = Thread.start

    def refuse(thread: Thread) -> None:
        if thread.name == "tiercache-sync-loader":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(Thread, "start", refuse)


def connections_in_use(client: Any) -> list[Any]:
    """Return the connections of an HTTP client that are neither idle nor closed."""
    pool = client._transport._pool
    return [each for each in pool.connections if not each.is_idle() and not each.is_closed()]


def without_switch_at_fills(cache: AgentCache) -> None:
    """Let loads and stores of a disabled tier be kept. Lookups of the tier still do not ask Valkey."""
    runtime = _engine_of(cache).runtime
    assert runtime is not None
    runtime.switches = Switches()


def without_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand no change to the other face of a cache: it learns of the change by the announcement alone."""
    monkeypatch.setattr(Face, "_receive", lambda face, change: None)


def without_looks_at_other_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a face know nothing of the queued writes, pending invalidations, bars and loads of the other face."""
    monkeypatch.setattr(Face, "is_alone", True)
    monkeypatch.setattr(Face, "_other_runtime", None)


def without_lease_wakeups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wake no load that waits for a lease: it looks again only by itself."""
    monkeypatch.setattr(Leases, "wake", lambda leases, key: None)


def without_awaited_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a caller that leaves one key of a batch cancel the load, although callers wait for its other keys."""
    monkeypatch.setattr(Flight, "is_awaited", False)


def without_exact_json_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have orjson write every value, also those that ``json`` writes in other bytes."""
    monkeypatch.setattr(canonical_json, "is_exact_json", lambda value: True)
