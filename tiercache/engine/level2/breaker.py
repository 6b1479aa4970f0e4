"""The circuit breaker in front of Valkey: during an outage no lookup waits for a timeout, and the log stays short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any

from ...errors import L2CommandError, L2UnavailableError
from ...log import CacheLog
from ...options import ResilienceOptions
from .level2 import Level2, Position, Stored, Subscription, as_future
from .writes import Command, Write, WriteResult

__all__ = ["Breaker", "GuardedLevel2"]


class Breaker:
    """Decides whether a lookup may ask Valkey (circuit breaker: Nygard, "Release It!").

    ::

        closed ───── breaker_failures failures in a row, or ``trip`` ─────▶ open
           ▲                                                                 │
           └──────────────────── any answer, also a refusal ─────────────────┘

    1. Closed: every lookup asks Valkey.
    2. Open: one lookup in ``breaker_pause`` seconds asks Valkey; the other lookups do not ask. Writes and commands
       still go out, and their outcomes count too.

    The log gets one warning when the breaker opens and one line when it closes.
    """

    def __init__(self, options: ResilienceOptions, now: Callable[[], float], log: CacheLog) -> None:
        self._limit = options.breaker_failures
        self._pause = options.breaker_pause
        self._now = now
        self._log = log
        self._failed_count = 0
        self._ask_again_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open: Valkey counts as unavailable."""
        return self._failed_count >= self._limit

    def allows(self) -> bool:
        """Return whether a lookup may ask Valkey now. While open, each True starts a new pause."""
        if not self.is_open:
            return True
        now = self._now()
        if now < self._ask_again_at:
            return False
        self._ask_again_at = now + self._pause
        return True

    def note(self, error: BaseException | None) -> None:
        """Record the outcome of an exchange. A cancellation or a defect in this process tells nothing about Valkey."""
        if error is None or isinstance(error, L2CommandError):
            self.succeeded()
        elif isinstance(error, L2UnavailableError):
            self.failed(error)

    def succeeded(self) -> None:
        """Record an answer; a refusal is an answer too."""
        if self._failed_count:
            if self.is_open:
                self._log.info("Valkey answers again.")
            self._failed_count = 0

    def failed(self, error: Exception) -> None:
        """Record an exchange without an answer."""
        self._failed_count += 1
        self._ask_again_at = self._now() + self._pause
        if self._failed_count == self._limit:
            self._log.warning("Valkey is unavailable; the cache works without Valkey until it answers again: %s", error)

    def trip(self, error: Exception) -> None:
        """Open the breaker at once: Valkey did not answer within a long deadline."""
        if not self.is_open:
            self._failed_count = self._limit - 1
            self.failed(error)


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
    def is_answering(self) -> bool:
        """Whether the breaker is closed: the store counts as available."""
        return not self._breaker.is_open

    async def ping(self) -> None:
        with self._recorded:
            await self._level2.ping()

    async def get(self, key: str) -> Stored | None:
        self._check_allowed()
        with self._recorded:
            return await self._level2.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        self._check_allowed()
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

    async def scan(self, *prefixes: str) -> AsyncIterator[list[bytes]]:
        with self._recorded:
            async for page in self._level2.scan(*prefixes):
                yield page

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        with self._recorded:
            return await self._level2.execute(commands)

    async def trim_indexes(self) -> None:
        with self._recorded:
            await self._level2.trim_indexes()

    async def subscribe(self) -> Subscription:
        # Not recorded: a subscription uses a connection of its own and tells nothing about commands.
        return await self._level2.subscribe()

    async def position(self) -> Position:
        with self._recorded:
            return await self._level2.position()

    async def last_number(self) -> int:
        with self._recorded:
            return await self._level2.last_number()

    async def aclose(self) -> None:
        await self._level2.aclose()

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        if not answer.cancelled():
            self._breaker.note(answer.exception())

    def _check_allowed(self) -> None:
        if not self._breaker.allows():
            raise L2UnavailableError(
                "the lookup was not sent, because Valkey did not answer recently; lookups ask again after breaker_pause"
            )
