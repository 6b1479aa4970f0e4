"""Invalidation of many entries at once: by group, and by index.

Another part of ``Engine``, whose helpers it uses. An index is a sorted set of keys in Valkey, added to before a lease
is taken and before a value is written: so it has the keys of loads under way too, whose right to store goes with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

from ...errors import L2UnavailableError
from ..engine import Engine
from ..entries.entry import Group
from ..level2.announcement import Announcement
from ..level2.breaker import GuardedLevel2
from ..level2.queued_write import OnDone
from ..level2.write_pipe import WritePipe
from ..level2.writes import Announce, Command, Delete
from ..runtime.l2 import L2
from ..runtime.runtime import Runtime

__all__ = ["Index", "invalidate_group", "invalidate_indexed", "is_text"]

# Values read at once to see whether they belong to a group: large answers must fit into the deadline of one exchange.
_READ_COUNT: Final = 50
_PAGE_COUNT: Final = 500


class Index(NamedTuple):
    """Where the keys of a group are.

    Attributes:
        key: The sorted set's.
        question: The command that replies 1 if it has those of every entry, whoever wrote it.
    """

    key: str
    question: Command


async def invalidate_group(
    engine: Engine,
    group: Group,
    prefix: str,
    belongs: Callable[[bytes], bool] | None = None,
    *,
    overtakes: Group | None = None,
    index: Index | None = None,
    is_state: bool = False,
    sweep: bool = False,
) -> int:
    """Remove the entries of ``group`` from both levels; return how many.

    Args:
        group: Their group in L1.
        prefix: What their keys in Valkey begin with.
        belongs: Tells from the stored bytes whether an entry belongs to the group. None: all do.
        overtakes: The group of the requests whose reads and loads under way store nothing more. None: the same.
        index: Where the keys of the group are, those of loads under way included. Where it may not be complete, and
            where there is none, every key under ``prefix`` is looked at.
        is_state: Whether it is not to be repeated if Valkey does not answer.
        sweep: Look at every key in any case.

    Raises:
        L2UnavailableError: They are gone from L1; some may be left in Valkey.
        L2CommandError: Valkey refused.
    """
    runtime = await engine.open()
    overtakes = overtakes or group
    l2 = runtime.l2
    if l2 is None:
        return _drop_group(engine, runtime, group, overtakes)
    announcement = Announcement(groups=(group,), overtaken=() if overtakes == group else (overtakes,))

    async def remove() -> int:
        # A write that is still queued could otherwise arrive behind the look.
        await l2.pipe.flush()
        removal = _Removal(l2.pipe)
        is_complete = False
        if index is not None:
            is_reliable = not sweep and not await l2.eviction.may_evict_any()
            members = _Members(l2, index.key, index.question)
            async for page in members.pages():
                await removal.remove(Delete(tuple(page), index=index.key))
            is_complete = is_reliable and members.answer == 1
        if not is_complete:
            async for page in l2.level2.scan(prefix):
                keys = page if belongs is None else await _those_that_belong(l2.level2, page, belongs)
                if keys:
                    await removal.remove(Delete(tuple(keys)))
        return await removal.finish(announcement)

    return await _removed(engine, runtime, l2, group, overtakes, remove, is_state=is_state)


async def invalidate_indexed(engine: Engine, group: Group, index: str) -> int:
    """Remove the entries whose keys are in ``index`` from both levels; return how many. Errors as above.

    Args:
        group: Their group in L1, as far as entries there know that they belong to it.
    """
    runtime = await engine.open()
    l2 = runtime.l2
    if l2 is None:
        return _drop_group(engine, runtime, group, group)

    async def remove() -> int:
        await l2.pipe.flush()
        removal = _Removal(l2.pipe)
        async for page in _Members(l2, index).pages():
            keys = tuple(key.decode() for key in page if is_text(key))
            if keys:
                delete = Delete(keys, announced=True, index=index)
                await removal.remove(delete, lambda keys=keys: engine.dropping(runtime, keys))  # type: ignore[misc]
        return await removal.finish(Announcement(groups=(group,)))

    return await _removed(engine, runtime, l2, group, group, remove, is_state=False, covers_everything=True)


async def _removed(
    engine: Engine,
    runtime: Runtime,
    l2: L2,
    group: Group,
    overtakes: Group,
    remove: Callable[[], Awaitable[int]],
    *,
    is_state: bool,
    covers_everything: bool = False,
) -> int:
    """Return what ``remove`` returns, L1 having dropped the group before and after; have it repeated if it must be."""
    _drop_group(engine, runtime, group, overtakes)
    try:
        count = await remove()
    except L2UnavailableError:
        if not is_state:
            l2.pending.note_group(overtakes, remove, covers_everything=covers_everything)
        raise
    finally:
        # For the reason given in ``Engine.written``.
        _drop_group(engine, runtime, group, overtakes)
    l2.pending.settle_group(overtakes)
    return count


def _drop_group(engine: Engine, runtime: Runtime, group: Group, overtakes: Group) -> int:
    runtime.fences.break_group(overtakes)
    return engine.l1.drop_group(group)


def is_text(key: bytes) -> bool:
    """Return whether a member of an index may be one of tiercache's keys."""
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Removal:
    """Deletes, of which the last waits for the announcement, to leave together with it."""

    def __init__(self, pipe: WritePipe) -> None:
        self._pipe = pipe
        self._last: tuple[Delete, Callable[[], OnDone]] | None = None
        self._count = 0

    async def remove(self, delete: Delete, dropping: Callable[[], OnDone] = lambda: _nothing) -> None:
        """Delete, sooner or later. What ``dropping`` does is done when it is sent, and what that returns then after."""
        last, self._last = self._last, (delete, dropping)
        if last is not None:
            self._count += await self._pipe.write(last[0], last[1]())

    async def finish(self, announcement: Announcement) -> int:
        """Return, once everything has been done and announced, how many values were deleted."""
        announce: list[tuple[Any, OnDone]] = [(Announce(announcement), _nothing)]
        if self._last is None:
            await self._pipe.write_all(announce)
        else:
            count, _ = await self._pipe.write_all([(self._last[0], self._last[1]()), *announce])
            self._count += count
        return self._count


def _nothing(_: object) -> None:
    """Do nothing with the outcome."""


class _Members:
    """The members of an index.

    Attributes:
        answer: The reply to ``question``, which is sent together with the first look.
    """

    def __init__(self, l2: L2, index: str, question: Command | None = None) -> None:
        self._link = l2
        self._index = index
        self._questions = [] if question is None else [question]
        self.answer: Any = None

    async def pages(self) -> AsyncIterator[list[bytes]]:
        """Yield them in pages; those that are there all the while at least once."""
        cursor: bytes | int = 0
        questions = self._questions
        while True:
            scan: Command = ("ZSCAN", self._index, cursor, "COUNT", _PAGE_COUNT)
            *answers, reply = await self._link.level2.execute([*questions, scan])
            if answers:
                (self.answer,), questions = answers, []
            if isinstance(reply, Exception):
                raise reply
            cursor, pairs = reply
            if pairs:
                yield pairs[::2]
            if int(cursor) == 0:
                return


async def _those_that_belong(level2: GuardedLevel2, keys: list[bytes], belongs: Callable[[bytes], bool]) -> list[bytes]:
    found: list[bytes] = []
    for start in range(0, len(keys), _READ_COUNT):
        chunk = keys[start : start + _READ_COUNT]
        values = await level2.get_values(chunk)
        found += [key for key, value in zip(chunk, values, strict=True) if value is not None and belongs(value)]
    return found
