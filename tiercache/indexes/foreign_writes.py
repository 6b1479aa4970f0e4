"""Foreign writes: software that writes entries under a cache's name without having registered.

Every tiercache process adds a key to its indexes before it writes the value. So an entry that is in no index is from
other software, and the indexes may lack more of its entries.

One process of all looks at a sample of the entries, at most once a second: the keys that the server has reported as
changed by other clients, and, every ten seconds or so, a page of all keys (SCAN), because the server reports to a
process only keys that the process holds. So the cost grows neither with the number of processes nor with the number of
writes. Software that goes on writing is found soon; a single write, when the pages reach its key.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from ..engine.entries.key_pattern import escape
from ..engine.level2.breaker import GuardedLevel2
from ..errors import TierCacheError
from ..log import CacheLog
from .names import IndexNames
from .reindex import Reindex

__all__ = ["ForeignWrites"]

# Most reported keys in a sample, and about as many keys in a page. The values of llm entries among them are read.
_SAMPLE_COUNT: Final = 20
# The average of the seconds between two pages of one process.
_PAGE_SECONDS: Final = 10.0
# Milliseconds for which no other process looks; and for which no index counts as complete after a foreign write.
_TURN_MS: Final = 900
_TRACE_MS: Final = 90_000


class ForeignWrites:
    """The search of one process for entries of other software.

    Args:
        name: The cache's name.
        reindex: Adds entries to their indexes.
        log: The cache's log.
    """

    def __init__(self, name: str, reindex: Reindex, log: CacheLog) -> None:
        self._prefixes = tuple(f"{name}:{tier}:" for tier in ("llm", "tool", "session"))
        self._prefix_bytes = tuple(prefix.encode() for prefix in self._prefixes)
        self._turn = f"{name}:__tc:looked"
        self._names = IndexNames.of(name)
        self._reindex = reindex
        self._log = log
        self._keys: set[str] = set()
        self._page = ("MATCH", f"{escape(name)}:*", "COUNT", _SAMPLE_COUNT)
        self._cursor: bytes | int = 0
        # The second of the loop's clock from which a page is due; before the first look, None.
        self._page_at: float | None = None

    def note(self, key: str) -> None:
        """Note that another client has changed ``key``. Keys beyond the sample are forgotten."""
        if len(self._keys) < _SAMPLE_COUNT and key.startswith(self._prefixes):
            self._keys.add(key)

    async def look(self, level2: GuardedLevel2) -> bool:
        """Look at a sample; return whether one of its keys was in no index. Then the indexes count as incomplete.

        Raises:
            L2UnavailableError, L2CommandError: As for ``Reindex.run``.
        """
        now = asyncio.get_running_loop().time()
        if self._page_at is None:
            self._page_at = now + _pause()
        has_page = now >= self._page_at
        if not self._keys and not has_page:
            return False
        has_flag, is_own_turn = await level2.execute(
            [("EXISTS", self._names.flag), ("SET", self._turn, 1, "NX", "PX", _TURN_MS)]
        )
        if has_page:
            self._page_at = now + _pause()
        # Without the flag no index counts as complete, and there is nothing to find out.
        if has_flag != 1 or is_own_turn != b"OK":
            return False
        keys, self._keys = self._keys, set()
        sample = {key.encode() for key in keys}
        if has_page:
            sample |= await self._next_page(level2)
        if not sample or not await self._reindex.add(level2, list(sample)):
            return False
        names = self._names
        await level2.execute([("DEL", names.flag, names.claims), ("SET", names.trace, 1, "PX", _TRACE_MS)])
        self._log.warning(
            "other software writes entries under this name without registering: group operations look at all keys "
            "until every entry is in its index again (reindex)"
        )
        return True

    async def _next_page(self, level2: GuardedLevel2) -> set[bytes]:
        """Return the entries in the next page of all keys; none if the user may not look at them."""
        (page,) = await level2.execute([("SCAN", self._cursor, *self._page)])
        if isinstance(page, TierCacheError):
            return set()
        self._cursor, keys = page
        return {key for key in keys if key.startswith(self._prefix_bytes)}


def _pause() -> float:
    """Return the seconds until the next page. They vary, so that many processes do not ask at once."""
    return _PAGE_SECONDS * random.uniform(0.5, 1.5)
