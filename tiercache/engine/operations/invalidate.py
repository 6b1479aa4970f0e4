"""Invalidation: of keys, of a group, and of the members of an index.

An index is a sorted set of keys in Valkey. A key is added to its indexes before its lease is taken and before its value
is written, so an index also has the keys of loads in progress: their right to store is removed with the entries.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from ...errors import TierCacheError
from ..coherence.placeholders import is_placeholder
from ..engine import Engine
from ..entries.entry import MATCHING, Group
from ..level2.announcement import Announcement
from ..level2.breaker import GuardedLevel2
from ..level2.queued_write import OnDone, ignore_outcome
from ..level2.write_pipe import WritePipe
from ..level2.writes import Announce, Command, Delete
from ..memory.pins import PINS
from ..runtime.l2 import L2
from ..runtime.no_l2 import NoL2
from ..runtime.runtime import Runtime
from .change import GroupChange, KeyChange

__all__ = ["GroupEntries", "Index", "Invalidations", "Members", "is_text", "sum_of_all"]

# Values read at once to see whether they belong to a group: large answers must fit into the deadline of one exchange.
_READ_COUNT: Final = 50
_PAGE_COUNT: Final = 500


class Index(NamedTuple):
    """The index of a group.

    Attributes:
        key: The key of the sorted set.
        question: The command that replies ``complete_reply`` if the index has the keys of all entries, also of the
            entries that other software wrote.
        complete_reply: 1 or 0.
    """

    key: str
    question: Command
    complete_reply: int = 1


class GroupEntries(NamedTuple):
    """The entries of a group, and how to find them in Valkey.

    Attributes:
        group: Their group in L1.
        prefixes: The prefixes of their keys in Valkey. No other key is ever removed. Of a group of matching keys, which
            has its prefix in the pattern: none.
        belongs: Returns from the stored bytes whether an entry belongs to the group. None: every entry does.
        overtakes: The group of the calls whose reads and loads in progress store nothing any more. None: ``group``.
        group_index: The index of the group, which has the keys of loads in progress too. Where the index may be
            incomplete, and where there is none, the invalidation looks at every key under ``prefixes``.
        sift: Returns the command that replies which of some keys may belong to the group, so that ``belongs`` need not
            read the entries under all keys. None: ``belongs`` reads them.
        is_tag: Whether copies in L1, of this and of other processes, may lack the group: each removed key is announced.
        is_state: Whether the entries are state: then an invalidation that Valkey does not answer is not repeated.
    """

    group: Group
    prefixes: tuple[str, ...] = ()
    belongs: Callable[[bytes], bool] | None = None
    overtakes: Group | None = None
    group_index: Index | None = None
    sift: Callable[[Sequence[bytes]], Command] | None = None
    is_tag: bool = False
    is_state: bool = False

    @property
    def is_matching(self) -> bool:
        """Whether the entries are all whose keys match the pattern of the group."""
        return self.group.kind == MATCHING


class Invalidations:
    """The invalidations of one cache."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def key(self, key: str) -> bool:
        """Remove ``key`` from both levels; return whether it was in either.

        Raises:
            L2UnavailableError: The key is gone from L1, and may or may not be gone from Valkey.
            L2CommandError: Valkey refused the delete.
        """
        runtime = self._engine.open_runtime() or await self._engine.open()
        change = KeyChange(runtime, key, is_repeated=True)
        was_in_l1 = change.begin() > 0
        count: int = await runtime.l2.pipe.submit(Delete((key,), announced=True), change.done)
        existed = count > 0 or was_in_l1
        runtime.hooks.invalidate("key", key, int(existed))
        return existed

    async def keys(self, keys: Sequence[str]) -> int:
        """Remove keys from both levels; return how many were in either. Errors as for ``key``.

        Where one delete is refused, the other keys are gone.
        """
        runtime = await self._engine.open()
        changes = [KeyChange(runtime, key, is_repeated=True) for key in keys]
        were_in_l1 = [change.begin() > 0 for change in changes]
        deletes = [(Delete((key,), announced=True), change.done) for key, change in zip(keys, changes, strict=True)]
        counts = await runtime.l2.pipe.write_all(deletes)
        existed = [was_in_l1 or count > 0 for was_in_l1, count in zip(were_in_l1, counts, strict=True)]
        for key, is_gone in zip(keys, existed, strict=True):
            runtime.hooks.invalidate("key", key, int(is_gone))
        return sum(existed)

    async def group(self, entries: GroupEntries, *, sweep: bool = False) -> int:
        """Remove the entries of a group from both levels; return how many there were.

        Args:
            sweep: Whether to look at every key under the prefix in any case.

        Raises:
            L2UnavailableError: The entries are gone from L1; some may be left in Valkey.
            L2CommandError: Valkey refused.
        """
        runtime = await self._engine.open()
        count = await self._remove_group(entries, runtime, sweep=sweep)
        if not entries.is_state and entries.group != PINS:
            runtime.hooks.invalidate(entries.group.kind, entries.group.value, count)
        return count

    async def _remove_group(self, entries: GroupEntries, runtime: Runtime, *, sweep: bool) -> int:
        l2, group, overtakes = runtime.l2, entries.group, entries.overtakes
        if isinstance(l2, NoL2):
            return GroupChange(runtime, group, overtakes=overtakes).begin()
        overtaken = () if overtakes is None or overtakes == group else (overtakes,)
        announcement = Announcement(groups=(group,), overtaken=overtaken)

        async def remove() -> int:
            try:
                return await _GroupRemoval(runtime, l2, entries).run(announcement, sweep=sweep)
            finally:
                if group == PINS:
                    # A pin that was set during the removal may be there, or gone.
                    self._engine.pins.doubt()

        repeat = None if entries.is_state else remove
        change = GroupChange(runtime, group, overtakes=overtakes, repeat=repeat, covers_everything=entries.is_tag)
        return await change.run(remove)


