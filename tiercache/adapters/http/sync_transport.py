"""The caching transport of plain clients.

A plain client blocks a thread. The cache works on the private event loop of ``cache.sync``, which must not be blocked:
the request is sent in the thread of the caller that waits for it, and a thread for each response reads the body
(``sync_upstream``).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from types import ModuleType
from typing import Any, Protocol, TypeVar

from ...errors import UsageError
from ...portal.call import run_plain
from .calls import Outcome
from .exchange_handler import ExchangeHandler, LiveBody
from .sync_upstream import SyncUpstream
from .transport import Library, flavour

__all__ = ["PrivateLoop", "sync_transport"]

T = TypeVar("T")


class PrivateLoop(Protocol):
    """The private event loop on which the cache works for plain code."""

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await ``make()`` on the loop, and return its result."""
        ...

    def post(self, function: Callable[[], object]) -> bool:
        """Call ``function`` on the loop soon, without waiting; return False if the loop has ended."""
        ...


class _SyncBody:
    """The body of a response that is still arriving."""

    def __init__(self, library: Library, body: LiveBody, request: Any, loop: PrivateLoop) -> None:
        self._library = library
        self._body = body
        self._request = request
        self._loop = loop

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._chunk()) is not None:
            yield chunk

    def _chunk(self) -> bytes | None:
        try:
            return self._loop.run(self._next)
        except UsageError:  # The private loop has ended. The cache has finished the answer, or has cancelled it.
            return self._library.rest(self._body, self._request) or None

    async def _next(self) -> bytes | None:
        try:
            return await self._library.next_chunk(self._body, self._request)
        except StopAsyncIteration:
            return None

    def close(self) -> None:
        self._loop.post(self._body.close)


class _Sent:
    """A response that is closed unless it is taken: the load that sent its request may have ended before."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def take(self) -> Any:
        response, self._response = self._response, None
        return response

    def __del__(self) -> None:
        if self._response is not None:
            self._response.close()


class _SyncTransport:
    """Answers the requests of a plain client from the cache."""

    def __init__(self, library: Library, handler: ExchangeHandler, inner: Any, loop: PrivateLoop) -> None:
        self._library = library
        self._handler = handler
        self._inner = inner
        self._loop = loop

    def handle_request(self, request: Any) -> Any:
        url = str(request.url)
        if not self._handler.takes(request.method, url):
            return self._send(request)
        library, body = self._library, request.read()

        async def send() -> SyncUpstream:
            sent = await run_plain(lambda: _Sent(self._send(request)))
            return SyncUpstream(library.module, sent.take())

        try:
            answer = self._loop.run(partial(library.answer, self._handler, request, url, body, send))
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
