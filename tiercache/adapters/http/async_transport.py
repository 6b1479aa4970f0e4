"""The caching transport of asynchronous clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

from ...tiers.llm.exchanges import Headers
from .calls import Outcome
from .exchange_handler import ExchangeHandler, LiveBody
from .transport import Library, flavour

__all__ = ["async_transport"]


class _Upstream:
    """The response to a request of an asynchronous client: an ``Upstream``."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status_code
        self.headers: Headers = tuple(response.headers.multi_items())

    def chunks(self) -> AsyncIterator[bytes]:
        return self._response.aiter_bytes()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        await self._response.aclose()


class _AsyncBody:
    """The body of a response that is still arriving."""

    def __init__(self, library: Library, body: LiveBody, request: Any) -> None:
        self._library = library
        self._body = body
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                yield await self._library.next_chunk(self._body, self._request)
            except StopAsyncIteration:
                return

    async def aclose(self) -> None:
        self._body.close()


class _AsyncTransport:
    """Answers the requests of an asynchronous client from the cache."""

    def __init__(self, library: Library, handler: ExchangeHandler, inner: Any) -> None:
        self._library = library
        self._handler = handler
        self._inner = inner

    async def handle_async_request(self, request: Any) -> Any:
        url = str(request.url)
        if not self._handler.takes(request.method, url):
            return await self._send(request)
        library, body = self._library, await request.aread()

        async def send() -> _Upstream:
            return _Upstream(await self._send(request))

        answer = await library.answer(self._handler, request, url, body, send)
        if isinstance(answer, Outcome):
            response = await self._send(request)
            response.extensions["tiercache"] = answer
            return response
        new_stream = flavour(_AsyncBody, library.module.AsyncByteStream)
        return library.response(answer, lambda live: new_stream(library, live, request))

    async def _send(self, request: Any) -> Any:
        return await self._inner.send(self._library.upstream_request(request), stream=True)

    async def aclose(self) -> None:
        await self._inner.aclose()


def async_transport(module: ModuleType, handler: ExchangeHandler, inner: Any) -> Any:
    """Return a transport for an asynchronous client of ``module``, in front of the client ``inner``."""
    return flavour(_AsyncTransport, module.AsyncBaseTransport)(Library(module), handler, inner)
