"""Foreign writes: software that writes entries under a cache's name without having registered.

Where the server tracks keys by broadcast, it reports the keys that other clients have changed. Where it tracks by
interest, it reports only known keys, and reads note the entries that they find. Every tiercache process adds a key to
its indexes before it writes the value. So such an entry that is in no index was written by other software, and the
indexes may lack more of its entries.

One process of all looks at a sample of the reported keys, once a second: the cost grows neither with the number of
processes nor with the number of writes. Software that goes on writing is found soon; a single write may be missed.
"""

from __future__ import annotations

from typing import Final

from ..engine.level2.breaker import GuardedLevel2
from ..log import CacheLog
from .names import IndexNames
from .reindex import Reindex

__all__ = ["ForeignWrites"]

# Keys in a sample: the values of llm entries among them are read.
_SAMPLE_COUNT: Final = 20
# Milliseconds for which no other process looks; and for which no index counts as complete after a foreign write.
_TURN_MS: Final = 900
_TRACE_MS: Final = 90_000


class ForeignWrites:
    """The keys of entries that other clients may have written, as far as one process knows them.

    Args:
        name: The cache's name.
        reindex: Adds entries to their indexes.
        log: The cache's log.
    """

    def __init__(self, name: str, reindex: Reindex, log: CacheLog) -> None:
        self._prefixes = tuple(f"{name}:{tier}:" for tier in ("llm", "tool", "session"))
        self._turn = f"{name}:__tc:looked"
        self._names = IndexNames.of(name)
        self._reindex = reindex
        self._log = log
        self._keys: set[str] = set()

    def note(self, key: str) -> None:
        """Note that another client may have written ``key``. Keys beyond the sample are forgotten."""
        if len(self._keys) < _SAMPLE_COUNT and key.startswith(self._prefixes):
            self._keys.add(key)

    async def look(self, level2: GuardedLevel2) -> bool:
        """Look at the noted keys; return whether one of them was in no index. Then the indexes count as incomplete.

        Raises:
            L2UnavailableError, L2CommandError: As for ``Reindex.run``.
        """
        keys, self._keys = self._keys, set()
        if not keys:
            return False
        has_flag, is_own_turn = await level2.execute(
            [("EXISTS", self._names.flag), ("SET", self._turn, 1, "NX", "PX", _TURN_MS)]
        )
        # Without the flag no index counts as complete, and there is nothing to find out.
        if has_flag != 1 or is_own_turn != b"OK" or not await self._reindex.add(level2, [key.encode() for key in keys]):
            return False
        names = self._names
        await level2.execute([("DEL", names.flag, names.claims), ("SET", names.trace, 1, "PX", _TRACE_MS)])
        self._log.warning(
            "other software writes entries under this name without registering: group operations look at all keys "
            "until every entry is in its index again (reindex)"
        )
        return True
