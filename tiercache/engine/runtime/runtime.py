"""What a cache holds for one event loop, and no longer: connections, flights, fences, queued writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ...errors import L2UnavailableError, UsageError
from ..level2.breaker import Breaker, GuardedLevel2
from ..level2.queued_write import QueueLimits
from ..level2.write_pipe import WritePipe
from ..memory.fences import Fences
from ..memory.flights import Flight, Flights
from ..memory.l1 import L1
from ..memory.load_limits import LoadLimits
from .l2 import L2, Bounds, Connect

__all__ = ["Limits", "Runtime", "Service"]

_LAST_WORD_SECONDS: Final = 1.0


class Service(Protocol):
    """Something that lives beside the entries as long as a runtime: statistics, registration, policies.

    Attributes:
        settings_key: Where the settings lie in Valkey that it reads.
    """

    policies_key: str

    def policies_changed(self) -> None:
        """Note that another process may have changed them."""
        ...

    async def open(self, level2: GuardedLevel2) -> None:
        """Prepare, before the first request is served. Raises UsageError if the cache must not open."""
        ...

    async def run(self, level2: GuardedLevel2) -> None:
        """Work in the background until cancelled."""
        ...

    async def close(self, level2: GuardedLevel2) -> None:
        """Finish, after the last load and write."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a runtime; see ``ResilienceOptions`` and ``WriteOptions``."""

    breaker_failures: int
    breaker_pause: float
    load_timeout: float | None
    max_loads: int | None
    drain_timeout: float
    queue: QueueLimits
    serve_untrusted: float
    require_l2: bool


class Runtime:
    """One life of a cache on one event loop.

    Attributes:
        loop: The loop it belongs to.
        pid: The process it was made in. A copy inherited through a fork must not be touched.
        is_open: Whether ``open`` has succeeded.
        link: What it has with Valkey, None for a cache of process memory alone.
    """

    def __init__(
        self,
        connect: Connect | None,
        service: Service | None,
        limits: Limits,
        bounds: Bounds,
        l1: L1,
        now: Callable[[], float],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.is_open = False
        self.fences = Fences(now)
        self.flights = Flights(lambda began: l1.trusts(began, now()))
        self.load_limits = LoadLimits(timeout=limits.load_timeout, max_loads=limits.max_loads)
        self.breaker = Breaker(failures=limits.breaker_failures, pause=limits.breaker_pause, now=now)
        self.l2: L2 | None = None
        self._bounds = bounds
        self._l1 = l1
        self._now = now
        self._connect = connect
        self._service = service
        self._running: list[asyncio.Task[None]] = []
        self._limits = limits
        self._loading: dict[asyncio.Task[None], Flight] = {}
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._end_of_loop: AsyncGenerator[None, None] | None = None

    async def open(self) -> None:
        """Connect. Callers that come at once share one attempt; a failed one is tried anew by the next caller.

        Raises:
            L2UnavailableError: No answer, with ``require_l2``; without it the cache works on, degraded.
            L2CommandError: Valkey refused the credentials.
        """
        if self._opening is None:
            self._opening = self.loop.create_task(self._open(), name="tiercache-open")
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # Seen, also when every caller has been cancelled.

    async def _open(self) -> None:
        if self._connect is not None:
            self.l2 = await self._open_l2(self._connect)
        # A loop closes its asynchronous generators when it shuts down (asyncio.run, Runner): the one moment at
        # which a cache that nobody closes can still finish its writes.
        self._end_of_loop = self._close_at_end()
        await anext(self._end_of_loop)
        self.is_open = True

    async def _open_l2(self, connect: Connect) -> L2:
        level2, origin = await L2.connect(connect, self.breaker)
        try:
            await self._prepare(level2)
            service = self._service
            l2 = L2(
                level2,
                origin,
                self._bounds,
                l1=self._l1,
                fences=self.fences,
                now=self._now,
                queue=self._limits.queue,
                retry_pause=self._limits.breaker_pause,
                policies_key="" if service is None else service.policies_key,
                on_policies_changed=(lambda: None) if service is None else service.policies_changed,
            )
            if not self.breaker.is_open:
                await l2.listener.open()
        except BaseException:
            await level2.aclose()
            raise
        self._running = [self.loop.create_task(l2.listener.run(), name="tiercache-follow")]
        if service is not None:
            self._running.append(self.loop.create_task(service.run(level2), name="tiercache-service"))
        return l2

    async def _prepare(self, level2: GuardedLevel2) -> None:
        try:
            await level2.ping()
        except L2UnavailableError as error:
            if self._limits.require_l2:
                raise
            self.breaker.trip(error)
            return
        if self._service is not None:
            await self._service.open(level2)

    async def _close_at_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            try:
                await self._close()
            except asyncio.CancelledError:
                # The loop ends while the cache is being closed, and has cancelled every task. Once more: nothing
                # comes after this that could still finish the writes.
                await self._close()
                raise

    @property
    def level2(self) -> GuardedLevel2 | None:
        """The guarded store, None where there is no Valkey."""
        return None if self.l2 is None else self.l2.level2

    @property
    def pipe(self) -> WritePipe | None:
        """The write pipe to it, None likewise."""
        return None if self.l2 is None else self.l2.pipe

    def is_writing(self, key: str) -> bool:
        """Return whether a write of ``key`` is on its way to Valkey."""
        return self.l2 is not None and self.l2.pipe.is_writing(key)

    def start(self, flight: Flight, load: Coroutine[Any, Any, None]) -> None:
        """Run ``load`` as the task of ``flight`` and of those that follow it."""
        flight.task = self.loop.create_task(load, name="tiercache-load")
        self._loading[flight.task] = flight
        flight.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        flight = self._loading.pop(task)
        if task.cancelled():
            # Cancelled before its first step, it has not come to its own ``finish``.
            for member in flight.group():
                member.fail(asyncio.CancelledError())
                self.finish(member)
        else:
            task.exception()  # The waiters have seen it.

    def finish(self, flight: Flight) -> None:
        """Forget ``flight``. Called in the same step as its outcome: who asks next finds L1, or starts anew."""
        self.flights.remove(flight)
        self.fences.close(flight.fence)

    async def close(self) -> None:
        """Finish loads and writes under way within ``drain_timeout``, end the others, close the connections."""
        if self._closing is None or self._closing.done():
            self._closing = self.loop.create_task(self._end(), name="tiercache-close")
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._end_of_loop is not None:
            await self._end_of_loop.aclose()

    async def _close(self) -> None:
        deadline = self.loop.time() + self._limits.drain_timeout
        if self._loading:
            await asyncio.wait(self._loading, timeout=self._limits.drain_timeout)
        if self._loading:
            left = dict(self._loading)
            for task, flight in left.items():
                for member in flight.group():
                    member.fail(UsageError("the cache was closed while the value was being loaded"))
                task.cancel()
            # A load that does not heed its cancellation is not waited for.
            await asyncio.wait(left, timeout=_LAST_WORD_SECONDS)
        if self.l2 is not None:
            await self.l2.drain(max(0.0, deadline - self.loop.time()))
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self.l2 is not None:
            try:
                if self._service is not None:
                    await self._service.close(self.l2.level2)
            finally:
                await self.l2.level2.aclose()
        self.is_open = False