class _GroupRemoval:
    """One removal of the entries of a group from Valkey."""

    def __init__(self, runtime: Runtime, l2: L2, entries: GroupEntries) -> None:
        self._runtime = runtime
        self._l2 = l2
        self._entries = entries
        self._starts = tuple([prefix.encode() for prefix in entries.prefixes])
        self._deletes = _Deletes(runtime, l2.pipe)

    async def run(self, announcement: Announcement, *, sweep: bool) -> int:
        """Delete the entries in Valkey and announce it; return how many values were deleted.

        Args:
            sweep: As for ``Invalidations.group``.
        """
        # A write that is still queued could otherwise reach Valkey after the look at the index.
        await self._l2.pipe.flush()
        index = self._entries.group_index
        if index is None or not await self._remove_indexed(index) or sweep:
            await self._sweep()
        return await self._deletes.finish(announcement)

    async def _remove_indexed(self, index: Index) -> bool:
        """Delete the entries in ``index``; return whether the index certainly lists all entries."""
        is_reliable = not await self._l2.eviction.may_evict()
        members = Members(self._l2.level2, index.key, index.question)
        async for page in members.pages():
            # Any client can write into an index. A member under other prefixes is no entry, and leaves the index.
            strange = [key for key in page if not key.startswith(self._starts)]
            if strange:
                await self._l2.level2.execute([("ZREM", index.key, *strange)])
            await self._delete([key for key in page if key.startswith(self._starts)], index.key)
        return is_reliable and isinstance(members.answer, int) and members.answer == index.complete_reply

    async def _sweep(self) -> None:
        """Look at every key under the prefixes, and delete the entries of the group."""
        entries, level2 = self._entries, self._l2.level2
        pages = level2.scan(match=entries.group.value) if entries.is_matching else level2.scan(*entries.prefixes)
        async for keys in pages:
            page = keys
            if entries.sift is not None:
                (page,) = await level2.execute([entries.sift(keys)])
                if isinstance(page, Exception):
                    raise page
            if entries.belongs is not None:
                page = await _belonging(level2, page, entries.belongs)
            await self._delete(page)

    async def _delete(self, keys: Sequence[bytes], index: str | None = None) -> None:
        if not self._entries.is_tag:
            if keys:
                await self._deletes.add(Delete(tuple(keys), index=index))
            return
        texts = tuple([key.decode() for key in keys if is_text(key)])
        if texts:
            changes = [KeyChange(self._runtime, key, is_repeated=True) for key in texts]
            await self._deletes.add(Delete(texts, announced=True, index=index), changes)


