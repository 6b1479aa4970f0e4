"""The caching transports, made for either of ``httpx`` and ``httpx2``: for the module that a client came from.

A transport takes each request of the wrapped client. What the cache does not answer, it sends through the original
client, whose proxies, credentials, event hooks and mounts therefore count, for requests to the provider alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any, Final, NoReturn, TypeVar

from ...errors import TierCacheError
from ...tiers.llm.exchanges import Headers
from .calls import CONTROL, Outcome
from .exchange_handler import ExchangeHandler, HttpAnswer, HttpRequest, LiveBody

__all__ = ["async_transport"]

T = TypeVar("T")

# The modules whose errors a flight may hand to a client of the other module.
_LIBRARIES: Final = ("httpx", "httpx2")


class AsyncUpstream:
    """The response to a request of an asynchronous client: an ``Upstream``."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status_code
        self.headers: Headers = tuple(response.headers.multi_items())

    def chunks(self) -> AsyncIterator[bytes]:
        return self._response.aiter_bytes()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        await self._response.aclose()


def seconds_of(request: Any, *names: str) -> float | None:
    """Return the sum of timeouts of a request, such as "connect" and "read", or None if one of them has no limit."""
    timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
    seconds = [timeouts.get(name) for name in names]
    return None if None in seconds else sum(filter(None, seconds))


def raise_library_error(module: ModuleType, error: Exception, request: Any) -> NoReturn:
    """Raise ``error`` as an error of ``module``: an SDK, and its caller, handle these alone.

    The other library may have raised it, because clients of both can share a request. All callers that share a request
    get the same error.
    """
    if isinstance(error, TierCacheError):
        raise module.RemoteProtocolError(str(error), request=request) from error
    if isinstance(error, TimeoutError):
        raise module.ReadTimeout(f"no answer in time: {error}", request=request) from error
    library = type(error).__module__.partition(".")[0]
    if library in _LIBRARIES and library != module.__name__:
        kind = getattr(module, type(error).__name__, module.TransportError)
        raise kind(str(error), request=request) from error
    raise error


def upstream_request(module: ModuleType, request: Any) -> Any:
    """Return the request to send to the provider: ``request`` without the header that has options."""
    if CONTROL not in request.headers:
        return request
    headers = request.headers.copy()
    del headers[CONTROL]
    sent = module.Request(
        request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
    )
    if isinstance(sent.stream, module.ByteStream):
        sent.read()  # It is in memory. Event hooks of the original client may look at it.
    return sent


def as_request(request: Any) -> HttpRequest:
    """Return a request of either library as the handler takes it."""
    return HttpRequest(request.method, str(request.url), request.headers, request.headers.get(CONTROL))


class _AsyncBody:
    """The body of a response that is still arriving."""

    def __init__(self, module: ModuleType, body: LiveBody, request: Any) -> None:
        self._module = module
        self._body = body
        self._request = request
        self._seconds = seconds_of(request, "read")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                deadline = asyncio.timeout(self._seconds)
                yield await _within(self._module, anext(self._body), deadline, self._request)
            except StopAsyncIteration:
                return
            except Exception as error:
                raise_library_error(self._module, error, self._request)

    async def aclose(self) -> None:
        self._body.close()

    def __del__(self) -> None:
        # A response that its caller has dropped without closing it must not keep the request going.
        self._body.drop()


class _AsyncTransport:
    """Answers the requests of an asynchronous client from the cache."""

    def __init__(self, module: ModuleType, handler: ExchangeHandler, inner: Any) -> None:
        self._module = module
        self._handler = handler
        self._inner = inner

    async def handle_async_request(self, request: Any) -> Any:
        if not self._handler.takes(request.method, str(request.url)):
            return await self._send(request)
        module, body = self._module, await request.aread()

        deadline = asyncio.timeout(seconds_of(request, "connect", "read"))

        async def send() -> AsyncUpstream:
            # The original client has the timeouts of this call's own request. The call itself may have ended already.
            with suppress(RuntimeError):
                deadline.reschedule(None)
            return AsyncUpstream(await self._send(request))

        try:
            answer = await _within(module, self._handler.handle(as_request(request), body, send), deadline, request)
        except Exception as error:
            raise_library_error(module, error, request)
        if isinstance(answer, Outcome):
            response = await self._send(request)
            response.extensions["tiercache"] = answer
            return response
        return self._response(answer, request)

    def _response(self, answer: HttpAnswer, request: Any) -> Any:
        module = self._module
        given = {"headers": list(answer.headers), "extensions": {"tiercache": answer.outcome}}
        if isinstance(answer.body, bytes):
            return module.Response(answer.status, content=answer.body, **given)
        body = _flavour(_AsyncBody, module.AsyncByteStream)(module, answer.body, request)
        return module.Response(answer.status, stream=body, **given)

    async def _send(self, request: Any) -> Any:
        return await self._inner.send(upstream_request(self._module, request), stream=True)

    async def aclose(self) -> None:
        await self._inner.aclose()


def async_transport(module: ModuleType, handler: ExchangeHandler, inner: Any) -> Any:
    """Return a transport for an asynchronous client of ``module``, in front of the client ``inner``."""
    return _flavour(_AsyncTransport, module.AsyncBaseTransport)(module, handler, inner)


@cache
def _flavour(kind: type, base: type) -> Any:
    """Return ``kind`` as a subclass of ``base``, the class of one of the libraries that its clients ask for."""
    return type(kind.__name__.lstrip("_"), (kind, base), {"__module__": __name__})


async def _within(module: ModuleType, work: Awaitable[T], deadline: asyncio.Timeout, request: Any) -> T:
    """Await ``work`` until ``deadline``: a caller that follows another caller's request has its own timeouts."""
    try:
        async with deadline:
            return await work
    except TimeoutError as error:
        if not deadline.expired():
            raise
        message = "no answer to the same request of another call within the timeouts of this call"
        raise module.ReadTimeout(message, request=request) from error
