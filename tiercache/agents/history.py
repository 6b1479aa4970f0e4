"""The history of a run: its tool calls, their sources, and the counts of both."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import TierCacheError
from ..locks import ThreadLock
from .loop_guard import LoopKind

__all__ = ["AgentCall", "AgentLoopError", "AgentMetrics", "RunHistory"]

# The most calls that a history keeps.
_MOST_CALLS: Final = 1000


@dataclass(slots=True)
class AgentCall:
    """One tool call of a run.

    Attributes:
        tool: The name of the tool.
        key: The key of the entry in Valkey, which stands for the tool and its arguments.
        source: The ``source`` of the result; None while the call runs, after an error, and for a miss.
        at: The time of the call, in seconds since the epoch.
    """

    tool: str
    key: str
    source: str | None
    at: float


@dataclass(frozen=True, slots=True)
class AgentMetrics:
    """The counts of a run so far.

    Attributes:
        calls: Tool calls that the loop guard let run.
        hits: Calls that the cache answered, by the ``source`` of the result.
        misses: Calls whose value came from the loader, and misses of mode "only_cached".
        errors: Calls that raised.
        cost_saved: Dollars that the hits saved.
        loops: Loops that the guard found.
    """

    calls: int
    hits: Mapping[str, int]
    misses: int
    errors: int
    cost_saved: float
    loops: int


class AgentLoopError(TierCacheError):
    """An agent repeats its tool calls: the call that closes the loop has not run.

    Attributes:
        kind: "repeat", "oscillation" or "depth".
        history: The last calls of the sequence, the oldest first. The last of them closes the loop.
    """

    def __init__(self, kind: LoopKind, history: list[AgentCall]) -> None:
        # The arguments themselves, from which a copy of the error is made.
        super().__init__(kind, history)
        self.kind: LoopKind = kind
        self.history = history

    def __str__(self) -> str:
        tool = self.history[-1].tool
        return f"the agent is in a loop ({self.kind}): the call of {tool!r} that closes it has not run"


class RunHistory:
    """The calls of one run, from any task and thread."""

    def __init__(self) -> None:
        self._lock = ThreadLock()
        self._recent: deque[AgentCall] = deque(maxlen=_MOST_CALLS)
        self._hits: dict[str, int] = {}
        self._call_count = self._miss_count = self._error_count = self._loop_count = 0
        self._cost_saved = 0.0

    def begun(self, call: AgentCall) -> None:
        """Count a call that begins."""
        with self._lock:
            self._call_count += 1
            self._recent.append(call)

    def ended(self, call: AgentCall, result: Any) -> None:
        """Count the result of a call, a ``ToolResult``; None if the call raised."""
        with self._lock:
            if result is None:
                self._error_count += 1
                return
            call.source = result.source
            if not result.hit:
                self._miss_count += 1
                return
            self._hits[result.source] = self._hits.get(result.source, 0) + 1
            self._cost_saved += result.cost or 0.0

    def looped(self) -> None:
        """Count a loop."""
        with self._lock:
            self._loop_count += 1

    def calls(self) -> list[AgentCall]:
        """Return copies of the last calls, the oldest first."""
        with self._lock:
            return [replace(call) for call in self._recent]

    def metrics(self) -> AgentMetrics:
        """Return the counts so far."""
        with self._lock:
            counts = self._miss_count, self._error_count, self._cost_saved, self._loop_count
            return AgentMetrics(self._call_count, dict(self._hits), *counts)
