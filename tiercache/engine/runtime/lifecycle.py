"""The lifecycle of a cache: made without an event loop, opened at first use, started again after a loop or a fork."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from ...errors import UsageError, WrongLoopError
from ..memory.flights import CURRENT_FLIGHT
from .runtime import Runtime

__all__ = ["Lifecycle"]


class Lifecycle:
    """Holds the one runtime of a cache.

    Args:
        start: Makes a runtime for the running loop.

    Attributes:
        runtime: The current runtime, of any loop. Only this class sets it.
    """

    def __init__(self, start: Callable[[], Runtime]) -> None:
        self._start = start
        self.runtime: Runtime | None = None
        self._inherited: list[Runtime] = []
        self._closed = False

    @property
    def is_attached(self) -> bool:
        """Whether the current runtime belongs to the running loop."""
        runtime = self.runtime
        return runtime is not None and runtime.loop is asyncio.get_running_loop()

    def open_runtime(self) -> Runtime | None:
        """Return the running loop's open runtime, or None if ``open`` must be awaited."""
        runtime = self.runtime
        if runtime is None or self._closed or not runtime.is_open or runtime.loop is not asyncio.get_running_loop():
            return None
        return runtime

    async def open(self, *, gives_up: bool = False) -> Runtime:
        """Return the runtime of the running loop, opened.

        Args:
            gives_up: Whether to close the half-open runtime if the caller is cancelled, or if opening fails, and no
                other caller waits for it. Otherwise the opening goes on for the next caller.

        Raises:
            UsageError: The cache is closed.
            WrongLoopError: The cache belongs to another loop that is still open.
            L2UnavailableError, L2CommandError: See ``Runtime.open``.
        """
        # While the cache closes, a load that the closing waits for may still ask the cache.
        if self._closed and (self.runtime is None or CURRENT_FLIGHT.get() is None):
            raise UsageError("the cache is closed")
        runtime = self._current()
        if runtime is None:
            self.runtime = runtime = self._start()
        if not runtime.is_open:
            try:
                await runtime.open()
            except BaseException:
                if gives_up and not runtime.is_wanted:
                    # The next caller starts with another runtime, and does not wait until this one is closed.
                    if self.runtime is runtime:
                        self.runtime = None
                    await runtime.abandon()
                raise
        return runtime

    async def abandon(self) -> None:
        """Close the runtime of the running loop, if there is one; the next ``open`` starts with another runtime."""
        runtime = self._current()
        self.runtime = None
        if runtime is not None:
            await runtime.abandon()

    @property
    def is_in_use(self) -> bool:
        """Whether the runtime belongs to an open loop of this process."""
        runtime = self.runtime
        return runtime is not None and runtime.pid == os.getpid() and not runtime.loop.is_closed()

    def close_unused(self) -> bool:
        """Close without an event loop; return False, and change nothing, if a runtime is in use on an open loop."""
        if self.is_in_use:
            return False
        self._closed = True
        return True

    async def aclose(self) -> None:
        """Close the runtime; ``open`` raises from now on."""
        runtime = self._current()
        self._closed = True
        if runtime is not None:
            await runtime.close()
        self.runtime = None

    def _current(self) -> Runtime | None:
        """Return the runtime if it belongs to the running loop, or None if a new one must be made."""
        runtime = self.runtime
        if runtime is None or runtime.loop is asyncio.get_running_loop():
            return runtime
        if runtime.pid != os.getpid():
            # Keep the parent's runtime: collecting it would close its transports, and that would take the parent's
            # sockets out of the epoll object which the fork shares with the parent.
            self._inherited.append(runtime)
            self.runtime = None
            return None
        if runtime.loop.is_closed():
            return None
        raise WrongLoopError(
            "this cache belongs to another event loop that is still open; make one cache for each loop, "
            "or close the other loop first"
        )
