"""The tasks of async hooks: a bounded number runs at a time, a bounded number waits, and further calls are dropped."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from typing import Any, Final, NamedTuple

__all__ = ["IN_HOOK", "MAX_RUNNING", "MAX_WAITING", "HookTasks"]

MAX_RUNNING: Final = 16
MAX_WAITING: Final = 1000
# Seconds that closing waits for cancelled hooks to end.
_CANCELLED_SECONDS: Final = 1.0

# Whether the running code is part of a hook: its own use of the cache makes no events.
IN_HOOK: Final[ContextVar[bool]] = ContextVar("tiercache_in_hook", default=False)


class _Call(NamedTuple):
    """A call of an async hook.

    Attributes:
        awaitable: The result of the hook, not awaited yet.
        failed: Called with the exception of the hook.
    """

    awaitable: Awaitable[object]
    failed: Callable[[BaseException], object]


class HookTasks:
    """The tasks of the async hooks of one runtime.

    Args:
        loop: The event loop on which the hooks run.

    Attributes:
        loop: See the arguments.
        is_closed: Whether ``drain`` has ended: every further call is dropped.
        dropped_count: Calls that were dropped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_closed = False
        self.dropped_count = 0
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: deque[_Call] = deque()

    def add(self, awaitable: Awaitable[object], failed: Callable[[BaseException], object]) -> None:
        """Await ``awaitable`` in a task, now or when an earlier hook has ended; drop it if too many wait already."""
        call = _Call(awaitable, failed)
        if len(self._running) < MAX_RUNNING and not self.is_closed:
            self._start(call)
        elif len(self._waiting) < MAX_WAITING and not self.is_closed:
            self._waiting.append(call)
        else:
            self._drop(call)

    def _start(self, call: _Call) -> None:
        # In an empty context: a hook is no part of the request or of the load that made the event.
        context = Context()
        context.run(IN_HOOK.set, True)
        task = self.loop.create_task(_run(call), name="tiercache-hook", context=context)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._waiting and not self.is_closed:
            self._start(self._waiting.popleft())

    def _drop(self, call: _Call) -> None:
        self.dropped_count += 1
        close_unawaited(call.awaitable)

    async def drain(self, timeout: float) -> None:
        """Return when every hook has ended; after ``timeout`` seconds cancel the running hooks, and drop the others."""
        deadline = self.loop.time() + timeout
        while self._running and (left := deadline - self.loop.time()) > 0.0:
            await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        self.is_closed = True
        while self._waiting:
            self._drop(self._waiting.popleft())
        running = list(self._running)
        for task in running:
            self.dropped_count += task.cancel()
        if running:
            # A hook that ignores its cancellation is not waited for.
            await asyncio.wait(running, timeout=_CANCELLED_SECONDS)


def close_unawaited(awaitable: Any) -> None:
    """Close a coroutine that no task will await, so that Python does not warn about it."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


async def _run(call: _Call) -> None:
    try:
        await call.awaitable
    # A hook of the program may raise any exception, and no caller waits for it. The cache logs and counts it.
    except Exception as error:
        call.failed(error)
