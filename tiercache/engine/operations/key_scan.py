"""Scans: walks over the keys in Valkey that match a key pattern."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from ..coherence.placeholders import PLACEHOLDER_PREFIX, is_placeholder
from ..engine import Engine
from ..entries.entry import MATCHING, Group
from ..level2.breaker import GuardedLevel2
from ..level2.writes import Command
from ..runtime.no_l2 import NoL2

__all__ = ["KeyScans", "distinct_pages"]

# Keys that a scan remembers, so that it skips a key that SCAN yields twice. SCAN yields a key twice when the server
# changes the size of its hash table during the scan, mostly within a short distance.
_REMEMBERED_COUNT: Final = 100_000


class KeyScans:
    """The scans of one cache."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def count(self, pattern: str) -> int:
        """Return how many entries have a key that matches ``pattern``. Changes nothing.

        Raises:
            L2UnavailableError: Valkey did not answer.
            L2CommandError: Valkey refused a command.
        """
        runtime = await self._engine.open()
        l2 = runtime.l2
        if isinstance(l2, NoL2):
            return len(runtime.l1.keys_of_group(Group(MATCHING, pattern), runtime.now()))
        runtime.breaker.check_allowed()
        await l2.pipe.flush()
        count = 0
        async for keys in distinct_pages(l2.level2, pattern):
            questions: list[Command] = [("GETRANGE", key, 0, len(PLACEHOLDER_PREFIX) - 1) for key in keys]
            for start in await l2.level2.execute(questions):
                # A refusal is about a key that holds no string: ``delete_pattern`` removes and counts it.
                count += not isinstance(start, bytes) or (start != b"" and not is_placeholder(start))
        return count


async def distinct_pages(level2: GuardedLevel2, pattern: str) -> AsyncIterator[list[bytes]]:
    """Yield the keys that match ``pattern`` in pages, each once among ``_REMEMBERED_COUNT`` keys.

    A key that exists throughout is yielded; a key that comes or goes during the scan may be.
    """
    remembered: dict[bytes, None] = {}
    async for page in level2.scan(match=pattern):
        keys = [key for key in dict.fromkeys(page) if key not in remembered]
        remembered.update(dict.fromkeys(keys))
        while len(remembered) > _REMEMBERED_COUNT:
            del remembered[next(iter(remembered))]
        if keys:
            yield keys
