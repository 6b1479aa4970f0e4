"""Leases: of all processes one loads a key, and only a load that nothing has overtaken is stored.

The lease is a placeholder in the key itself, ``tc:lease:{runtime}:{number}``: put there if the key is empty, renewed as
long as the load runs, and replaced by the value if it is still there then. So whatever deletes or replaces the key, by
whichever software, takes the right to store away. It is neither JSON nor a value of a kv tier: every reader takes it
for absent. Of a key that has a value already (a refresh), that value stands in for the placeholder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from ...errors import L2UnavailableError
from ..level2.announcement import Announcement
from ..level2.write_pipe import WritePipe
from ..level2.writes import Announce, Release, TakeLease, WriteSet
from ..memory.flights import CURRENT_FLIGHT, Dependant

__all__ = ["PLACEHOLDER_PREFIX", "Lease", "Leases", "holder_of", "is_placeholder"]

PLACEHOLDER_PREFIX: Final = b"tc:lease:"
# A renewal may be lost, or late, twice.
_RENEWALS_A_LIFE: Final = 3


def is_placeholder(data: bytes) -> bool:
    """Return whether ``data`` stand for a load under way."""
    return data.startswith(PLACEHOLDER_PREFIX)


def holder_of(placeholder: bytes) -> str:
    """Return the name of the runtime that has put ``placeholder`` there."""
    return placeholder[len(PLACEHOLDER_PREFIX) :].partition(b":")[0].decode(errors="replace")


class Lease:
    """One right to store under ``key`` in Valkey.

    Attributes:
        holds: What the key must still hold for the right to last; None: whatever it is, for it is no string.
        is_wanted: Whether another process waits for it to end.
        load: The load that has it, as far as it may be waited for.
    """

    __slots__ = ("_renewal", "holds", "is_wanted", "key", "load")

    def __init__(self, key: str, holds: bytes | None) -> None:
        self.key = key
        self.holds = holds
        self.is_wanted = False
        self.load: Dependant | None = None
        self._renewal: asyncio.TimerHandle | None = None

    @property
    def is_placeholder(self) -> bool:
        """Whether it is a placeholder of this process, to be renewed and removed by it."""
        return self._renewal is not None

    def renew_after(self, delay: float, renew: Callable[[Lease], None]) -> None:
        """Call ``renew`` in ``delay`` seconds."""
        self._renewal = asyncio.get_running_loop().call_later(delay, renew, self)

    def end(self) -> None:
        """Renew no more."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None


def _is_taken(write: TakeLease | WriteSet, outcome: Any) -> bool:
    """Return whether the placeholder was put there. There already, it was by the same command, sent a second time."""
    if isinstance(write, WriteSet):
        return bool(outcome == 1)
    return outcome is None or bool(outcome == write.placeholder)


def _placeholder_of(write: TakeLease | WriteSet) -> bytes:
    return write.placeholder if isinstance(write, TakeLease) else write.value


