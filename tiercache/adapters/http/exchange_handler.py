"""One request of a wrapped client on its way through the cache, whichever HTTP library it came by.

There are five cases, in this order:

1. The request is none of a model API: it is sent as it is.
2. The request bypasses the cache, by its options or because its answer depends on more than the request: it is sent as
   it is, too.
3. The cache has the answer: it is replayed.
4. The same request is in flight, in this or another process: its answer is followed as it arrives.
5. Otherwise the request is sent. Its answer is recorded, followed as it arrives, and stored if it is complete.

A request is sent in the task of its flight, so that any caller may leave. The last caller to leave a stream cancels it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from ...engine.call import Loaded
from ...engine.entries.entry import Entry
from ...engine.entries.lookup import Lookup
from ...engine.memory.loaders import RunPlain
from ...errors import L2CommandError, UsageError
from ...log import CacheLog
from ...streams.recording import Follower, Recording
from ...tiers.keys.key import LlmKey
from ...tiers.llm.exchange import is_plain_header
from ...tiers.llm.exchanges import ExchangeOptions, Exchanges, Head, Headers
from ...tiers.llm.result import LlmResponse
from .answer import Answer
from .apis import api_for
from .apis.api import ASKS_NO_MODEL, UNREADABLE, Api
from .apis.sse import Scanner, events
from .calls import CONTROL, CallOptions, ClientCalls, Outcome
from .request_key import ModelRequest, RequestKey, RequestKeys
from .target import path_of

__all__ = ["ExchangeHandler", "HttpAnswer", "HttpRequest", "LiveBody", "Upstream", "refusal"]

# The headers of a provider that reach callers of a cached answer, and callers that follow another request.
_KEPT: Final = frozenset(
    {
        *("content-type", "x-request-id", "request-id", "openai-version", "openai-processing-ms"),
        *("openai-organization", "anthropic-organization-id"),
    }
)
# Headers of the connection, and of the encoding of a body that is handed on decoded.
_OF_CONNECTION: Final = frozenset(
    {"content-encoding", "content-length", "transfer-encoding", "connection", "keep-alive"}
)
# Seconds that a load waits for the end of a body after its last event, so that the connection can be used again.
_END_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request.

    Attributes:
        method: In capital letters.
        url: The whole URL.
        headers: At least those of ``READ_HEADERS``, under names in lower case.
        control: The value of the header ``x-tiercache``, or None.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    control: str | None


class Upstream(Protocol):
    """The response of a provider, as it arrives."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the chunks of the decoded body. Raises the errors of the HTTP library."""
        ...

    async def aclose(self) -> None:
        """End the response. The connection can be used again if the body was read to its end."""
        ...


class LiveBody:
    """The body of an answer that is still arriving: an iterator over its chunks. Must be closed."""

    def __init__(self, follower: Follower, leave: Callable[[], None]) -> None:
        self._follower = follower
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._is_closed = False

    def __aiter__(self) -> LiveBody:
        return self

    async def __anext__(self) -> bytes:
        return b"".join(await anext(self._follower))

    def rest(self) -> bytes:
        """Return the rest of the body, once the loop has ended; nothing at its end.

        Raises:
            UsageError: The loop has ended before the answer.
            Exception: The error with which the answer ended.
        """
        if not self._follower.recording.is_ended:
            raise UsageError("the cache was closed while the answer was being streamed")
        return b"".join(self._follower.rest())

    def close(self) -> None:
        """Read no further. The last reader of a stream cancels it. A second call does nothing."""
        self._is_closed = True
        self._leave()

    def __del__(self) -> None:
        # A response that its caller has dropped without closing it, or that an interrupted caller never got, must not
        # keep the request going. Any thread may collect it.
        if not self._is_closed:
            # The loop may be closed: its end has closed the cache too.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.close)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer to a request.

    Attributes:
        body: All of it, or what arrives.
    """

    status: int
    headers: Headers
    body: bytes | LiveBody
    outcome: Outcome


def refusal(status: int, message: str, kind: str, outcome: Outcome) -> HttpAnswer:
    """Return an answer of the cache itself, in the form of a provider's error. SDKs do not repeat the request."""
    body = json.dumps({"error": {"message": f"tiercache: {message}", "type": kind, "code": kind, "param": None}})
    headers = (("content-type", "application/json"), ("x-should-retry", "false"), *_marks(outcome))
    return HttpAnswer(status, headers, body.encode(), outcome)


