"""The sync face: the parts of a cache on a private event loop, made at the first use, and their end.

::

    not made ── first use ──▶ made ── first operation ──▶ open ── close, aclose, exit ──▶ closed
                                                           │
                                                           └── dropped: the private thread closes the parts by itself

Tiers and guards of the face refer to the ``SyncFace``. The private loop refers to the parts, and not to the
``SyncFace``: a face that the program drops is collected, and ends its thread.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import warnings
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from ..assembly import Assembly
from ..cache_operations import CacheOperations
from ..errors import UsageError
from ..identity import KeepsIdentity
from ..locks import ThreadLock
from ..portal.blocked_loops import blocking_own_loop
from ..portal.call import run_plain
from ..portal.portal import Portal
from ..tier_options import TierOptions
from ..tiers.kv.tier import KvTier
from ..tiers.llm.exchanges import Exchanges

__all__ = ["SyncFace"]

T = TypeVar("T")

# Seconds beyond ``drain_timeout`` that the exit of the interpreter waits for a face.
_EXIT_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.001
# Seconds that ``aclose`` waits for the end of the private thread, as ``close`` does.
_THREAD_SECONDS: Final = 5.0


class SyncFace(KeepsIdentity):
    """The sync face of one cache.

    Args:
        main: The parts of the async face.

    Attributes:
        portal: The private event loop.
    """

    def __init__(self, main: Assembly, name: str) -> None:
        self._main = main
        self._name = name
        self._lock = ThreadLock()
        self._parts: Assembly | None = None
        self._operations: CacheOperations | None = None
        self._closing: concurrent.futures.Future[None] | None = None
        self._is_closed = False
        # The process in which a thread makes the parts now, or None.
        self._making_in: int | None = None
        self.portal = Portal()

    @property
    def main(self) -> Assembly:
        """The parts of the async face."""
        return self._main

    @property
    def parts(self) -> Assembly:
        """The parts of this face, made at the first use. Neither a connection nor a thread is made here."""
        if self._parts is None:
            with self._lock:
                if self._parts is None:
                    self._make_parts()
        assert self._parts is not None
        return self._parts

    def _make_parts(self) -> None:
        if self._is_closed:
            raise UsageError("the cache is closed")
        # The cache has one sync face, and the thread that makes it may be interrupted here. After a fork in the middle
        # of it, that thread is only in the parent. The child makes all parts again, and uses no unfinished part.
        if self._making_in == os.getpid():
            raise UsageError("a signal handler or a finalizer cannot use cache.sync while this thread first uses it")
        self._making_in = os.getpid()
        try:
            parts = self._main.new_sync_face(run_plain)
            self._operations = CacheOperations(parts, self._name)
            _KNOWN[self.portal] = parts
            self._parts = parts
        finally:
            self._making_in = None

    @property
    def operations(self) -> CacheOperations:
        """The operations of this face on the whole cache. They run on the private loop."""
        _ = self.parts  # Makes the operations too. No assert may do that: ``python -O`` leaves it out.
        assert self._operations is not None
        return self._operations

    @property
    def exchanges(self) -> Exchanges:
        """The exchanges of this face, for wrapped plain clients."""
        return self.parts.exchanges

    def post(self, function: Callable[[], object]) -> bool:
        """Call ``function`` on the private loop soon, as ``Portal.post``."""
        return self.portal.post(function)

    def kv_tier(self, name: str, options: TierOptions | None) -> KvTier:
        """Return a kv tier of this face. Arguments and errors as for ``AgentCache.tier``."""
        return self.parts.kv_tier(name, options)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await ``make()`` on the private loop. Errors as for ``Portal.run``, and UsageError on a closed face."""
        self._check()
        return self.portal.run(make)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a plain function of the parts, which are not made for several threads, on the private loop."""

        async def call() -> T:
            return function(*args, **kwargs)

        return self.run(call)

    def _check(self) -> None:
        # While the face closes, loads in progress may still call it; the parts refuse other calls.
        if self._is_closed and self._closing is None:
            raise UsageError("the cache is closed")

    # The end

    def close(self) -> None:
        """Close this face from plain code; close the whole cache unless its async face is open."""
        if self.portal.is_current:
            raise UsageError("an async loader of cache.sync cannot close the cache: it would wait for itself")
        closing = self._begin_closing()
        if closing is not None:
            # A load of another thread must not wait for the loop that this call blocks.
            with blocking_own_loop():
                closing.result()
            self.portal.close()
        server = self._main.shared.server
        if self._main.close_unused() and server is not None:
            server.stop()

    async def aclose(self) -> None:
        """Close this face from a coroutine of any event loop."""
        closing = self._begin_closing()
        if closing is None:
            return
        if self.portal.is_current:
            await self._end(self.parts)
            self.portal.stop()
            return
        await asyncio.shield(asyncio.wrap_future(closing))
        self.portal.stop()
        # The thread ends at once, unless a loader has left a function in the executor of the private loop.
        with suppress(TimeoutError):
            async with asyncio.timeout(_THREAD_SECONDS):
                while self.portal.is_alive:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_SECONDS)

    def _begin_closing(self) -> concurrent.futures.Future[None] | None:
        """Begin to close the parts on the private loop; return None if no thread runs, and all is closed."""
        with self._lock:
            self._is_closed = True
            if self._closing is None and self._parts is not None:
                loop = self.portal.loop
                if loop is not None and self.portal.is_alive:
                    self._closing = asyncio.run_coroutine_threadsafe(self._end(self._parts), loop)
                    # Not left to the caller, who may be cancelled or interrupted.
                    self._closing.add_done_callback(partial(_stop, self.portal))
                else:
                    self._parts.close_unused()
                    self.portal.stop()
            return self._closing if self.portal.is_alive else None

    @staticmethod
    async def _end(parts: Assembly) -> None:
        await parts.aclose()

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is None or self._is_closed or not self.portal.is_alive:
            return
        # Before the warning, which raises where warnings are errors.
        self.portal.post(partial(_end_soon, self.portal, parts))
        warnings.warn(
            f"cache {self._name!r} was dropped without close() of its sync face; its thread ends now",
            ResourceWarning,
            stacklevel=1,
        )


def _stop(portal: Portal, closing: concurrent.futures.Future[None]) -> None:
    portal.stop()


# The loop refers to its tasks weakly.
_ENDING: Final[set[asyncio.Task[None]]] = set()


def _end_soon(portal: Portal, parts: Assembly) -> None:
    """Close the parts of a dropped face, and end its thread: called on its private loop."""

    async def end() -> None:
        try:
            await parts.aclose()
        finally:
            portal.stop()

    task = asyncio.get_running_loop().create_task(end(), name="tiercache-sync-end")
    _ENDING.add(task)
    task.add_done_callback(_ENDING.discard)


# The portals of this process, for the exit of the interpreter.
_KNOWN: Final[weakref.WeakKeyDictionary[Portal, Assembly]] = weakref.WeakKeyDictionary()


def _end_all() -> None:
    for portal, parts in list(_KNOWN.items()):
        # An error here must not stop the exit of the interpreter.
        with suppress(Exception):
            if portal.is_alive:
                # The sides alone: a thread, as for the stop of a private Valkey, cannot be started any more.
                portal.run_within(parts.drain_timeout + _EXIT_SECONDS, parts.sides.aclose)
                portal.close()


# Functions at exit run in the reverse order of their registration. The first finalizer of the process registers the
# function that stops the private Valkeys; it must be there before the function that still writes to them.
weakref.finalize(SyncFace, int)
atexit.register(_end_all)
