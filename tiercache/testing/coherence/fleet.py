"""The replicas of a run. They may leave, and others join, while the load goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Self

from msgspec.structs import replace

from ...options import TrackingMode
from .history import Event, Joined
from .members import LocalMember, Member, ProcessMember, local_member, process_member
from .settings import ReplicaSettings

__all__ = ["Fleet"]


class Fleet:
    """The replicas of a run, until the end of ``async with``.

    Args:
        first: The settings of replica 0; those of the others differ in number and tracking.
        record: Adds an event to the history.
        untracked_l1_ttl: Seconds after which L1 forgets an entry in replicas that do not track.

    Attributes:
        members: The replicas that take part now. The list stays the same object.
    """

    def __init__(self, first: ReplicaSettings, record: Callable[[Event], None], *, untracked_l1_ttl: float) -> None:
        self._first = first
        self._record = record
        self._untracked_l1_ttl = untracked_l1_ttl
        self._stacks: dict[str, AsyncExitStack] = {}
        self.members: list[Member] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        async with AsyncExitStack() as stack:
            for each in self._stacks.values():
                stack.push_async_exit(each)
            if error is not None:
                raise error

    async def start(self, process_count: int, trackings: Sequence[TrackingMode]) -> None:
        """Make a replica for each of ``trackings``, the last ``process_count`` of them in their own processes."""
        for number, tracking in enumerate(trackings):
            settings = replace(self._first, number=number, tracking=tracking)
            await self._add(settings, in_process=number >= len(trackings) - process_count)
        for member in self.members:
            await self._welcome(member)

    async def replace(self, member: Member, tracking: TrackingMode) -> None:
        """Close a replica, and start another one with its number, as if a process were started again."""
        self.members.remove(member)
        await member.stop()
        await member.finish()
        await self._stacks.pop(member.name).aclose()
        settings = replace(member.settings, life=member.settings.life + 1, tracking=tracking)
        joined = await self._add(settings, in_process=isinstance(member, ProcessMember))
        await self._welcome(joined)
        joined.start()

    async def _add(self, settings: ReplicaSettings, *, in_process: bool) -> Member:
        l1_ttl = self._untracked_l1_ttl if settings.tracking == "off" else self._first.l1_ttl
        settings = replace(settings, l1_ttl=l1_ttl)
        stack = self._stacks[settings.name] = AsyncExitStack()
        made: LocalMember | ProcessMember
        if in_process:
            made = await stack.enter_async_context(process_member(settings, self._record))
        else:
            made = await stack.enter_async_context(local_member(settings, self._record))
        self.members.append(made)
        return made

    async def _welcome(self, member: Member) -> None:
        """Note a replica once its cache is open."""
        if isinstance(member, ProcessMember):
            await member.wait_ready()
        self._record(Joined(member.name, time.monotonic(), member.settings.tracking))
