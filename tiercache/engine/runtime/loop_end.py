"""The end of an event loop, and of a cache that is dropped: a cache that is not closed still finishes its writes.

A loop ends in one of three ways:

1. ``asyncio.run`` closes the asynchronous generators of its loop. A suspended generator of the runtime finishes then.
2. The program drives the loop by hand and closes it. The ``close`` of the loop first finishes the runtimes of the loop.
3. The program ends and never closes the loop. ``atexit`` finishes the runtimes of every open loop.

Without the cases 2 and 3 the last writes would be lost, and asyncio would report each background task as destroyed.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import warnings
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet, ref

__all__ = ["end_with_loop", "warn_if_left_open"]

# Seconds after which a dropped cache is still open only if its loop goes on.
_WARN_SECONDS: Final = 1.0


class Ending(Protocol):
    """A runtime that can be ended.

    Attributes:
        loop: Its event loop.
        pid: The process that made it.
        is_open, is_closing: As for ``Runtime``.
    """

    loop: asyncio.AbstractEventLoop
    pid: int
    is_open: bool
    is_closing: bool

    def end(self) -> Coroutine[Any, Any, None]:
        """Cancel the loads, finish the writes, and close the connections."""
        ...


# Weak: neither a runtime nor a loop lives longer because of this map.
_BY_LOOP: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, WeakSet[Any]]] = WeakKeyDictionary()


def end_with_loop(runtime: Ending) -> None:
    """Finish ``runtime`` when its loop is closed by hand, or when the process ends."""
    loop = runtime.loop
    try:
        if loop not in _BY_LOOP:
            _BY_LOOP[loop] = WeakSet()
            # On the object: the class of the loop belongs to asyncio or to another library.
            loop.close = partial(_finish_and_close, ref(loop), loop.close)  # type: ignore[method-assign]
        _BY_LOOP[loop].add(runtime)
    except (AttributeError, TypeError):
        return  # A loop that takes no attribute or no weak reference: only ``aclose`` finishes its caches.


def _finish_and_close(to_loop: ref[asyncio.AbstractEventLoop], close: Callable[[], None]) -> None:
    loop = to_loop()
    # A loop without any other reference is being collected as garbage, and must not run any more.
    if loop is not None:
        _finish(loop)
        with suppress(AttributeError):
            del loop.close
    close()


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    runtimes = [runtime for runtime in _BY_LOOP.pop(loop, ()) if runtime.pid == os.getpid()]
    if not runtimes or loop.is_closed() or loop.is_running() or asyncio._get_running_loop() is not None:
        return

    async def finish_all() -> None:
        await asyncio.gather(*(runtime.end() for runtime in runtimes), return_exceptions=True)

    # The owner of the loop closes the loop, or the process ends: neither must fail because of a cache.
    with suppress(Exception):
        loop.run_until_complete(finish_all())


@atexit.register
def _finish_all() -> None:
    for loop in list(_BY_LOOP):
        _finish(loop)


# A function and no method of the runtime: it stands beside the other ends of a cache that is not closed.
def warn_if_left_open(runtime: Ending, name: str) -> None:
    """Warn that the program has dropped the cache ``name`` without closing it, unless its loop ends now.

    A short program may drop its cache in the last step of its loop: the end of the loop closes that cache.
    """

    def warn() -> None:
        if runtime.is_open and not runtime.is_closing:
            warnings.warn(
                f"cache {name!r} was dropped without aclose(): its tasks and connections stay until its loop ends",
                ResourceWarning,
                stacklevel=1,
            )

    if runtime.is_open and not runtime.is_closing and runtime.pid == os.getpid():
        # Any thread may collect the cache. A closed loop raises RuntimeError: nothing of the cache is left then.
        with suppress(RuntimeError):
            runtime.loop.call_soon_threadsafe(partial(runtime.loop.call_later, _WARN_SECONDS, warn), context=Context())
