"""The follower: keeps a subscription for as long as a runtime lives, and asks on it for proof that it is alive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from ...errors import L2CommandError, L2UnavailableError, TierCacheError
from ...log import CacheLog
from ...options import CoherenceOptions
from ..level2.announcement import Event, Pong
from ..level2.level2 import Level2, Subscription
from ..level2.write_pipe import WritePipe
from ..level2.writes import Track
from .coherence import Coherence

__all__ = ["Listener"]

_PING_SECONDS: Final = 1.0
# Pings in the time that one answer is good for: all but one of them may be lost.
_PINGS_A_BOUND: Final = 3
# Pings in a row without an answer after which a subscription is given up.
_MOST_UNANSWERED: Final = 4
_FIRST_ANSWER: Final = 1.0
_FIRST_RETRY: Final = 0.05
_LAST_RETRY: Final = 2.0
_REFUSED_RETRY: Final = 30.0


class Listener:
    """Receives the changes of other processes from ``level2`` and passes them to ``coherence``."""

    def __init__(
        self,
        level2: Level2,
        pipe: WritePipe,
        coherence: Coherence,
        options: CoherenceOptions,
        now: Callable[[], float],
        log: CacheLog,
    ) -> None:
        self._level2 = level2
        self._pipe = pipe
        self._coherence = coherence
        self._now = now
        self._log = log
        self._interval = min(_PING_SECONDS, options.max_staleness / _PINGS_A_BOUND)
        self._tracking = options.tracking
        self._tracking_number: int | None = None
        self._subscription: Subscription | None = None
        self._unanswered_count = 0
        self._warned = False

    @property
    def is_tracking(self) -> bool:
        """Whether the server tells what others than tiercache change."""
        return self._tracking_number is not None

    async def open(self) -> None:
        """Subscribe, if Valkey answers; ``run`` goes on with it, or tries again.

        Raises:
            L2CommandError: Valkey does not track, and ``tracking`` is "on".
        """
        try:
            self._subscription = await self._subscribe()
        except L2UnavailableError as error:
            self._log.debug("There is no subscription yet: %s", error)
        except L2CommandError as error:
            if self._tracking == "on":
                raise
            self._refused(error)

    async def run(self) -> None:
        """Follow until cancelled; subscribe anew whenever the subscription ends."""
        retry = _FIRST_RETRY
        try:
            while True:
                try:
                    if self._subscription is None:
                        await asyncio.sleep(retry * random.uniform(0.5, 1.0))
                        self._subscription = await self._subscribe()
                    retry = _FIRST_RETRY
                    await self._follow(self._subscription)
                except L2UnavailableError as error:
                    self._log.debug("The subscription has ended: %s", error)
                    retry = min(retry * 2, _LAST_RETRY)
                except TierCacheError as error:
                    self._refused(error)
                    retry = _REFUSED_RETRY
                # A defect; memory is not believed meanwhile, and the next subscription may go well.
                except Exception:
                    self._log.exception("The subscription has ended by an unexpected error")
                    retry = _LAST_RETRY
                await self._end()
        finally:
            await self._end()

    async def _end(self) -> None:
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.aclose()

    def _refused(self, error: TierCacheError) -> None:
        if not self._warned:
            self._warned = True
            self._log.warning(
                "Valkey does not let this process hear of changes, so that entries are served from memory for "
                "CoherenceOptions.max_staleness only: %s",
                error,
            )

    async def _subscribe(self) -> Subscription:
        subscription = await self._level2.subscribe()
        try:
            await self._track(subscription)
            self._coherence.subscribed(await self._level2.position())
            # Until this is answered memory is not trusted: what was said before it is still to come.
            await self._ping(subscription)
            async with asyncio.timeout(_FIRST_ANSWER):
                while not isinstance(event := await subscription.receive(), Pong):
                    self._coherence.apply(event)
            self._coherence.apply(event)
        except TimeoutError as error:
            await subscription.aclose()
            raise L2UnavailableError("Valkey did not answer on the subscription in time") from error
        except BaseException:
            await subscription.aclose()
            raise
        return subscription

    async def _follow(self, subscription: Subscription) -> None:
        self._unanswered_count = 0
        pinging = asyncio.get_running_loop().create_task(self._keep_pinging(subscription), name="tiercache-ping")
        try:
            await subscription.follow(self._heard)
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)

    def _heard(self, event: Event) -> None:
        if isinstance(event, Pong):
            self._unanswered_count = 0
        self._coherence.apply(event)

    async def _keep_pinging(self, subscription: Subscription) -> None:
        # Counted and not timed: while the loop is blocked no ping is sent, and answers wait to be read.
        while self._unanswered_count < _MOST_UNANSWERED:
            await asyncio.sleep(self._interval)
            self._unanswered_count += 1
            # A connection that has ended is noticed by who receives on it; that commands are not answered, by others.
            with suppress(TierCacheError):
                await self._ping(subscription)
            if self.is_tracking and subscription.id is not None:
                self._pipe.post(Track(subscription.id), self._tracked)
        await subscription.aclose()

    async def _ping(self, subscription: Subscription) -> None:
        # In this order: what was numbered when the question was asked has been said when the ping is sent, and is heard
        # before that is answered. What was numbered later is the next ping's.
        asked_at = self._now()
        number = await self._level2.last_number()
        await subscription.ping(asked_at, number)

    # Tracking

    async def _track(self, subscription: Subscription) -> None:
        if self._tracking == "off":
            return
        try:
            if subscription.id is None:
                raise L2CommandError("the server does not say what it knows a connection by (CLIENT ID)")
            self._tracked(await self._pipe.submit(Track(subscription.id)))
        except L2CommandError as error:
            if self._tracking == "on":
                raise
            self._tracked(error)

    def _tracked(self, outcome: Any) -> None:
        if isinstance(outcome, L2CommandError):
            self._tracking = "off"
            self._tracking_number = None
            self._log.warning(
                "Valkey does not tell what others than tiercache change (CLIENT TRACKING), so that it is seen after "
                "l1_ttl at the latest: %s",
                outcome,
            )
        elif isinstance(outcome, int) and outcome != self._tracking_number:
            is_first = self._tracking_number is None
            self._tracking_number = outcome
            if is_first:
                return  # The subscription itself is new, and nothing is believed yet.
            # It was not being told for a while, at least.
            self._coherence.distrust("changes by others may have been made while the server did not tell of them")
