"""Leases: one process of all loads a key, and Valkey stores only a load that no change has overtaken.

A lease is a placeholder under the key itself, ``tc:lease:{origin}:{number}``. Any software that deletes or replaces
the key ends the lease. A placeholder is neither JSON nor a value of a kv tier: every reader treats the key as absent.

The key in Valkey, as its holder sees it:

::

               take                              fill
    absent ───────────▶ placeholder (held) ─────────────▶ value
       ▲                  │  ▲ │     │
       │     give up      │  └─┘     └──▶ lost: a client deletes or replaces the key, or ``ttl`` passes
       └──────────────────┘ renew         without a renewal. Then ``fill`` stores nothing: its result is 0

``take`` is SET NX. ``renew``, ``fill`` and ``give up`` act only if the key still holds this placeholder. A refresh of a
key that has a value needs no placeholder: the value that the refresh found must still be there instead.

``take`` has these outcomes:

1. The key was empty: the lease is held.
2. The key holds this very placeholder, because a cancelled batch was sent twice: the lease is held.
3. The key holds another placeholder: the load waits, or a refresh takes the lease over.
4. The key holds a value: the load reads the value. A refresh, ``take_many``, or a load that cannot decode the value
   makes its lease on the value instead, and ``fill`` replaces the value.
5. The key holds a type other than a string: the lease allows any replacement (``Lease.holds`` is None).
6. Valkey refuses, or does not answer: the load goes on without a lease.

The same key, as a waiter sees it (the loop is in ``operations.load``):

::

    placeholder ──▶ ask the holder for a message ──▶ wait ──▶ read the key
                                                      ▲         │   value:               done
                                                      │         │   absent:              take the lease
                                                      └─────────┤   same placeholder:    wait again
                                                                │   another placeholder: load without a lease
                                                                │   ``lease_wait`` over: load without a lease

The wait ends with a message that the lease has ended, with a change of the key, or with a poll. With tracking by
interest the waiter does not ask: it has read the key, so the server reports the change. The races:

- "Lost answer": Valkey puts the placeholder there, and the answer is lost. No process would load until ``ttl`` passes.
  A Release is queued at once; if the Release is lost too, the placeholder is an orphan, and a load takes it over.
- "Written by another client": no load renews the placeholder. It is an orphan too if its form or its life is that of no
  lease (``placeholders``); otherwise it ends within ``LONGEST_LEASE_SECONDS``.
- "Cancelled while taking": the answer arrives in the step of the cancellation or later. The lease is given back.
- "Ended before asked": the holder ends its lease before it receives the waiter's message, and sends nothing. The
  waiter's poll finds the key changed.
- "Waits for itself": the holder is a load of this process whose loader waits for the waiter. ``load_of`` returns the
  holder, so that the waiter finds the cycle in the wait-for graph (``memory.flights``) and loads without a lease.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

from cachetools import LRUCache
from msgspec import structs

from ...errors import PASSING
from ..level2.announcement import Announcement
from ..level2.write_pipe import WritePipe
from ..level2.writes import INDEX_MARGIN, Announce, Release, TakeLease, WriteSet
from ..memory.flights import CURRENT_FLIGHT, WaitNode
from .placeholders import is_placeholder, may_be_renewed
from .takes import Take, Takes, is_taken, placeholder_of

__all__ = ["Lease", "Leases"]

# Renewals in one ``ttl``: two renewals in a row may be lost or late.
_RENEWALS_PER_TTL: Final = 3
# The part of its pause within which a waiter leaves the question for the end of a lease to the last process that asked.
# The pauses of a single waiter double, and its questions are further apart.
_ASKED_PART: Final = 1 / 3
# Keys for which the moment of the last question is known.
_MAX_ASKED: Final = 1000


class Lease:
    """The right of one load to store its value under ``key`` in Valkey.

    Attributes:
        holds: The bytes that the key must still hold when the value is stored; None: the key may hold anything, because
            it held a type other than a string.
        indexes: The indexes that list the key since the lease was taken.
        later_indexes: The indexes of tags that waiters have added since.
        indexed_until: Second of the loop's clock until which these indexes certainly live.
        is_awaited: Whether another process waits for the end of the lease.
        on_awaited: Called when another load begins to wait for the end of the lease, and at each repetition.
        load: The load that has the lease, as a node of the wait-for graph; None for a lease on a value.
    """

    __slots__ = (
        *("_renewal", "holds", "indexed_until", "indexes", "is_awaited", "key", "later_indexes", "load", "on_awaited"),
    )

    def __init__(self, key: str, holds: bytes | None) -> None:
        self.key = key
        self.holds = holds
        self.indexes: tuple[str, ...] = ()
        self.later_indexes: tuple[str, ...] = ()
        self.indexed_until = -math.inf
        self.is_awaited = False
        self.on_awaited: Callable[[], object] = _ignore
        self.load: WaitNode | None = None
        self._renewal: asyncio.TimerHandle | None = None

    @property
    def is_placeholder(self) -> bool:
        """Whether the lease is a placeholder that this process must renew, and remove or replace."""
        return self._renewal is not None

    def renew_after(self, delay: float, renew: Callable[[Lease], None]) -> None:
        """Schedule a call of ``renew`` in ``delay`` seconds."""
        # In an empty context: the loop keeps a timer, with its context, even after the timer is cancelled.
        self._renewal = asyncio.get_running_loop().call_later(delay, renew, self, context=Context())

    def end(self) -> None:
        """Stop the renewals."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None