class Leases:
    """The leases that one runtime holds and waits for.

    Args:
        origin: The runtime's name in placeholders.
        ttl: Seconds that a placeholder lives unless it is renewed.
    """

    def __init__(self, pipe: WritePipe, *, origin: str, ttl: float) -> None:
        self._pipe = pipe
        self._prefix = PLACEHOLDER_PREFIX + origin.encode() + b":"
        self._taken_count = 0
        self._ttl = ttl
        self._held: dict[str, Lease] = {}
        # Placeholders that are being put there: sent, and not answered yet.
        self._on_their_way: set[bytes] = set()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    # Holding

    async def take(self, key: str, indexes: tuple[str, ...]) -> Lease | bytes:
        """Return the lease on ``key``, or the bytes that are there instead.

        Raises:
            L2UnavailableError: No answer.
            L2CommandError: Valkey refused.

        Cancelling gives back what has been taken.
        """
        write = TakeLease(key, self._new_placeholder(), self._ttl, indexes)
        (there,) = await self._answers([write])
        if isinstance(there, Exception):
            raise there
        if _is_taken(write, there):
            return self._hold(key, write.placeholder)
        return Lease(key, None) if there == TakeLease.NO_STRING else bytes(there)

    async def take_over(self, key: str, placeholder: bytes, indexes: tuple[str, ...]) -> Lease | None:
        """Return the lease on ``key`` in place of whoever has put ``placeholder`` there, None if it is not there now.

        For a load that is to win over those begun before it. Errors and cancellation as for ``take``.
        """
        write = WriteSet(key, self._new_placeholder(), self._ttl, replaces=placeholder, indexes=indexes)
        (outcome,) = await self._answers([write])
        if isinstance(outcome, Exception):
            raise outcome
        return self._hold(key, write.value) if outcome else None

    async def take_many(self, wanted: list[tuple[str, tuple[str, ...]]]) -> list[Lease | None]:
        """Return the lease on each key, with its indexes, None where another process loads it or Valkey refuses."""
        writes = [TakeLease(key, self._new_placeholder(), self._ttl, indexes) for key, indexes in wanted]
        outcomes = await self._answers(writes)
        return [self._from_outcome(write, outcome) for write, outcome in zip(writes, outcomes, strict=True)]

    def _new_placeholder(self) -> bytes:
        self._taken_count += 1
        return self._prefix + str(self._taken_count).encode()

    def _from_outcome(self, write: TakeLease, outcome: Any) -> Lease | None:
        if _is_taken(write, outcome):
            return self._hold(write.key, write.placeholder)
        if isinstance(outcome, Exception) or is_placeholder(outcome):
            return None
        return Lease(write.key, None if outcome == TakeLease.NO_STRING else outcome)

    def _hold(self, key: str, placeholder: bytes) -> Lease:
        lease = self._held[key] = Lease(key, placeholder)
        lease.load = CURRENT_FLIGHT.get()
        lease.renew_after(self._ttl / _RENEWALS_A_LIFE, self._renew)
        return lease

    async def _answers(self, writes: Sequence[TakeLease | WriteSet]) -> list[Any]:
        """Return the outcomes of taking leases. Cancelled, what has been taken, or is yet to be, is given back."""
        is_wanted = True

        def answered(write: TakeLease | WriteSet, outcome: Any) -> None:
            if not is_wanted:
                self._return(write, outcome)
            elif isinstance(outcome, L2UnavailableError):
                # It may be there all the same, and nobody would load until it runs out.
                self._pipe.post(Release(write.key, _placeholder_of(write)))

        placeholders = {_placeholder_of(write) for write in writes}
        self._on_their_way |= placeholders
        futures = [self._pipe.submit(write, partial(answered, write)) for write in writes]
        try:
            return await asyncio.gather(*futures, return_exceptions=True)
        except asyncio.CancelledError:
            is_wanted = False
            for write, future in zip(writes, futures, strict=True):
                # Answered in the very moment of the cancellation.
                if future.done() and not future.cancelled() and future.exception() is None:
                    self._return(write, future.result())
            raise
        finally:
            self._on_their_way -= placeholders

    def _return(self, write: TakeLease | WriteSet, outcome: Any) -> None:
        if _is_taken(write, outcome):
            self._pipe.post(Release(write.key, _placeholder_of(write)))

    def is_orphan(self, key: str, placeholder: bytes | None) -> bool:
        """Return whether ``placeholder`` is of this process, which has never heard that it was put under ``key``."""
        if placeholder is None:
            return False
        lease = self._held.get(key)
        is_held = lease is not None and lease.holds == placeholder
        return placeholder.startswith(self._prefix) and not is_held and placeholder not in self._on_their_way

    def load_of(self, key: str, placeholder: bytes | None) -> Dependant | None:
        """Return the load of this process that has put ``placeholder`` under ``key``, None for another's."""
        lease = self._held.get(key)
        return lease.load if lease is not None and lease.holds == placeholder else None

    def _renew(self, lease: Lease) -> None:
        def renewed(outcome: Any) -> None:
            # Where it is not the placeholder that is there, the right is gone, and the fill will be refused. No answer
            # says nothing; the next renewal asks again.
            if lease.is_placeholder and (outcome == 1 or isinstance(outcome, L2UnavailableError)):
                lease.renew_after(self._ttl / _RENEWALS_A_LIFE, self._renew)

        assert lease.holds is not None
        self._pipe.post(WriteSet(lease.key, lease.holds, self._ttl, replaces=lease.holds), renewed)

    def fill(self, lease: Lease, data: bytes, ttl: float | None, on_done: Callable[[Any], object]) -> bool:
        """Queue the value, to be stored if the right still lasts; the outcome is 0 if it was not.

        Returns:
            False, the lease having been given up, if the queue is full.
        """

        def filled(outcome: Any) -> None:
            self._settle(lease)
            on_done(outcome)

        # In place of a value, which others may have in memory, it is news to them.
        replaces_value = lease.holds is None or not is_placeholder(lease.holds)
        write = WriteSet(lease.key, data, ttl, replaces=lease.holds, announced=replaces_value)
        if not self._pipe.fill(write, filled):
            self.give_up(lease)
            return False
        lease.end()
        return True

    def give_up(self, lease: Lease) -> None:
        """Remove the placeholder, so that somebody else can load. Does nothing if there is none of this process."""
        if lease.is_placeholder:
            lease.end()
            assert lease.holds is not None
            self._pipe.post(Release(lease.key, lease.holds), lambda _: self._settle(lease))

    def _settle(self, lease: Lease) -> None:
        if self._held.get(lease.key) is lease:
            del self._held[lease.key]
        self.wake(lease.key)
        if lease.is_wanted:
            self._pipe.post(Announce(Announcement(settled=(lease.key,))))

    def note_wanted(self, key: str) -> None:
        """Note that another process waits for the lease on ``key``, if this one holds it."""
        lease = self._held.get(key)
        if lease is not None:
            lease.is_wanted = True

    # Waiting

    def ask(self, key: str) -> None:
        """Tell whoever holds the lease on ``key`` that it is waited for."""
        if key not in self._held:
            self._pipe.post(Announce(Announcement(wanted=(key,))))

    async def wait(self, key: str, timeout: float) -> None:
        """Return when something is heard of ``key``, or after ``timeout`` seconds."""
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(heard)
        try:
            await asyncio.wait([heard], timeout=timeout)
        finally:
            waiting.discard(heard)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    def wake(self, key: str) -> None:
        """Let those who wait for ``key`` look again."""
        for heard in self._waiting.get(key, ()):
            if not heard.done():
                heard.set_result(None)

    def wake_all(self) -> None:
        """Let everyone who waits look again."""
        for key in self._waiting:
            self.wake(key)

    def end(self) -> None:
        """Renew nothing any more."""
        for lease in self._held.values():
            lease.end()
