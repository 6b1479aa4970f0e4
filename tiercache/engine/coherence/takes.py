"""Takes: the writes that take leases, from the queue to the lease or the refusal. The races are in ``leases``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from ...errors import TierCacheError
from ..level2.write_pipe import WritePipe
from ..level2.writes import Release, TakeLease, WriteSet
from .placeholders import PLACEHOLDER_PREFIX

__all__ = ["Take", "Takes", "is_taken", "placeholder_of"]

# A WriteSet takes the lease from the holder of the placeholder that it replaces.
Take: TypeAlias = TakeLease | WriteSet


def is_taken(take: Take, outcome: Any) -> bool:
    """Return whether ``take`` took the lease. If the key already held this placeholder, the command was sent twice."""
    if isinstance(take, WriteSet):
        return bool(outcome == 1)
    return outcome is None or bool(outcome == take.placeholder)


def placeholder_of(take: Take) -> bytes:
    """Return the placeholder that ``take`` puts under its key."""
    return take.placeholder if isinstance(take, TakeLease) else take.value


class Takes:
    """The takes of one runtime.

    Args:
        origin: The runtime's name in placeholders.

    Attributes:
        prefix: The beginning of every placeholder of this runtime.
    """

    def __init__(self, pipe: WritePipe, origin: str) -> None:
        self.prefix = PLACEHOLDER_PREFIX + origin.encode() + b":"
        self._pipe = pipe
        self._count = 0
        # Placeholders whose writes are queued or sent, but not answered.
        self._in_flight: set[bytes] = set()

    def new_placeholder(self) -> bytes:
        """Return a placeholder that no key has ever held."""
        self._count += 1
        return self.prefix + str(self._count).encode()

    def is_in_flight(self, placeholder: bytes) -> bool:
        """Return whether a take of ``placeholder`` is queued, or not answered."""
        return placeholder in self._in_flight

    async def outcomes(self, takes: Sequence[Take]) -> list[Any]:
        """Queue ``takes``; return the result or the error of each. A cancellation gives all the leases back."""
        futures: list[asyncio.Future[Any]] = []

        def answered(index: int, outcome: Any) -> None:
            take = takes[index]
            if futures[index].cancelled():
                self._give_back(take, outcome)
            elif isinstance(outcome, TierCacheError):
                # The race "lost answer": the placeholder may be there, and no process would load until its ttl ends.
                # The same where the server has refused to add the key to an index.
                self._pipe.post(Release(take.key, placeholder_of(take)))

        self._in_flight |= (placeholders := {placeholder_of(take) for take in takes})
        for index, take in enumerate(takes):
            futures.append(self._pipe.submit(take, partial(answered, index)))
        try:
            for future in futures:
                # Its error is an outcome.
                with suppress(Exception):
                    await future
        except asyncio.CancelledError:
            # The cancellation has cancelled the future that this task waited for, unless that was answered already.
            for take, future in zip(takes, futures, strict=True):
                # The race "cancelled while taking": this answer has arrived. ``answered`` handles later answers.
                if not future.cancel() and not future.cancelled() and future.exception() is None:
                    self._give_back(take, future.result())
            raise
        finally:
            self._in_flight -= placeholders
        return [future.exception() or future.result() for future in futures]

    def _give_back(self, take: Take, outcome: Any) -> None:
        if is_taken(take, outcome):
            self._pipe.post(Release(take.key, placeholder_of(take)))
