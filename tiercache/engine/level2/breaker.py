"""The circuit breaker in front of Valkey: during an outage no lookup waits for a timeout, and the log stays short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any

from ...errors import L2CommandError, L2LoginError, L2ReplicaError, L2SilentError, L2UnavailableError
from ...log import CacheLog
from ...options import ResilienceOptions
from .level2 import Level2, Stored, Subscription, as_future
from .writes import Command, Write, WriteResult

__all__ = ["Breaker", "GuardedLevel2"]


class Breaker:
    """Decides whether a lookup may ask Valkey (circuit breaker: Nygard, "Release It!").

    ::

        closed ───── breaker_failures failures in a row, or ``trip`` ─────▶ open
           ▲                                                                 │
           └──────────── any answer, also the refusal of a command ──────────┘

    1. Closed: every lookup asks Valkey.
    2. Open: no lookup asks Valkey. The ``Probe`` asks it every ``breaker_pause`` seconds. Writes and commands still go
       out, and their outcomes count too.

    A refusal of the credentials opens the breaker at once: no command gets an answer without a login.

    The log gets one warning when the breaker opens and one line when it closes.
    """

    def __init__(self, options: ResilienceOptions, log: CacheLog) -> None:
        self._limit = options.breaker_failures
        self._log = log
        self._failed_count = 0
        self._opened = asyncio.Event()
        self._refusal: L2LoginError | None = None
        self._has_logged_refusal = False
        # Only the answer to a PING, which asks for the role, proves a primary: an older connection may still lead to
        # the replica, and answer.
        self._is_replica = False

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open: Valkey counts as unavailable."""
        return self._failed_count >= self._limit

    async def wait_open(self) -> None:
        """Return when the breaker is open."""
        await self._opened.wait()

    def note(self, error: BaseException | None) -> None:
        """Record the outcome of an exchange. A cancellation or a defect in this process tells nothing about Valkey."""
        if isinstance(error, L2LoginError):
            self.refused(error)
        elif error is None or isinstance(error, L2CommandError):
            self.succeeded()
        elif isinstance(error, L2SilentError | L2ReplicaError):
            self.trip(error)
        elif isinstance(error, L2UnavailableError):
            self.failed(error)

    def succeeded(self) -> None:
        """Record an answer; a refusal is an answer too. An answer after a replica was found does not count."""
        if self._failed_count and not self._is_replica:
            if self.is_open:
                self._log.info("Valkey answers again.")
                self._has_logged_refusal = False
            self._failed_count = 0
            self._refusal = None
            self._opened.clear()

    def failed(self, error: Exception) -> None:
        """Record an exchange without an answer."""
        self._failed_count += 1
        self._refusal = None
        if self._failed_count == self._limit:
            self._opened.set()
            self._log.warning("Valkey is unavailable; the cache works without Valkey until it answers again: %s", error)

    def refused(self, error: L2LoginError) -> None:
        """Open the breaker: Valkey refused the credentials."""
        self.log_login_refusal(error)
        self._refusal = error
        self._failed_count = max(self._failed_count, self._limit)
        self._opened.set()

    def log_login_refusal(self, error: L2LoginError) -> None:
        """Log, once until the breaker closes, that Valkey refuses the credentials."""
        if not self._has_logged_refusal and self._refusal is None:
            self._has_logged_refusal = True
            self._log.warning(
                "Valkey is unavailable; the cache works without Valkey until it accepts a login: %s", error
            )

    def check_allowed(self) -> None:
        """Raise L2UnavailableError while the breaker is open; L2LoginError if Valkey refused the credentials."""
        if not self.is_open:
            return
        if self._refusal is not None:
            raise L2LoginError(*self._refusal.args)
        raise L2UnavailableError(
            "the lookup was not sent: Valkey did not answer recently, and lookups ask again after it answers a PING"
        )

    def trip(self, error: Exception) -> None:
        """Open the breaker at once: Valkey did not answer within a long deadline, or the server is a replica."""
        self._is_replica |= isinstance(error, L2ReplicaError)
        if not self.is_open:
            self._failed_count = self._limit - 1
            self.failed(error)

    def found_primary(self) -> None:
        """Record the answer to a PING, from a server that is a primary."""
        self._is_replica = False
        self.succeeded()


class _RecordedExchange:
    """The context of one exchange: records the outcome of the exchange in the breaker."""

    __slots__ = ("_breaker",)

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._breaker.note(error)


class GuardedLevel2:
    """A Level2 that records every exchange in a breaker, and refuses lookups while the breaker does."""

    def __init__(self, level2: Level2, breaker: Breaker) -> None:
        self._level2 = level2
        self._breaker = breaker
        self._recorded = _RecordedExchange(breaker)

    @property
    def role_refusal(self) -> L2CommandError | None:
        return self._level2.role_refusal

    @property
    def is_answering(self) -> bool:
        """Whether the breaker is closed: the store counts as available."""
        return not self._breaker.is_open

    async def ping(self) -> None:
        with self._recorded:
            await self._level2.ping()
        self._breaker.found_primary()

    async def get(self, key: str) -> Stored | None:
        self._breaker.check_allowed()
        with self._recorded:
            return await self._level2.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        self._breaker.check_allowed()
        with self._recorded:
            return await self._level2.get_many(keys)

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._recorded:
            return await self._level2.get_values(keys)

    def apply(self, writes: Sequence[Write]) -> asyncio.Future[list[WriteResult]]:
        # A callback and no coroutine: a coroutine would cost the write pipe one more step of the event loop.
        answer = as_future(self._level2.apply(writes))
        answer.add_done_callback(self._answered)
        return answer

    async def scan(self, *prefixes: str, match: str | None = None) -> AsyncIterator[list[bytes]]:
        with self._recorded:
            async for page in self._level2.scan(*prefixes, match=match):
                yield page

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        with self._recorded:
            return await self._level2.execute(commands)

    async def trim_indexes(self) -> None:
        with self._recorded:
            await self._level2.trim_indexes()

    async def subscribe(self, *, watches: bool = False) -> Subscription:
        # Not recorded: a subscription uses a connection of its own and tells nothing about commands.
        return await self._level2.subscribe(watches=watches)

    async def start_numbers(self) -> int:
        with self._recorded:
            return await self._level2.start_numbers()

    async def last_number(self) -> int:
        with self._recorded:
            return await self._level2.last_number()

    async def aclose(self) -> None:
        await self._level2.aclose()

    def _answered(self, answer: asyncio.Future[list[WriteResult]]) -> None:
        if answer.cancelled():
            return
        error = answer.exception() or _refusal_of_all(answer.result())
        # A refused login says nothing about the other connections, on which lookups may still be answered.
        if not isinstance(error, L2LoginError):
            self._breaker.note(error)


def _refusal_of_all(results: Sequence[WriteResult]) -> L2LoginError | L2ReplicaError | None:
    """Return the refusal of a whole batch among its results: of its connection, or by a server that is no primary."""
    for result in results:
        if isinstance(result, L2LoginError | L2ReplicaError):
            return result
    return None
