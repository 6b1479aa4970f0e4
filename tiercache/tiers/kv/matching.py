"""The values of a kv tier whose keys match a pattern."""

from __future__ import annotations

from typing import Any

from ...engine.entries.entry import MATCHING, Group
from ...engine.operations.invalidate import GroupEntries
from ...engine.operations.key_scan import KeyScans
from ...errors import UsageError
from ..entries import Names
from .memoized import MemoizingTier

__all__ = ["MatchingTier"]


class MatchingTier(MemoizingTier):
    """The part of a kv tier that finds values by a pattern of their keys."""

    def _full_pattern(self, pattern: str) -> str:
        return self._keys.full_pattern(pattern)

    def _names_of(self, key: str, value: Any) -> Names:
        return Names(name=self._keys.given(key))

    async def delete_pattern(self, pattern: str, *, dry_run: bool = False) -> int:
        r"""Remove every value whose key matches a pattern from both levels; return how many there were.

        Other tiers and other scopes keep their values. Loads of matching keys in progress, here and in other processes,
        store nothing.

        Args:
            pattern: A glob over the keys as the caller writes them, by the rules of ``SCAN ... MATCH``: ``*``
                matches any bytes, ``?`` one byte, ``[abc]``, ``[a-c]`` and ``[^a]`` one byte of a set, and ``\`` makes
                the next character an ordinary one. A letter beyond ASCII has two to four bytes.
            dry_run: Whether to count the values only, and remove none.

        Raises:
            L2UnavailableError: The values are gone from this process. Some may be left in Valkey; this process reads no
                matching key from Valkey, and repeats the removal until Valkey acknowledges it. With ``dry_run``: Valkey
                did not answer.
            L2CommandError: Valkey refused a command.

        Looks at every key of the database, in steps that do not block the server. Cancelling the call does not restore
        values; some may be left in Valkey.
        """
        if not isinstance(dry_run, bool):
            raise UsageError(f"dry_run must be a bool, not {type(dry_run).__name__}")
        full = self._keys.full_pattern(pattern)
        if not dry_run:
            return await self._remove_group("delete_pattern", GroupEntries(Group(MATCHING, full)), pattern=pattern)
        with self._engine.operation("kv.delete_pattern", pattern=pattern, dry_run=True):
            return await KeyScans(self._engine).count(full)