def _ignore() -> None:
    """Do nothing."""


class Leases:
    """The leases that one runtime holds and waits for.

    Args:
        origin: The runtime's name in placeholders.
        ttl: Seconds that a placeholder lives unless it is renewed.
    """

    def __init__(self, pipe: WritePipe, *, origin: str, ttl: float) -> None:
        self._pipe = pipe
        self._takes = Takes(pipe, origin)
        self._ttl = ttl
        self._held: dict[str, Lease] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        # For each key the second of the loop's clock at which a process last asked for the end of its lease.
        self._asked: LRUCache[str, float] = LRUCache(_MAX_ASKED)

    # Holding

    async def take(self, key: str, indexes: tuple[str, ...], index_ttl: float | None) -> Lease | bytes:
        """Take the lease on ``key``; return the lease, or the bytes under the key that prevent it.

        Args:
            indexes, index_ttl: As for TakeLease.

        Raises:
            L2UnavailableError: Valkey did not answer.
            L2CommandError: Valkey refused the write.

        Cancelling the caller gives the lease back.
        """
        write = TakeLease(key, self._takes.new_placeholder(), self._ttl, indexes, index_ttl)
        (there,) = await self._takes.outcomes([write])
        if isinstance(there, Exception):
            raise there
        if is_taken(write, there):
            return self._hold(write)
        return Lease(key, None) if there == TakeLease.NO_STRING else bytes(there)

    async def take_over(self, key: str, placeholder: bytes, indexes: tuple[str, ...]) -> Lease | None:
        """Take the lease on ``key`` from the holder of ``placeholder``; return None if the key no longer holds it.

        For a load that must win over loads that began earlier. Errors and cancellation as for ``take``.
        """
        write = WriteSet(key, self._takes.new_placeholder(), self._ttl, replaces=placeholder, indexes=indexes)
        (outcome,) = await self._takes.outcomes([write])
        if isinstance(outcome, Exception):
            raise outcome
        return self._hold(write) if outcome else None

    async def take_many(
        self, keys: list[tuple[str, tuple[str, ...], bytes | None]], index_ttl: float | None
    ) -> list[Lease | None]:
        """Take the leases on several keys, each with its indexes, and with the orphan that its lease takes over.

        Returns:
            For each key its lease, or None if another load holds the lease, or Valkey refused or did not answer.
        """
        writes = [
            TakeLease(key, self._takes.new_placeholder(), self._ttl, indexes, index_ttl)
            if orphan is None
            else WriteSet(key, self._takes.new_placeholder(), self._ttl, replaces=orphan, indexes=indexes)
            for key, indexes, orphan in keys
        ]
        outcomes = await self._takes.outcomes(writes)
        return [self._from_outcome(write, outcome) for write, outcome in zip(writes, outcomes, strict=True)]

    def _from_outcome(self, write: Take, outcome: Any) -> Lease | None:
        if is_taken(write, outcome):
            return self._hold(write)
        if isinstance(outcome, Exception) or isinstance(write, WriteSet) or is_placeholder(outcome):
            return None
        return Lease(write.key, None if outcome == TakeLease.NO_STRING else outcome)

    def _hold(self, write: Take) -> Lease:
        lease = self._held[write.key] = Lease(write.key, placeholder_of(write))
        lease.load = CURRENT_FLIGHT.get()
        if write.indexes:
            life = write.index_ttl if isinstance(write, TakeLease) else write.ttl
            lease.indexes = write.indexes
            lease.indexed_until = math.inf if life is None else asyncio.get_running_loop().time() + life
        lease.renew_after(self._ttl / _RENEWALS_PER_TTL, self._renew)
        return lease

    def is_orphan(self, key: str, placeholder: bytes | None, life: float) -> bool:
        """Return whether ``placeholder`` is an orphan: no load holds it as the lease on ``key``.

        There are two cases:

        1. This runtime wrote the placeholder, and knows that no load of its own holds it.
        2. Another client wrote it, in a form or with a life that no process gives to a lease (``placeholders``).

        Args:
            life: Seconds that the placeholder has left, inf without an end; 0 if that is not known.
        """
        if placeholder is None:
            return False
        if placeholder.startswith(self._takes.prefix):
            lease = self._held.get(key)
            is_held = lease is not None and lease.holds == placeholder
            return not is_held and not self._takes.is_in_flight(placeholder)
        return not may_be_renewed(placeholder, life)

    def load_of(self, key: str, placeholder: bytes | None) -> WaitNode | None:
        """Return the load of this process that holds ``placeholder`` under ``key``, or None if there is none."""
        lease = self._held.get(key)
        return lease.load if lease is not None and lease.holds == placeholder else None

    def _renew(self, lease: Lease) -> None:
        def renewed(outcome: Any) -> None:
            # 1: renewed. 0: the lease is lost; the fill will store nothing. Without an answer the lease may still hold,
            # and the next renewal asks again.
            if lease.is_placeholder and (outcome == 1 or isinstance(outcome, PASSING)):
                lease.renew_after(self._ttl / _RENEWALS_PER_TTL, self._renew)

        assert lease.holds is not None
        # With its indexes: they must not expire before a load that takes longer than its value will live.
        write = WriteSet(
            lease.key, lease.holds, self._ttl, replaces=lease.holds, indexes=lease.indexes + lease.later_indexes
        )
        self._pipe.post(write, renewed)

    def fill(self, lease: Lease, write: WriteSet, on_done: Callable[[Any], object]) -> bool:
        """Queue ``write``; Valkey stores the value if the lease still holds. Otherwise ``on_done`` receives 0.

        Args:
            write: With all indexes of the entry. The fill adds the key only to those that may lack it, or that may end
                before the entry.

        Returns:
            False if the queue is full: the value was dropped and the lease given up.
        """

        def filled(outcome: Any) -> None:
            self._ended(lease)
            on_done(outcome)

        # If the fill replaces a value, other processes may have that value in L1: the fill must be announced.
        replaces_value = lease.holds is None or not is_placeholder(lease.holds)
        indexes = write.indexes if self._must_index(lease, write) else ()
        fill = structs.replace(write, replaces=lease.holds, announced=replaces_value, indexes=indexes)
        if not self._pipe.fill(fill, filled):
            self.give_up(lease)
            return False
        lease.end()
        return True

    @staticmethod
    def _must_index(lease: Lease, write: WriteSet) -> bool:
        """Return whether an index of the entry lacks the key, or may end before the entry does."""
        if write.indexes == lease.indexes and lease.indexed_until == math.inf:
            return False
        ends_at = math.inf if write.ttl is None else asyncio.get_running_loop().time() + write.ttl - INDEX_MARGIN / 2
        return write.indexes != lease.indexes or ends_at > lease.indexed_until

    def add_indexes(self, key: str, indexes: tuple[str, ...], index_ttl: float | None) -> None:
        """Add ``key``, whose load is in progress, to more indexes. The load may have its lease or be about to take it.

        Args:
            index_ttl: As for TakeLease.
        """
        # No key ever holds a new placeholder: this write replaces nothing.
        nothing = self._takes.new_placeholder()
        self._pipe.post(WriteSet(key, nothing, index_ttl, replaces=nothing, indexes=indexes))
        lease = self._held.get(key)
        if lease is not None and lease.is_placeholder:
            lease.later_indexes += indexes  # For the renewals: the indexes must not end before the load does.

    def give_up(self, lease: Lease) -> None:
        """Remove the placeholder, so that another load can start. Does nothing if the lease has no placeholder."""
        if lease.is_placeholder:
            lease.end()
            assert lease.holds is not None
            self._pipe.post(Release(lease.key, lease.holds), lambda _: self._ended(lease))

    def _ended(self, lease: Lease) -> None:
        if self._held.get(lease.key) is lease:
            del self._held[lease.key]
        self.wake(lease.key)
        if lease.is_awaited:
            self._pipe.post(Announce(Announcement(ended_leases=(lease.key,))))

    def note_awaited(self, key: str) -> None:
        """Record that another process waits for the lease on ``key``."""
        self._note_asked(key)
        lease = self._held.get(key)
        if lease is not None:
            lease.is_awaited = True
            lease.on_awaited()

    def _note_asked(self, key: str) -> None:
        self._asked[key] = asyncio.get_running_loop().time()

    # Waiting

    def ask(self, key: str, pause: float, *, is_reported: bool = False) -> None:
        """Ask the process that holds the lease on ``key`` for a message when the lease ends.

        Every process receives the question, and the message reaches all waiters. So a waiter does not ask if another
        one has just asked: else N waiters would cause N x N messages in each pause.

        Args:
            pause: Seconds until this load asks again.
            is_reported: Whether the server reports the end of the lease to this process, which needs no message then.
        """
        if (lease := self._held.get(key)) is not None:
            lease.on_awaited()  # Of a load of this process that no caller may join any more.
        elif not is_reported and (
            asyncio.get_running_loop().time() >= self._asked.get(key, -math.inf) + pause * _ASKED_PART
        ):
            self._note_asked(key)
            self._pipe.post(Announce(Announcement(awaited_leases=(key,))))

    async def wait(self, key: str, timeout: float) -> None:
        """Wait until ``wake`` is called for ``key``, at most ``timeout`` seconds."""
        wakeup: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(wakeup)
        try:
            await asyncio.wait([wakeup], timeout=timeout)
        finally:
            waiting.discard(wakeup)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    def wake(self, key: str) -> None:
        """Wake the loads that wait for ``key``, so that they read the key again."""
        # The next lease on the key has another holder, which no process has asked.
        self._asked.pop(key, None)
        for wakeup in self._waiting.get(key, ()):
            if not wakeup.done():
                wakeup.set_result(None)

    def wake_all(self) -> None:
        """Wake all waiting loads."""
        self._asked.clear()
        for key in self._waiting:
            self.wake(key)

    def end(self) -> None:
        """Stop the renewals of all leases."""
        for lease in self._held.values():
            lease.end()
