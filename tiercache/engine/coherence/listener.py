"""The listener: keeps a subscription while a runtime lives, and proves by PINGs that the subscription works.

::

    subscribe ──▶ turn on tracking ──▶ position ──▶ PING ──▶ first PONG ──▶ follow: events and PONGs
        ▲                                                                                       │
        └──── wait, then retry ◀──── the connection ends, or 4 PINGs in a row without a message ┘

A PING proves only that the subscription works. Tracking depends on the connection of the writes too. With tracking by
interest, this process first asks, on that connection and behind all queued writes, whether tracking is still on; only
then it sends the PING. With tracking by broadcast it asks behind the PING: while it asks, L1 stays in use.

The order matters: this process subscribes first, then asks for the position, and then sends the PING. So the position
counts a change, or the message of the change is still to arrive. Only the PONG renews the trust in L1: the PONG arrives
behind the messages that were published before the PING. On a slow network many such messages take a while, so any
message shows that the connection works, and the PONG has much longer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ...errors import PASSING, L2CommandError, L2LoginError, L2ReplicaError, L2UnavailableError, TierCacheError
from ...log import CacheLog
from ...options import CoherenceOptions
from ...supervision import keep_running
from ..level2.announcement import Event, Pong
from ..level2.level2 import Level2, Subscription
from ..level2.write_pipe import WritePipe
from ..level2.writes import Track, TrackingState
from .coherence import Coherence

__all__ = ["Listener"]

_PING_SECONDS: Final = 1.0
# PINGs in ``max_staleness`` seconds: trust lasts if one of them is answered.
_PINGS_PER_BOUND: Final = 3
# PINGs in a row after which the listener gives the subscription up: without any message, and without a PONG.
_MAX_SILENT_COUNT: Final = 4
_MAX_UNANSWERED_COUNT: Final = 60
# Seconds without a message, and seconds in all, after which the first PONG is late.
_FIRST_PONG: Final = 1.0
_LAST_FIRST_PONG: Final = 60.0
# Pauses before the next attempt to subscribe.
_FIRST_RETRY: Final = 0.05
_LAST_RETRY: Final = 2.0
_REFUSED_RETRY: Final = 30.0


class Listener:
    """Receives the changes of other processes from ``level2`` and passes them to ``coherence``.

    Attributes:
        tracking: How the server reports the changes of other clients, or None if it does not.
    """

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
        self._interval = min(_PING_SECONDS, options.max_staleness / _PINGS_PER_BOUND)
        self._tracking = options.tracking
        self.tracking: TrackingState | None = None
        self._subscription: Subscription | None = None
        self._silent_count = 0
        self._unanswered_count = 0
        self._has_warned = False

    @property
    def is_tracking(self) -> bool:
        """Whether the server reports the changes of other clients, so also of software other than tiercache."""
        return self.tracking is not None

    async def open(self) -> None:
        """Subscribe, if Valkey answers. ``run`` continues with this subscription, or tries again.

        Raises:
            L2CommandError: Valkey refused the subscription or tracking, and ``tracking`` is "on".
        """
        try:
            self._subscription = await self._subscribe()
        except PASSING as error:
            self._log.debug("No subscription to changes yet: %s", error)
        except L2CommandError as error:
            if self._tracking == "on":
                raise
            self._warn_refused(error)

    async def run(self) -> None:
        """Follow the subscription until cancelled; subscribe again whenever it ends."""
        retry = _FIRST_RETRY
        try:
            while True:
                try:
                    if self._subscription is None:
                        await asyncio.sleep(retry * random.uniform(0.5, 1.0))
                        self._subscription = await self._subscribe()
                    retry = _FIRST_RETRY
                    await self._follow(self._subscription)
                except PASSING as error:
                    self._log.debug("The subscription to changes has ended: %s", error)
                    retry = min(retry * 2, _LAST_RETRY)
                except TierCacheError as error:
                    self._warn_refused(error)
                    retry = _REFUSED_RETRY
                await self.end_subscription()
        finally:
            # Also after a defect: the trust in L1 runs out, until the next subscription renews it.
            await self.end_subscription()

    async def end_subscription(self) -> None:
        """Close the connection of the subscription, if there is one."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.aclose()

    def _warn_refused(self, error: TierCacheError) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._log.warning(
                "Cannot subscribe to invalidations (ACL?); L1 entries are served for max_staleness only: %s",
                error,
            )

    async def _subscribe(self) -> Subscription:
        by_interest = self._tracking == "interest"
        subscription = await self._level2.subscribe(watches=by_interest)
        try:
            asked_at = self._now()
            if not await self._track(subscription) and by_interest:
                raise L2UnavailableError("Valkey does not track yet")
            self._coherence.subscribed(await self._level2.position())
            # Only the PONG renews the trust in L1: messages published before the PING arrive before the PONG.
            await self._ping(subscription, asked_at)
            await self._receive_first_pong(subscription)
        except TimeoutError as error:
            await subscription.aclose()
            raise L2UnavailableError("Valkey did not answer the first PING on the subscription in time") from error
        except BaseException:
            await subscription.aclose()
            raise
        return subscription

    async def _receive_first_pong(self, subscription: Subscription) -> None:
        now = asyncio.get_running_loop().time
        give_up_at = now() + _LAST_FIRST_PONG
        async with asyncio.timeout(_FIRST_PONG) as limit:
            while not isinstance(event := await subscription.receive(), Pong):
                self._coherence.apply(event)
                limit.reschedule(min(now() + _FIRST_PONG, give_up_at))
        self._coherence.apply(event)

    async def _follow(self, subscription: Subscription) -> None:
        self._silent_count = self._unanswered_count = 0
        pinging = asyncio.get_running_loop().create_task(
            keep_running("PINGs of the listener", partial(self._keep_pinging, subscription), self._log),
            name="tiercache-ping",
        )
        try:
            await subscription.follow(self._receive)
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)

    def _receive(self, event: Event) -> None:
        self._silent_count = 0
        if isinstance(event, Pong):
            self._unanswered_count = 0
        self._coherence.apply(event)

    async def _keep_pinging(self, subscription: Subscription) -> None:
        # PINGs are counted, not timed: while the event loop is blocked, no PING is sent, and answers wait to be read.
        while self._silent_count < _MAX_SILENT_COUNT and self._unanswered_count < _MAX_UNANSWERED_COUNT:
            await asyncio.sleep(self._interval)
            try:
                await self._prove(subscription)
            except L2ReplicaError:
                self._coherence.end_trust("the server is no primary any more")
                break
            # Ignored here: ``follow`` notices an ended connection, and the breaker counts failed commands.
            except TierCacheError:
                pass
        await subscription.aclose()

    async def _prove(self, subscription: Subscription) -> None:
        """Send a PING whose PONG proves that L1 has followed every change."""
        asked_at = self._now()
        if self._tracking == "interest":
            # A PING that is not sent, because no command is answered, says nothing about the subscription. If tracking
            # is not on, the server may have lost the subscription, and the connection does not show it.
            is_on = await self._track(subscription)
            self._note_unanswered()
            if is_on:
                await self._ping(subscription, asked_at)
            return
        self._note_unanswered()
        try:
            await self._ping(subscription, asked_at)
        except L2ReplicaError:
            raise  # The subscription is on another server than the next connection of the writes.
        except TierCacheError as error:
            self._log.debug("No PING was sent: %s", error)
        if self.is_tracking and subscription.id is not None:
            self._pipe.post(Track(subscription.id), self._tracking_answered)

    async def _ping(self, subscription: Subscription, asked_at: float) -> None:
        # The order matters: each change up to ``number`` was published before the PING is sent, so its message arrives
        # before the PONG, unless the message was lost. Trust therefore counts from ``asked_at``, before the questions
        # for tracking and for the number: a change with a later number belongs to the next PING.
        number = await self._level2.last_number()
        if self._level2.role_refusal is not None:
            self._log.warn_once(
                "Valkey does not tell whether the server is a primary (ROLE); this process does not notice that a "
                "primary became a replica, unless its connections end: %s",
                self._level2.role_refusal,
            )
        await subscription.ping(asked_at, number)

    def _note_unanswered(self) -> None:
        self._silent_count += 1
        self._unanswered_count += 1

    # Tracking

    async def _track(self, subscription: Subscription) -> bool:
        """Turn on tracking, or ask whether it is on; return False if it is not on now."""
        if self._tracking == "off":
            return True
        try:
            if subscription.id is None:
                raise L2CommandError("the server gives no id of the subscription, which tracking needs (CLIENT ID)")
            state = await self._pipe.submit(Track(subscription.id, subscription.watches))
        except L2LoginError:
            raise
        except L2CommandError as error:
            if self._tracking == "on":
                raise
            self._tracking_answered(error)
            return True
        self._tracking_answered(state)
        return state is not None

    def _tracking_answered(self, outcome: Any) -> None:
        if isinstance(outcome, PASSING):
            return
        if isinstance(outcome, L2CommandError):
            self._tracking = "off"
            self.tracking = None
            self._log.warning(
                "Tracking (CLIENT TRACKING) is not possible; changes by other software reach L1 after l1_ttl at the "
                "latest: %s",
                outcome,
            )
        elif isinstance(outcome, TrackingState):
            before, self.tracking = self.tracking, outcome
            if self._tracking == "interest" and outcome.mode != "interest" and outcome.number:
                self._log.warn_once(
                    "Tracking by interest is not possible; Valkey reports every change to every process: %s",
                    outcome.reason or "the server refuses to report the changes of settings to the subscription",
                )
            # The first number: the subscription is new, and L1 is not trusted yet.
            if before is not None and before.number != outcome.number:
                self._coherence.distrust("other software may have changed keys while tracking was off")
