"""The reports of the server: Valkey tells this process which keys other clients have changed (CLIENT TRACKING).

The reports depend on two connections: the one that carries the writes, which has tracking turned on, and the one of the
subscription, which receives the reports. A PING on the subscription proves only that the latter works. So ``Reports``
asks on the connection of the writes, behind all queued writes, whether tracking is on, and remembers the answer.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from ...errors import PASSING, L2CommandError, L2LoginError
from ...log import CacheLog
from ...options import TrackingMode
from ..level2.level2 import Subscription
from ..level2.write_pipe import WritePipe
from ..level2.writes import Track, TrackingState
from .coherence import Coherence

__all__ = ["Reports"]

_NO_ID: Final = "the server gives no id of the subscription, which tracking needs (CLIENT ID)"
_NO_WATCH: Final = "the server refuses to report the changes of settings to the subscription"


class Reports:
    """The question for tracking, and its last answer.

    Args:
        kind: The kind of tracking that the caller has chosen.

    Attributes:
        may_be_by_interest: Whether this process tracks by interest where the server allows it.
    """

    def __init__(self, kind: TrackingMode, pipe: WritePipe, coherence: Coherence, log: CacheLog) -> None:
        self._kind = kind
        self._pipe = pipe
        self._coherence = coherence
        self._log = log
        self._is_refused = False
        self._state: TrackingState | None = None
        # Why the server tracks by broadcast, and not by interest; None: by the caller's choice.
        self._reason: str | None = None
        self.may_be_by_interest = kind in ("auto", "interest")

    @property
    def is_required(self) -> bool:
        """Whether opening the cache fails if the server does not allow the chosen kind."""
        return self._kind in ("interest", "broadcast")

    @property
    def mode(self) -> Literal["interest", "broadcast", "off"]:
        """How the server reports changes now."""
        return "off" if self._state is None else self._state.mode

    @property
    def are_on(self) -> bool:
        """Whether the server reports the changes of other clients, so also of software other than tiercache."""
        return self._state is not None

    def check_kind(self) -> None:
        """Raise L2CommandError if the caller has chosen interest, and the server tracks by broadcast."""
        if self._kind == "interest" and self._state is not None and self._state.mode == "broadcast":
            reason = self._reason or "ConnectionOptions.multiplexed is False"
            raise L2CommandError(f"tracking by interest is not possible: {reason}")

    async def turn_on(self, subscription: Subscription) -> bool:
        """Turn the reports to ``subscription`` on, or ask whether they are; return False if they are not on now.

        Raises:
            L2CommandError: The server refuses, and ``is_required``.
            L2UnavailableError: The server did not answer.
        """
        if self._kind == "off" or self._is_refused:
            return True
        self._reason = _NO_WATCH if self.may_be_by_interest and not subscription.watches else None
        try:
            if subscription.id is None:
                raise L2CommandError(_NO_ID)
            state = await self._pipe.submit(Track(subscription.id, subscription.watches))
        except L2LoginError:
            raise
        except L2CommandError as error:
            if self.is_required:
                raise
            self._answered(error)
            return True
        self._answered(state)
        return state is not None

    def _answered(self, outcome: Any) -> None:
        if isinstance(outcome, PASSING):
            return
        if isinstance(outcome, L2CommandError):
            self._is_refused = True
            self._state = None
            self._log.warning(
                "Tracking (CLIENT TRACKING) is not possible; changes by other software reach L1 after l1_ttl at the "
                "latest: %s",
                outcome,
            )
        elif isinstance(outcome, TrackingState):
            before, self._state = self._state, outcome
            self._reason = self._reason or outcome.reason
            if outcome.mode == "broadcast" and self._reason is not None:
                self._log.warn_once(
                    "Tracking by interest is not possible; Valkey reports every change to every process: %s",
                    self._reason,
                )
            # The first number: the subscription is new, and L1 is not trusted yet.
            if before is not None and before.number != outcome.number:
                self._coherence.distrust("other clients may have changed keys while tracking was off")
