"""Invalidation of many entries at once: by group, and by index.

Another part of ``Engine``, whose helpers it uses. An index is a sorted set of keys in Valkey, added to before a lease
is taken and before a value is written: so it has the keys of loads under way too, whose right to store goes with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from ..errors import L2UnavailableError
from .announcement import Announcement
from .breaker import GuardedLevel2
from .engine import Engine
from .entry import Group
from .level2 import Announce, Delete
from .link import Link
from .runtime import Runtime

__all__ = ["invalidate_group", "invalidate_indexed"]

# Values read at once to see whether they belong to a group: large answers must fit into the deadline of one exchange.
_READ_COUNT: Final = 50
_PAGE_COUNT: Final = 500


async def invalidate_group(
    engine: Engine,
    group: Group,
    prefix: str,
    belongs: Callable[[bytes], bool] | None = None,
    *,
    overtakes: Group | None = None,
    index: str | None = None,
    is_state: bool = False,
) -> int:
    """Remove the entries of ``group`` from both levels; return how many.

    Args:
        group: Their group in L1.
        prefix: What their keys in Valkey begin with. Every key under it is looked at.
        belongs: Tells from the stored bytes whether an entry belongs to the group. None: all do.
        overtakes: The group of the requests whose reads and loads under way store nothing more. None: the same.
        index: Where the keys of the group are in Valkey, those of loads under way included.
        is_state: Whether it is not to be repeated if Valkey does not answer.

    Raises:
        L2UnavailableError: They are gone from L1; some may be left in Valkey.
        L2CommandError: Valkey refused.
    """
    runtime = await engine.open()
    overtakes = overtakes or group
    link = runtime.link
    if link is None:
        return _drop_group(engine, runtime, group, overtakes)
    announcement = Announcement(groups=(group,), overtaken=() if overtakes == group else (overtakes,))

    async def remove() -> int:
        # A write that is still queued could otherwise arrive behind the scan.
        await link.pipe.flush()
        count = 0
        if index is not None:
            async for page in _members(link, index):
                count += await link.pipe.write(Delete(tuple(page)))
        async for page in link.level2.scan(prefix):
            keys = page if belongs is None else await _those_that_belong(link.level2, page, belongs)
            if keys:
                count += await link.pipe.write(Delete(tuple(keys)))
        await link.pipe.write(Announce(announcement))
        return count

    return await _removed(engine, runtime, link, group, overtakes, remove, is_state=is_state)


async def invalidate_indexed(engine: Engine, group: Group, index: str) -> int:
    """Remove the entries whose keys are in ``index`` from both levels; return how many. Errors as above.

    Args:
        group: Their group in L1, as far as entries there know that they belong to it.
    """
    runtime = await engine.open()
    link = runtime.link
    if link is None:
        return _drop_group(engine, runtime, group, group)

    async def remove() -> int:
        await link.pipe.flush()
        count = 0
        async for page in _members(link, index):
            keys = tuple(key.decode() for key in page if _is_text(key))
            if keys:
                count += await link.pipe.write(Delete(keys, announced=True), engine.dropping(runtime, keys))
        await link.pipe.write(Announce(Announcement(groups=(group,))))
        return count

    return await _removed(engine, runtime, link, group, group, remove, is_state=False, hides_everything=True)


async def _removed(
    engine: Engine,
    runtime: Runtime,
    link: Link,
    group: Group,
    overtakes: Group,
    remove: Callable[[], Awaitable[int]],
    *,
    is_state: bool,
    hides_everything: bool = False,
) -> int:
    """Return what ``remove`` returns, L1 having dropped the group before and after; have it repeated if it must be."""
    _drop_group(engine, runtime, group, overtakes)
    try:
        count = await remove()
    except L2UnavailableError:
        if not is_state:
            link.unsettled.note_group(overtakes, remove, hides_everything=hides_everything)
        raise
    finally:
        # For the reason given in ``Engine.written``.
        _drop_group(engine, runtime, group, overtakes)
    link.unsettled.settle_group(overtakes)
    return count


def _drop_group(engine: Engine, runtime: Runtime, group: Group, overtakes: Group) -> int:
    runtime.fences.break_group(overtakes)
    return engine.l1.drop_group(group)


def _is_text(key: bytes) -> bool:
    """Return whether a member of an index may be one of tiercache's keys."""
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _members(link: Link, index: str) -> AsyncIterator[list[bytes]]:
    """Yield the members of an index in pages; those that are there all the while at least once."""
    cursor: bytes | int = 0
    while True:
        (reply,) = await link.level2.execute([("ZSCAN", index, cursor, "COUNT", _PAGE_COUNT)])
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
