"""The parts that the caching transports of asynchronous and of plain clients share, for ``httpx`` and ``httpx2``.

A transport takes each request of the wrapped client. What the cache does not answer, it sends through the original
client, whose proxies, credentials, event hooks and mounts therefore count, for requests to the provider alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any, Final, NoReturn, TypeVar

from ...errors import TierCacheError
from .calls import CONTROL, Outcome
from .exchange_handler import ExchangeHandler, HttpAnswer, HttpRequest, LiveBody, Upstream
from .request_key import READ_HEADERS

__all__ = ["Library", "flavour"]

T = TypeVar("T")

# The names of the headers that the cache reads.
_READ: Final = frozenset(name.encode() for name in (*READ_HEADERS, CONTROL))
# The modules whose errors a flight may hand to a client of the other module.
_LIBRARIES: Final = ("httpx", "httpx2")


class Library:
    """One of the two HTTP libraries: its requests, responses, errors and timeouts.

    Args:
        module: ``httpx`` or ``httpx2``, whichever the client came from.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    async def answer(
        self, handler: ExchangeHandler, request: Any, url: str, body: bytes, send: Callable[[], Awaitable[Upstream]]
    ) -> HttpAnswer | Outcome:
        """Return the handler's answer to ``request``.

        Args:
            url: The whole URL of the request.
            body: Its body.

        Raises:
            Exception: An error of the library.
        """
        headers = _headers_of(request)
        given = HttpRequest(request.method, url, headers, headers.get(CONTROL))
        deadline = asyncio.timeout(seconds_of(request, "connect", "read"))

        async def send_without_deadline() -> Upstream:
            # The original client has the timeouts of this call's own request. The call itself may have ended already.
            with suppress(RuntimeError):
                deadline.reschedule(None)
            return await send()

        try:
            return await self._within(handler.handle(given, body, send_without_deadline), deadline, request)
        except Exception as error:
            self._raise_own(error, request)

    async def next_chunk(self, body: LiveBody, request: Any) -> bytes:
        """Return the next chunk of an answer that is still arriving.

        Raises:
            StopAsyncIteration: The answer has ended.
            Exception: An error of the library.
        """
        try:
            return await self._within(anext(body), asyncio.timeout(seconds_of(request, "read")), request)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self._raise_own(error, request)

    def rest(self, body: LiveBody, request: Any) -> bytes:
        """Return the rest of an answer whose event loop has ended; nothing at its end.

        Raises:
            Exception: An error of the library.
        """
        try:
            return body.rest()
        except Exception as error:
            self._raise_own(error, request)

    def response(self, answer: HttpAnswer, new_stream: Callable[[LiveBody], Any]) -> Any:
        """Return ``answer`` as a response of the library.

        Args:
            new_stream: Returns the stream of the body of an answer that is still arriving.
        """
        headers, body = list(answer.headers), answer.body
        if isinstance(body, bytes):
            # A stream: a response that is made of content cannot be read as raw bytes, and has no elapsed time.
            headers.append(("content-length", str(len(body))))
            stream = self.module.ByteStream(body)
        else:
            stream = new_stream(body)
        extensions = {"tiercache": answer.outcome}
        # As bytes: the library takes no text but ASCII, and a provider may send other characters.
        raw = [(name.encode(), value.encode()) for name, value in headers]
        return self.module.Response(answer.status, headers=raw, stream=stream, extensions=extensions)

    def upstream_request(self, request: Any) -> Any:
        """Return the request to send to the provider: ``request`` without the header that has options."""
        if CONTROL not in request.headers:
            return request
        headers = request.headers.copy()
        del headers[CONTROL]
        sent = self.module.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
        )
        if isinstance(sent.stream, self.module.ByteStream):
            sent.read()  # It is in memory. Event hooks of the original client may look at it.
        return sent

    async def _within(self, work: Awaitable[T], deadline: asyncio.Timeout, request: Any) -> T:
        """Await ``work`` until ``deadline``: a caller that follows another caller's request has its own timeouts."""
        try:
            async with deadline:
                return await work
        except TimeoutError as error:
            if not deadline.expired():
                raise
            message = "no answer to the same request of another call within the timeouts of this call"
            raise self.module.ReadTimeout(message, request=request) from error

    def _raise_own(self, error: Exception, request: Any) -> NoReturn:
        """Raise ``error`` as an error of the library: an SDK, and its caller, handle these alone.

        The other library may have raised it, because clients of both can share a request. All callers that share a
        request get the same error.
        """
        module = self.module
        if isinstance(error, TierCacheError):
            raise module.RemoteProtocolError(str(error), request=request) from error
        if isinstance(error, TimeoutError):
            raise module.ReadTimeout(f"no answer in time: {error}", request=request) from error
        library = type(error).__module__.partition(".")[0]
        if library in _LIBRARIES and library != module.__name__:
            kind = getattr(module, type(error).__name__, module.TransportError)
            raise kind(str(error), request=request) from error
        raise error


def _headers_of(request: Any) -> dict[str, str]:
    """Return the headers that the cache reads, under names in lower case. Values of one name are joined by a comma.

    The library's own mapping decodes every header of a request again for each lookup.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in request.headers.raw:
        if (raw := raw_name.lower()) in _READ:
            # Two values never look alike: bytes that are no UTF-8 become lone surrogates, which no key takes.
            name, value = raw.decode(), raw_value.decode(errors="surrogateescape")
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def seconds_of(request: Any, *names: str) -> float | None:
    """Return the sum of timeouts of a request, such as "connect" and "read", or None if one of them has no limit."""
    timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
    seconds = [timeouts.get(name) for name in names]
    return None if None in seconds else sum(filter(None, seconds))


@cache
def flavour(kind: type, base: type) -> Any:
    """Return ``kind`` as a subclass of ``base``, the class of one of the libraries that its clients ask for."""
    return type(kind.__name__.lstrip("_"), (kind, base), {"__module__": __name__})
