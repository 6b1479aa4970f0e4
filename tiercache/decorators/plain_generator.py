"""Plain generators of ``cache.sync``, stepped through from the private event loop.

Each step runs as a plain loader does (``portal``): in the thread of the reader that waits for the item.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from threading import Lock
from typing import Any, Final

from ..engine.memory.loaders import LoaderCalls
from ..portal.call import CURRENT_CALL
from .items import ItemHead

__all__ = ["PlainGenerator"]

_END: Final = object()


class PlainGenerator(AsyncIterator[Any]):
    """A plain generator as an async iterator, for one reader at a time.

    Args:
        head: Knows the call that waits for the next item; None: the running code is that call.
    """

    def __init__(self, generator: Generator[Any, Any, Any], loaders: LoaderCalls, head: ItemHead | None) -> None:
        self._generator = generator
        self._loaders = loaders
        self._head = head
        self._is_closed = False
        self._runs = Lock()

    async def __anext__(self) -> Any:
        if self._head is not None:
            # The load outlives the call that has started it: the step runs in the thread that waits now.
            CURRENT_CALL.set(self._head.asker)
        item = await self._loaders.call(self._step)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the generator, or let the step that runs close it: that step cannot be stopped."""
        self._is_closed = True
        await self._loaders.call(self._close)

    def _step(self) -> Any:
        with self._runs:
            try:
                return next(self._generator, _END)
            finally:
                if self._is_closed:
                    self._generator.close()

    def _close(self) -> None:
        if self._runs.acquire(blocking=False):
            try:
                self._generator.close()
            finally:
                self._runs.release()
