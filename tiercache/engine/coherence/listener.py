"""The listener: keeps a subscription while a runtime lives, and proves by PINGs that the subscription works.

::

    subscribe ──▶ turn reports on ──▶ decline ──▶ number ──▶ PING ──▶ first PONG ──▶ follow: events and PONGs
        ▲                                                                                     │
        └──── wait, then retry ◀──── the connection ends, or 4 PINGs in a row without a message ┘

A PING proves only that the subscription works. The reports of the server depend on the connection of the writes too
(``Reports``). This process first asks whether they are still on, and only then sends the PING. While they are off,
other software may change keys. With tracking by interest other processes may, too, because this process declines their
announcements of single keys.

The order matters: this process subscribes first, then asks for the number of the last change, and then sends the PING.
So the number counts a change, or the message of the change is still to arrive. Only the PONG renews the trust in L1:
the PONG arrives behind the messages that were published before the PING. On a slow network many such messages take a
while, so any message shows that the connection works, and the PONG has much longer.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import Final

from ...errors import PASSING, L2CommandError, L2ReplicaError, L2UnavailableError, TierCacheError
from ...log import CacheLog
from ...options import CoherenceOptions
from ...supervision import keep_running
from ..level2.announcement import Event, Pong
from ..level2.level2 import Level2, Subscription
from ..level2.write_pipe import WritePipe
from ..memory.key_announcements import ignore
from ..memory.memory import Memory
from .coherence import Coherence
from .reports import Reports

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
        reports: The reports of the server.
    """

    def __init__(
        self,
        level2: Level2,
        pipe: WritePipe,
        coherence: Coherence,
        options: CoherenceOptions,
        memory: Memory,
        log: CacheLog,
    ) -> None:
        self._level2 = level2
        self._coherence = coherence
        self._now = memory.now
        self._announcements = memory.l1.announcements
        # Set when L1 begins to need announcements of single keys.
        self._needs_announcements = asyncio.Event()
        self._log = log
        self._interval = min(_PING_SECONDS, options.max_staleness / _PINGS_PER_BOUND)
        self.reports = Reports(options.tracking, pipe, coherence, log)
        self._subscription: Subscription | None = None
        self._silent_count = 0
        self._unanswered_count = 0
        self._has_warned = False

    async def open(self) -> None:
        """Subscribe, if Valkey answers. ``run`` continues with this subscription, or tries again.

        Raises:
            L2CommandError: Valkey does not allow the kind of tracking that the caller has chosen.
        """
        try:
            self._subscription = await self._subscribe()
            self.reports.check_kind()
        except PASSING as error:
            self._log.debug("No subscription to changes yet: %s", error)
        except L2CommandError as error:
            if self.reports.is_required:
                raise
            self._warn_refused(error)

    async def run(self) -> None:
        """Follow the subscription until cancelled; subscribe again whenever it ends."""
        retry = _FIRST_RETRY
        notice = partial(asyncio.get_running_loop().call_soon_threadsafe, self._needs_announcements.set)
        self._announcements.on_need = notice
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
            self._announcements.on_need = ignore
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
        subscription = await self._level2.subscribe(watches=self.reports.may_be_by_interest)
        try:
            asked_at = self._now()
            if not await self.reports.turn_on(subscription) and self.reports.may_be_by_interest:
                raise L2UnavailableError("Valkey does not track yet")
            self._coherence.subscribed(await self._level2.start_numbers())
            await self._decline(subscription)
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
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._needs_announcements.wait()
            self._needs_announcements.clear()
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
        # A PING that is not sent, because no command is answered, says nothing about the subscription. If the reports
        # are not on, the server may have lost the subscription, and the connection does not show it.
        are_on = await self.reports.turn_on(subscription)
        self._note_unanswered()
        if are_on:
            await self._decline(subscription)
            await self._ping(subscription, asked_at)

    async def _decline(self, subscription: Subscription) -> None:
        """Decline the announcements of single keys while the server reports every key that L1 holds."""
        mode = self.reports.mode
        declines = mode == "interest" and not self._announcements.are_needed
        if declines == subscription.declines_keys:
            return
        if mode == "off":
            # Changes since the end of the reports were not announced to this process. The next subscription drops L1.
            await subscription.aclose()
        else:
            await subscription.decline_keys(declines)

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
