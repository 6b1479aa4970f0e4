"""A runtime: one life of a cache on one event loop, with its connections, flights, fences and queued writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Final

from ...clock import Clock
from ...errors import L2LoginError, L2NotNowError, L2UnavailableError, UsageError
from ...log import CacheLog
from ...supervision import attempt, keep_running
from ..hooks.calls import HookCalls
from ..level2.breaker import Breaker, GuardedLevel2
from ..level2.probe import Probe
from ..memory.flights import CURRENT_FLIGHT, Flight
from ..memory.memory import Memory
from .face import Face
from .l2 import L2, Connect, Service
from .loop_end import end_with_loop
from .no_l2 import NO_L2, NoL2
from .options import EngineOptions
from .pin_reads import PinReads
from .reads import Reads

__all__ = ["Runtime", "Server"]

# Seconds that closing waits for cancelled loads to end.
_CANCELLED_LOADS_SECONDS: Final = 1.0


class Server:
    """The Valkey of a cache: how a runtime connects to it, and the service that works on it in the background."""

    __slots__ = ("connect", "service")

    def __init__(self, connect: Connect, service: Service) -> None:
        self.connect = connect
        self.service = service


class Runtime:
    """One life of a cache on one event loop.

    Args:
        server: The Valkey, or None for a cache of process memory alone.

    Attributes:
        loop: The event loop that the runtime belongs to.
        pid: The process that made the runtime. A forked process must not touch a runtime that it inherited.
        is_open: Whether ``open`` has succeeded.
        is_closing: Whether the runtime finishes its loads and writes, or has done so.
        face: The face of the cache that this runtime serves.
        l1: The process memory of that face.
        fences, flights, load_limits, tag_locks, hooks: See ``Memory``.
        breaker: Decides whether lookups ask Valkey.
        l2: Valkey, and the parts that keep L1 coherent with it. ``NO_L2`` without a server, and until ``open``.
        switches: The tiers and tools that are disabled at run time.
        reads: Lookups in ``l2``.
        pins: Lookups in the pins.
        now: The monotonic clock, in seconds.
    """

    def __init__(
        self,
        server: Server | None,
        options: EngineOptions,
        face: Face,
        clock: Clock,
        log: CacheLog,
        hooks: HookCalls,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.is_open = False
        self.is_closing = False
        self.clock = clock
        self.now = clock.monotonic
        self.log = log
        self.face = face
        self.l1 = face.l1
        self.hooks = hooks
        hooks.start()
        self._memory = memory = Memory(face.l1, face.pins, options.resilience, clock.monotonic, hooks, options.switches)
        self.fences = memory.fences
        self.switches = memory.switches
        self.fences.obey(lambda fence: self.switches.are_off(fence.groups) or face.is_barred_elsewhere(fence))
        self.flights = memory.flights
        self.load_limits = memory.load_limits
        self.tag_locks = memory.tag_locks
        self.breaker = Breaker(options.resilience, log)
        self._server = server
        self._options = options
        self._set_l2(NO_L2)
        self.pins = PinReads(face.pins, None, clock, self.breaker, log)
        self._running: list[asyncio.Task[None]] = []
        self._loading: dict[asyncio.Task[None], Flight] = {}
        self._opening: asyncio.Task[None] | None = None
        self._opener_count = 0
        self._closing: asyncio.Task[None] | None = None
        self._end_of_loop: AsyncGenerator[None, None] | None = None

    def _set_l2(self, l2: L2 | NoL2) -> None:
        self.l2 = l2
        serve_untrusted = self._options.resilience.serve_untrusted
        self.reads = Reads(self._memory, l2, self.face, self.clock, self.log, serve_untrusted=serve_untrusted)

    # Opening

    async def open(self) -> None:
        """Connect. Concurrent callers share one attempt; after a failed attempt the next caller tries again.

        Raises:
            L2UnavailableError: No answer, with ``require_l2``. Without it the cache works degraded.
            L2CommandError: Valkey refused the credentials.
        """
        if self._opening is None:
            # In an empty context, which the background tasks inherit: they live much longer than the request that
            # happens to open the cache.
            self._opening = self.loop.create_task(self._open(), name="tiercache-open", context=Context())
            self._opening.add_done_callback(self._opened)
            self._opener_count = 0
        self._opener_count += 1
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            self._opener_count -= 1
            raise

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # Retrieved, also when every caller was cancelled.

    @property
    def is_wanted(self) -> bool:
        """Whether a caller has opened the runtime, or waits for it."""
        return self._opener_count > 0

    async def _open(self) -> None:
        if self._server is not None:
            self._set_l2(await self._open_l2(self._server))
        # A loop closes its asynchronous generators when it shuts down (asyncio.run, Runner); see ``loop_end``.
        self._end_of_loop = self._close_at_end()
        await anext(self._end_of_loop)
        if not await self.face.wait_for_stores_behind(self._options.resilience.l2_timeout):
            self.log.warn_once(
                "the other face of the cache has stores behind, and its event loop is blocked: later changes of the "
                "same keys may reach Valkey before these stores"
            )
        self.is_open = True
        self.is_closing = False
        end_with_loop(self)

    async def _open_l2(self, server: Server) -> L2:
        level2, origin = await L2.connect(server.connect, self.breaker)
        l2 = L2(level2, origin, self._memory, server.service, self._options, self.log)
        self.pins = PinReads(self.face.pins, level2, self.clock, self.breaker, self.log)
        try:
            await self._prepare(level2, server.service)
            if not self.breaker.is_open:
                await l2.listener.open()
                # Once subscribed: a later change of a pin arrives here.
                await self.pins.open()
        except BaseException:
            # A write that turns tracking on may be in flight, and the cache may be registered already.
            await l2.listener.end_subscription()
            await l2.drain(0.0)
            await self._leave(server, level2)
            raise
        probe = Probe(level2, self.breaker, pause=self._options.resilience.breaker_pause)
        serve = partial(server.service.run, level2, lambda: l2.is_tracking)
        self._running = [
            self.loop.create_task(keep_running("listener", l2.listener.run, self.log), name="tiercache-listen"),
            self.loop.create_task(keep_running("service", serve, self.log), name="tiercache-service"),
            self.loop.create_task(keep_running("probe", probe.run, self.log), name="tiercache-probe"),
            self.loop.create_task(keep_running("pins", self.pins.run, self.log), name="tiercache-pins"),
        ]
        return l2

    async def _prepare(self, level2: GuardedLevel2, service: Service) -> None:
        try:
            await level2.ping()
        except L2UnavailableError as error:
            if self._options.require_l2:
                raise
            self.breaker.trip(error)
            return
        await service.open(level2)

    # Loads

    def start(self, flight: Flight, load: Coroutine[Any, Any, None]) -> None:
        """Run ``load`` as the task of ``flight`` and of the flights that follow it."""
        if CURRENT_FLIGHT.get() is None:
            flight.task = self.loop.create_task(load, name="tiercache-load")
        else:
            # The caller is a loader. Eager tasks would run the loads of nested loaders on one stack, which 50 of them
            # fill: this task takes its first step in the next step of the loop.
            flight.task = asyncio.Task(load, loop=self.loop, name="tiercache-load")
        self._loading[flight.task] = flight
        flight.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        flight = self._loading.pop(task)
        if task.cancelled():
            # A task that is cancelled before its first step never reaches its own ``finish``.
            for member in flight.group():
                member.fail(asyncio.CancelledError())
                self.finish(member)
        else:
            task.exception()  # Retrieved: the waiters have it.

    def finish(self, flight: Flight) -> None:
        """Remove ``flight`` in the step that sets its result, so that the next caller hits L1 or starts a new load."""
        self.flights.remove(flight)
        self.fences.close(flight.fence)

    def log_refusal(self, error: Exception) -> None:
        """Log, once, that Valkey refused to store a loaded value. The breaker logs an outage."""
        if isinstance(error, L2LoginError):
            self.breaker.log_login_refusal(error)
        elif isinstance(error, L2NotNowError) or not isinstance(error, L2UnavailableError):
            self.log.warn_once("a loaded value was not stored in Valkey (counted as fill_errors): %s", error)

    # Closing

    async def abandon(self) -> None:
        """Close the tasks and connections of an attempt to open this runtime. No caller may use the runtime again."""
        if self._opening is not None:
            self._opening.cancel()
        await self.close()

    async def end(self) -> None:
        """Cancel the loads, and finish the writes within ``drain_timeout``: the loop is about to end."""
        for task in self._loading:
            task.cancel()
        await self.close()

    async def close(self) -> None:
        """Finish loads and writes within ``drain_timeout``, cancel the others, close the connections."""
        if self._closing is None or self._closing.done():
            self._closing = self.loop.create_task(self._end(), name="tiercache-close")
        await asyncio.shield(self._closing)

    async def _close_at_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            try:
                await self._close()
            except asyncio.CancelledError:
                # The loop ends while the cache closes, and has cancelled every task. Close a second time: nothing runs
                # after this that could still finish the writes.
                await self._close()
                raise

    async def _end(self) -> None:
        # An eager task runs this inside the first step of the caller, which may be a loader. After one step of the loop
        # the load of that loader is in ``_loading``.
        await asyncio.sleep(0)
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._end_of_loop is not None:
            await self._end_of_loop.aclose()

    async def _close(self) -> None:
        self.is_closing = True
        timeout = self._options.resilience.drain_timeout
        deadline = self.loop.time() + timeout
        if self._loading:
            await asyncio.wait(self._loading, timeout=timeout)
        if self._loading:
            await self._cancel_loads()
        await self.l2.drain(max(0.0, deadline - self.loop.time()))
        await self.hooks.drain(max(0.0, deadline - self.loop.time()))
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.pins.aclose()
        if self._server is not None and isinstance(self.l2, L2):
            await self._leave(self._server, self.l2.level2)
        self.is_open = False

    async def _leave(self, server: Server, level2: GuardedLevel2) -> None:
        try:
            await attempt("end of the service", partial(server.service.close, level2), self.log)
        finally:
            await level2.aclose()

    async def _cancel_loads(self) -> None:
        left = dict(self._loading)
        for task, flight in left.items():
            for member in flight.group():
                member.fail(UsageError("the cache was closed while the value was being loaded"))
            task.cancel()
        # A load that ignores its cancellation is not waited for.
        await asyncio.wait(left, timeout=_CANCELLED_LOADS_SECONDS)
