"""The loop guard: decides from the keys and the depth of tool calls whether an agent is in a loop. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ..errors import UsageError

__all__ = ["LoopGuard", "LoopKind"]

LoopKind: TypeAlias = Literal["repeat", "oscillation", "depth"]

_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class LoopGuard:
    """The limits of the tool calls of a run.

    There are three kinds of loops:

    1. "depth": the call would be nested ``max_depth`` deep; a call outside of every loader has depth 1. A deeper call
       belongs to the same loop.
    2. "repeat": the last ``max_repeats`` calls are one and the same.
    3. "oscillation": the last 2k calls are one block of k calls, not all equal, twice, for a k from 2 to ``cycle``.

    Raises:
        UsageError: A limit is wrong.
    """

    max_repeats: int
    max_depth: int
    cycle: int

    def __post_init__(self) -> None:
        for name, least in (("max_repeats", 2), ("max_depth", 2), ("cycle", 1)):
            limit = getattr(self, name)
            if type(limit) is not int or not least <= limit <= _MOST:
                raise UsageError(f"{name} must be a whole number from {least} to {_MOST}, not {limit!r}")

    @property
    def window(self) -> int:
        """The number of calls that the guard looks at."""
        return max(self.max_repeats, self.max_depth, 2 * self.cycle)

    def check(self, keys: Sequence[str], depth: int) -> LoopKind | None:
        """Return the kind of loop that the last call closes, or None.

        Args:
            keys: The keys of the calls of one sequence, the oldest first.
            depth: The depth of the last call, at least 1.
        """
        if depth == self.max_depth:
            return "depth"
        last = keys[-self.max_repeats :]
        if len(last) == self.max_repeats and last.count(last[0]) == len(last):
            return "repeat"
        for size in range(2, self.cycle + 1):
            block = keys[-size:]
            is_twice = len(keys) >= 2 * size and keys[-2 * size : -size] == block
            if is_twice and block.count(block[0]) < size:
                return "oscillation"
        return None
