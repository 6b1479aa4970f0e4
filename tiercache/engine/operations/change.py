"""Changes: what surrounds every write or delete of a key or a group, so that no older value survives in this process.

    begin()   1. L1 drops the entries; 2. the fences of reads and loads in progress break
              ── the caller queues the write in the same step: no await in between ──
    done()    3. the same a second time; loads that wait for the lease look again; a delete that Valkey did not
                 acknowledge becomes a pending invalidation

The second drop closes this race: a read that starts after ``begin`` reaches Valkey before the write does, finds the
older value there and fills L1 with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ...errors import L2UnavailableError
from ..entries.entry import Group
from ..memory.fences import Fence
from ..runtime.runtime import Runtime

__all__ = ["Change", "GroupChange", "KeyChange"]

T = TypeVar("T")


class Change:
    """One change, from the first drop to the second."""

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def begin(self) -> int:
        """Drop the entries and break the fences; return how many entries L1 had. Queue the write before any await."""
        raise NotImplementedError

    def done(self, outcome: object) -> None:
        """Drop again, in the step in which Valkey's answer to the write is known.

        Args:
            outcome: The result of the write, or its error.
        """
        raise NotImplementedError


class KeyChange(Change):
    """A change of keys.

    Args:
        groups: The groups of the keys.
        is_repeated: Whether the change must be repeated until Valkey acknowledges it. Until then this process does
            not read the keys from Valkey. True for deletes; a store that fails is the caller's to repeat.
    """

    __slots__ = ("_groups", "_is_repeated", "fences", "keys")

    def __init__(
        self, runtime: Runtime, keys: Sequence[str], groups: tuple[Group, ...] = (), *, is_repeated: bool = False
    ) -> None:
        self._runtime = runtime
        self.keys = keys
        self._groups = groups
        self._is_repeated = is_repeated
        self.fences: list[Fence] = []

    def begin(self) -> int:
        l1, fences = self._runtime.l1, self._runtime.fences
        count = 0
        for key in self.keys:
            count += l1.drop(key)
            self.fences.append(fences.open_for_write(key, self._groups))
        return count

    def done(self, outcome: object) -> None:
        self._drop_again()
        if self._is_repeated or not isinstance(outcome, Exception):
            self._runtime.l2.pending.note(self.keys, outcome)

    def _drop_again(self) -> None:
        runtime = self._runtime
        leases = runtime.l2.leases
        for fence in self.fences:
            runtime.fences.written(fence)
            runtime.l1.drop(fence.key)
            leases.wake(fence.key)


class GroupChange(Change):
    """A change of the entries of a group.

    Args:
        overtakes: The group of the calls whose reads and loads in progress store nothing any more, or None for
            ``group`` itself.
        repeat: Does the change again until Valkey acknowledges it, or None if the caller must repeat it.
        hides_everything: Whether any key may belong to the group, as with a tag: then this process reads no key from
            Valkey until the change is acknowledged.
    """

    __slots__ = ("_group", "_hides_everything", "_overtakes", "_repeat")

    def __init__(
        self,
        runtime: Runtime,
        group: Group,
        *,
        overtakes: Group | None = None,
        repeat: Callable[[], Awaitable[object]] | None = None,
        hides_everything: bool = False,
    ) -> None:
        self._runtime = runtime
        self._group = group
        self._overtakes = overtakes or group
        self._repeat = repeat
        self._hides_everything = hides_everything

    def begin(self) -> int:
        return self._drop()

    def done(self, outcome: object) -> None:
        self._drop()
        pending = self._runtime.l2.pending
        if not isinstance(outcome, BaseException):
            pending.settle_group(self._overtakes)
        elif isinstance(outcome, L2UnavailableError) and self._repeat is not None:
            pending.note_group(self._overtakes, self._repeat, hides_everything=self._hides_everything)

    async def run(self, write: Callable[[], Awaitable[T]]) -> T:
        """Begin, await ``write``, which queues the write before its first await, and finish; return its result."""
        self.begin()
        try:
            result = await write()
        except BaseException as error:
            self.done(error)
            raise
        self.done(result)
        return result

    def _drop(self) -> int:
        self._runtime.fences.break_group(self._overtakes)
        return self._runtime.l1.drop_group(self._group)
