"""The caching transport of plain clients.

A plain client blocks a thread. The cache works on the private event loop of ``cache.sync``, which must not be blocked:
the request is sent in the thread of the caller that waits for it, and a thread for each response reads the body.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

from ...errors import UsageError
from ...portal.call import in_thread, run_plain
from ...tiers.llm.exchanges import Headers
from .calls import Outcome
from .exchange_handler import ExchangeHandler, LiveBody
from .transport import Library, flavour

__all__ = ["PrivateLoop", "sync_transport"]

T = TypeVar("T")

# Chunks that the thread of a response may be ahead of the private loop.
_CHUNKS_AHEAD: Final = 16
# Seconds that the end of a response waits for its thread.
_END_SECONDS: Final = 1.0


class PrivateLoop(Protocol):
    """The private event loop on which the cache works for plain code."""

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await ``make()`` on the loop, and return its result."""
        ...

    def post(self, function: Callable[[], object]) -> bool:
        """Call ``function`` on the loop soon, without waiting; return False if the loop has ended."""
        ...


class _Upstream:
    """The response to a request of a plain client: an ``Upstream``, which a thread of its own reads."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        self._is_stopped = False
        self._is_read = False
        self._reading: asyncio.Future[None] | None = None
        self.status: int = response.status_code
        self.headers: Headers = tuple(response.headers.multi_items())

    async def chunks(self) -> AsyncIterator[bytes]:
        self._reading = asyncio.ensure_future(in_thread(self._read))
        while (chunk := await self._chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            self._room.release()
            yield chunk
        self._is_read = True

    def _read(self) -> None:
        """Read the body: the thread."""
        try:
            for chunk in self._response.iter_bytes():
                self._hand_over(chunk)
                self._room.acquire()
                if self._is_stopped:
                    return
            self._hand_over(None)
        # Any error of the library, or of the caller's hooks, goes to the reader of the chunks.
        except BaseException as error:
            self._hand_over(error)
        finally:
            self._response.close()

    def _hand_over(self, chunk: bytes | BaseException | None) -> None:
        with suppress(RuntimeError):  # The loop is closed: no reader is left.
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

    async def aclose(self) -> None:
        self._is_stopped = True
        if self._reading is None:
            await in_thread(self._response.close)
            return
        if not self._is_read:
            self._wake()
            self._room.release()
        await asyncio.wait([self._reading], timeout=_END_SECONDS)

    def _wake(self) -> None:
        """End the read in which the thread waits for the provider: no other thread can close its connection."""
        # A connection of HTTP/2 carries other requests too. There the thread ends with the next chunk.
        stream = self._response.extensions.get("network_stream")
        if stream is None or self._response.http_version not in ("HTTP/1.0", "HTTP/1.1"):
            return
        connection = stream.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _SyncBody:
    """The body of a response that is still arriving."""

    def __init__(self, library: Library, body: LiveBody, request: Any, loop: PrivateLoop) -> None:
        self._library = library
        self._body = body
        self._request = request
        self._loop = loop

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._loop.run(self._next)) is not None:
            yield chunk

    async def _next(self) -> bytes | None:
        try:
            return await self._library.next_chunk(self._body, self._request)
        except StopAsyncIteration:
            return None

    def close(self) -> None:
        self._loop.post(self._body.close)

    def __del__(self) -> None:
        # A response that its caller has dropped without closing it must not keep the request going.
        self._body.drop()


class _SyncTransport:
    """Answers the requests of a plain client from the cache."""

    def __init__(self, library: Library, handler: ExchangeHandler, inner: Any, loop: PrivateLoop) -> None:
        self._library = library
        self._handler = handler
        self._inner = inner
        self._loop = loop

    def handle_request(self, request: Any) -> Any:
        if not self._handler.takes(request.method, str(request.url)):
            return self._send(request)
        library, body = self._library, request.read()

        async def send() -> _Upstream:
            return _Upstream(await run_plain(partial(self._send, request)))

        try:
            answer = self._loop.run(partial(library.answer, self._handler, request, body, send))
        except UsageError as error:  # The private loop has ended.
            answer = self._handler.refused(error)
        if isinstance(answer, Outcome):
            response = self._send(request)
            response.extensions["tiercache"] = answer
            return response
        new_stream = flavour(_SyncBody, library.module.SyncByteStream)
        return library.response(answer, lambda live: new_stream(library, live, request, self._loop))

    def _send(self, request: Any) -> Any:
        return self._inner.send(self._library.upstream_request(request), stream=True)

    def close(self) -> None:
        self._inner.close()


def sync_transport(module: ModuleType, handler: ExchangeHandler, inner: Any, loop: PrivateLoop) -> Any:
    """Return a transport for a plain client of ``module``, in front of the client ``inner``."""
    return flavour(_SyncTransport, module.BaseTransport)(Library(module), handler, inner, loop)
