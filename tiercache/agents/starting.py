"""The methods that begin a run of an agent: a base of ``AgentCache`` and of ``SyncCache``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..clock import Clock
from ..log import CacheLog
from .loop_guard import LoopGuard
from .run import AgentRun, OnLoop, SyncAgentRun

__all__ = ["StartsAgentRuns", "StartsSyncAgentRuns"]


class StartsAgentRuns:
    """A cache whose tool calls can be counted by runs.

    Args:
        log: The log of the cache.
        clock: The source of the times in histories.
        remove: Removes the entries that have a tag.
    """

    def __init__(self, log: CacheLog, clock: Clock, remove: Callable[[str], Awaitable[object]]) -> None:
        self.__remove = remove
        self.__log = log
        self.__clock = clock

    def agent(
        self,
        session_id: str | None = None,
        *,
        max_repeats: int = 5,
        max_depth: int = 50,
        cycle: int = 3,
        on_loop: OnLoop = "raise",
        keep: bool = False,
    ) -> AgentRun:
        """Return a run of an agent, for ``async with``: it counts the tool calls within the block, and finds loops.

        The run counts every call of ``tool.get_or_load`` and of a function of ``tool.cached``, hits included, before
        the call runs. Two calls are identical if they have the same tool and arguments. Each task that the block starts
        continues the sequence of calls of its parent with a sequence of its own. In nested runs the innermost counts.

        Args:
            session_id: The name of the run; None makes a new one. It is no thread of ``session``.
            max_repeats: The number of identical calls in a row that is a loop: 2 to 1,000.
            max_depth: The depth at which a tool call within loaders of tool calls is a loop: 2 to 1,000.
            cycle: The most calls, 1 to 1,000, of a block that is a loop if it comes twice in a row. 1: no block.
            on_loop: The answer to a loop. "raise" raises AgentLoopError before the call runs. "warn" logs a warning,
                and the call runs. "short_circuit" returns the last result of the same call; the call runs if the run
                has none. A plain function gets the error, and the call runs unless the function raises.
            keep: Whether the entries that ``per_run`` has made stay when the run ends.

        Raises:
            UsageError: An argument is wrong.
        """
        run = AgentRun(self.__log, self.__clock, session_id, LoopGuard(max_repeats, max_depth, cycle), on_loop)
        run._removal = None if keep else self.__remove
        return run


class StartsSyncAgentRuns:
    """A plain cache whose tool calls can be counted by runs. The arguments are those of ``StartsAgentRuns``."""

    def __init__(self, log: CacheLog, clock: Clock, remove: Callable[[str], object]) -> None:
        self.__remove = remove
        self.__log = log
        self.__clock = clock

    def agent(
        self,
        session_id: str | None = None,
        *,
        max_repeats: int = 5,
        max_depth: int = 50,
        cycle: int = 3,
        on_loop: OnLoop = "raise",
        keep: bool = False,
    ) -> SyncAgentRun:
        """Return a run of an agent, for ``with``, as ``AgentCache.agent``. Each thread has a sequence of its own."""
        run = SyncAgentRun(self.__log, self.__clock, session_id, LoopGuard(max_repeats, max_depth, cycle), on_loop)
        run._removal = None if keep else self.__remove
        return run