class ExchangeHandler:
    """Answers the requests of one wrapped client.

    Args:
        calls: The calls of all wrapped clients of the cache.
        options: The options of the wrapped client.
        store_when: Decides whether an answer is stored; None: a complete answer.
        run_plain: Calls the scope function of a plain client, in the thread of its caller.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        calls: ClientCalls,
        options: CallOptions,
        store_when: Callable[[Answer], bool] | None,
        log: CacheLog,
        run_plain: RunPlain | None = None,
    ) -> None:
        self._exchanges = exchanges
        self._calls = calls
        self._options = options
        self._store_when = store_when
        self._log = log
        self._run_plain = run_plain
        self._keys = RequestKeys()

    def takes(self, method: str, url: str) -> bool:
        """Return whether a request is one of a model API."""
        return api_for(method, path_of(url)) is not None

    async def handle(
        self, request: HttpRequest, body: bytes, send: Callable[[], Awaitable[Upstream]]
    ) -> HttpAnswer | Outcome:
        """Answer a request of a model API, or return the outcome of a request that the caller must send as it is.

        A request with a wrong option, on a closed cache or from another event loop is refused. So is one that opens a
        cache whose credentials Valkey refuses. An exception would make SDKs repeat the request.

        Args:
            send: Sends the request to the provider.

        Raises:
            Exception: ``send`` raised it, for this call or for the call in flight that this call waited for.
        """
        try:
            return await self._handle(request, body, send)
        except (UsageError, L2CommandError) as error:
            return self.refused(error)

    def refused(self, error: UsageError | L2CommandError) -> HttpAnswer:
        """Return the answer to a request that ``error`` has refused."""
        kind = "usage_error" if isinstance(error, UsageError) else "valkey_refused"
        outcome = self._calls.note(Outcome("refused", reason=str(error)))
        return refusal(400, str(error), kind, outcome)

    async def _handle(
        self, request: HttpRequest, body: bytes, send: Callable[[], Awaitable[Upstream]]
    ) -> HttpAnswer | Outcome:
        options = self._calls.options(self._options, request.control)
        if options.mode == "bypass":
            return self._calls.note(Outcome("bypass", reason="the mode is bypass"))
        scope = await self._scope(options)
        found = self._keys.of(
            ModelRequest(request.method, request.url, request.headers, body, scope, bool(options.stateful))
        )
        if found is None or found.bypass is not None:
            reason = None if found is None else found.bypass
            # A request of another service is none that the cache could have answered.
            if options.mode == "only_cached" and reason not in (None, ASKS_NO_MODEL):
                return self._not_cached(Outcome("miss", reason=reason))
            return self._calls.note(Outcome("bypass", reason=reason))
        return await self._answer(found, options, send)

    async def _scope(self, options: CallOptions) -> str | None:
        if self._run_plain is None or not callable(options.scope):
            return options.scope_now()
        # The thread of the caller has the thread-local variables by which the function knows the tenant.
        return await self._run_plain(options.scope_now)  # type: ignore[no-any-return]

    async def _answer(
        self, found: RequestKey, options: CallOptions, send: Callable[[], Awaitable[Upstream]]
    ) -> HttpAnswer | Outcome:
        exchanges, mode = self._exchanges, options.mode or "use"
        key = exchanges.key(found.digest, found.model)
        if mode == "use" and (entry := exchanges.hit(key, options.tags)) is not None:
            return self._replay(key, entry, "l1")
        record = partial(self._record, found.api, key, send)
        lookup = await exchanges.get_or_record(
            key, record, ExchangeOptions(found.is_stream, mode, options.ttl, options.tags)
        )
        if lookup.ongoing is not None:
            return self._follow(key, lookup)
        if lookup.entry is not None:
            return self._replay(key, lookup.entry, lookup.source)
        if mode == "only_cached":
            return self._not_cached(Outcome("miss", key.key))
        return self._calls.note(Outcome("bypass", key.key, "the call is part of the load that it would wait for"))

    # Answers

    def _not_cached(self, outcome: Outcome) -> HttpAnswer:
        self._calls.note(outcome)
        return refusal(504, "the cache does not have the answer (only_cached)", "only_cached", outcome)

    def _replay(self, key: LlmKey, entry: Entry, source: str | None) -> HttpAnswer:
        exchange = entry.value
        outcome = self._calls.note(Outcome(source, key.key, age=self._exchanges.age(entry)))  # type: ignore[arg-type]
        return HttpAnswer(exchange.status, (*exchange.headers, *_marks(outcome)), exchange.body, outcome)

    def _follow(self, key: LlmKey, lookup: Lookup) -> HttpAnswer:
        follower: Follower = lookup.ongoing.place
        outcome = self._calls.note(Outcome("follower" if lookup.coalesced else "loader", key.key))
        head: Head = follower.recording.head
        headers = head.kept if lookup.coalesced else head.headers
        return HttpAnswer(head.status, (*headers, *_marks(outcome)), LiveBody(follower, lookup.ongoing.leave), outcome)

    # The request to the provider

    async def _record(
        self,
        api: Api,
        key: LlmKey,
        send: Callable[[], Awaitable[Upstream]],
        show: Callable[[Recording], None],
    ) -> Loaded:
        """Send the request, record its answer, and return it for storing: a ``Record`` of the load."""
        upstream = await send()
        head = _head(upstream)
        recording = Recording(head, max_bytes=self._exchanges.max_bytes)
        chunks = upstream.chunks()
        recording.at_last = partial(_finish, upstream, chunks, recording)
        show(recording)
        scanner = Scanner(api) if head.status == 200 and _is_events(head) else None
        await _read(chunks, recording, scanner)
        if head.status != 200 or (scanner is not None and not _is_whole(scanner)):
            return self._exchanges.unstored(key)
        if not recording.is_whole:
            return self._exchanges.too_large(key)
        body = b"".join(recording.parts())
        return await self._loaded(api, key, head, body, scanner)

    async def _loaded(self, api: Api, key: LlmKey, head: Head, body: bytes, scanner: Scanner | None) -> Loaded:
        answer = api.read_whole(body) if scanner is None else api.read_events(events(body))
        response = LlmResponse(answer.text, tokens=answer.tokens, store=self._may_store(answer))
        return self._exchanges.loaded(key, head, body, response, priced_as=answer.model)

    def _may_store(self, answer: Answer) -> bool:
        if self._store_when is None or answer is UNREADABLE:
            return answer.is_complete
        try:
            return bool(self._store_when(answer))
        # The caller's function may raise any exception; the answer reaches its callers in any case.
        except Exception as error:
            self._log.warn_once("store_when of a wrapped client raised, so the answer is not stored: %r", error)
            return False


def _is_whole(scanner: Scanner) -> bool:
    return scanner.is_over and not scanner.is_failed


async def _read(chunks: AsyncIterator[bytes], recording: Recording, scanner: Scanner | None) -> None:
    """Record the body of a response to its end, or to the last event of a stream."""
    async for chunk in chunks:
        if scanner is not None:
            scanner.feed(chunk)
            # Before a reader has the last event: an SDK closes the response as soon as it has read that event.
            recording.is_complete = scanner.is_over
        recording.append(chunk, len(chunk))
        if recording.is_complete:
            recording.end()
            return
        await recording.wait_for_room()
    if scanner is not None:
        scanner.end()
    recording.is_complete = scanner is None or scanner.is_over
    recording.end()


async def _finish(upstream: Upstream, chunks: AsyncIterator[bytes], recording: Recording) -> None:
    """End a response. Read the rest of a complete one first, so that its connection can be used again."""
    try:
        if recording.is_complete:
            async with asyncio.timeout(_END_SECONDS):
                async for _ in chunks:
                    pass
    # The answer is stored: no error of the connection counts any more.
    except Exception:
        return
    finally:
        await upstream.aclose()


def _head(upstream: Upstream) -> Head:
    # A gateway may have a cache of its own: the marks of this cache count.
    headers = tuple(
        (name, value)
        for name, value in upstream.headers
        if name.lower() not in _OF_CONNECTION and not name.lower().startswith(CONTROL)
    )
    kept = tuple((name.lower(), value) for name, value in headers if name.lower() in _KEPT)
    return Head(upstream.status, headers, tuple(header for header in kept if is_plain_header(*header)))


def _is_events(head: Head) -> bool:
    kind = next((value for name, value in head.headers if name.lower() == "content-type"), "")
    return kind.lower().startswith("text/event-stream")


def _marks(outcome: Outcome) -> Headers:
    """Return the headers that show the outcome of a call."""
    marks = [(CONTROL, "hit" if outcome.hit else "miss"), (f"{CONTROL}-source", outcome.source)]
    if outcome.key is not None:
        marks.append((f"{CONTROL}-key", outcome.key))
    if outcome.age is not None:
        marks.append(("age", str(int(outcome.age))))
    return tuple(marks)