def is_text(key: bytes) -> bool:
    """Return whether a member of an index may be one of tiercache's keys."""
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Deletes:
    """Deletes in pages. The last delete waits for the announcement, so that both leave in one batch."""

    def __init__(self, runtime: Runtime, pipe: WritePipe) -> None:
        self._runtime = runtime
        self._pipe = pipe
        self._last: tuple[Delete, Sequence[KeyChange]] | None = None
        self._count = 0

    async def add(self, delete: Delete, changes: Sequence[KeyChange] = ()) -> None:
        """Send ``delete`` now or with a later call; ``changes`` begin when the delete is queued."""
        last, self._last = self._last, (delete, changes)
        if last is not None:
            (count,) = await self._pipe.write_all([self._begun(*last)])
            self._count += count

    async def finish(self, announcement: Announcement) -> int:
        """Return, once every delete is done and announced, how many values were deleted."""
        announce: tuple[Any, OnDone] = (Announce(announcement), ignore_outcome)
        if self._last is None:
            await self._pipe.write_all([announce])
        else:
            count, _ = await self._pipe.write_all([self._begun(*self._last), announce])
            self._count += count
        return self._count

    def _begun(self, delete: Delete, changes: Sequence[KeyChange]) -> tuple[Any, OnDone]:
        """Begin ``changes``; return the delete, and the function that ends them."""
        for change in changes:
            change.begin()

        def done(outcome: object) -> None:
            for change in changes:
                change.done(outcome)
            # The race "value for a placeholder": a load has put its value under one of the keys since they were read,
            # and the value may not belong to the group. The server reports this delete to other processes alone.
            for key in delete.keys:
                if isinstance(key, bytes) and is_text(key):
                    self._runtime.l1.drop(key.decode())

        return delete, done


class Members:
    """The members of an index.

    Attributes:
        answer: The reply to ``question``, which is sent together with the first page.
    """

    def __init__(self, level2: GuardedLevel2, index: str, question: Command | None = None) -> None:
        self._level2 = level2
        self._index = index
        self._questions = [] if question is None else [question]
        self.answer: Any = None

    async def pages(self) -> AsyncIterator[list[bytes]]:
        """Yield the members in pages; a member that stays in the index throughout is yielded at least once."""
        cursor: bytes | int = 0
        questions = self._questions
        while True:
            scan: Command = ("ZSCAN", self._index, cursor, "COUNT", _PAGE_COUNT)
            *answers, reply = await self._level2.execute([*questions, scan])
            if answers:
                (self.answer,), questions = answers, []
            if isinstance(reply, Exception):
                raise reply
            cursor, pairs = reply
            if pairs:
                yield pairs[::2]
            if int(cursor) == 0:
                return


async def _belonging(level2: GuardedLevel2, keys: list[bytes], belongs: Callable[[bytes], bool]) -> list[bytes]:
    """Return the keys whose values belong to the group, or are placeholders: such a load may bring an entry of it."""
    found: list[bytes] = []
    for start in range(0, len(keys), _READ_COUNT):
        chunk = keys[start : start + _READ_COUNT]
        values = await level2.get_values(chunk)
        found += [
            key
            for key, value in zip(chunk, values, strict=True)
            if value is not None and (is_placeholder(value) or belongs(value))
        ]
    return found


async def sum_of_all(removals: Sequence[Callable[[], Awaitable[int]]]) -> int:
    """Call every one of ``removals`` and return the sum of their results; raise the first error at the end."""
    count = 0
    failure: TierCacheError | None = None
    for remove in removals:
        try:
            count += await remove()
        except TierCacheError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return count
