"""Runs of agents, and the place of a tool call in its run.

A context variable has the ``Place`` of this context: the run, the sequence of calls so far, and the depth. A place is
immutable, and a call sets the next one. So a task inherits the sequence up to its start, and then has its own.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

from ..clock import Clock
from ..errors import TierCacheError, UsageError
from ..log import CacheLog
from ..text import check_name, shown
from .history import AgentCall, AgentLoopError, AgentMetrics, RunHistory
from .loop_guard import LoopGuard

__all__ = [
    "PLACE",
    "AgentRun",
    "OnLoop",
    "Place",
    "Run",
    "SyncAgentRun",
    "answer_in_run",
    "answer_plain_call",
    "run_of_entry",
]

R = TypeVar("R")

OnLoop: TypeAlias = Literal["raise", "warn", "short_circuit"] | Callable[[AgentLoopError], object]

# The most results that a run keeps for ``short_circuit``.
_MOST_RESULTS: Final = 256


class Run:
    """One run of an agent: ``AgentRun`` and ``SyncAgentRun``.

    Args:
        session_id: The name of the run, or None for a new one.
        on_loop: The answer to a loop.

    Attributes:
        session_id: The name of the run. It has nothing to do with the threads of ``cache.session``.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(self, log: CacheLog, clock: Clock, session_id: str | None, guard: LoopGuard, on_loop: OnLoop) -> None:
        is_known = isinstance(on_loop, str) and on_loop in ("raise", "warn", "short_circuit")
        if not is_known and (not callable(on_loop) or asyncio.iscoroutinefunction(on_loop)):
            expected = '"raise", "warn", "short_circuit" or a plain function'
            raise UsageError(f"on_loop must be {expected}, not {shown(on_loop)}")
        self.session_id = uuid.uuid4().hex if session_id is None else check_name(session_id, "session_id")
        self._log = log
        self._clock = clock
        self._guard = guard
        self._on_loop = on_loop
        self._calls = RunHistory()
        # The last result of each key, the newest last.
        self._results: OrderedDict[str, Any] = OrderedDict()
        self._outer: Place | None = None
        self._is_used = False
        self._is_ended = False
        # Whether this process has used entries of the run alone, and how to remove them; None keeps them.
        self._has_entries = False
        self._removal: Callable[[str], Any] | None = None

    @property
    def history(self) -> list[AgentCall]:
        """The last 1,000 tool calls of the run, the oldest first."""
        return self._calls.calls()

    def metrics(self) -> AgentMetrics:
        """Return the counts of the run so far."""
        return self._calls.metrics()

    def _enter(self) -> None:
        if self._is_used:
            raise UsageError("a run of an agent begins once: call agent() for each run")
        self._is_used = True
        self._outer = PLACE.get()
        PLACE.set(Place(self))

    def _exit(self) -> None:
        # Tasks that the block has left keep their places.
        self._is_ended = True
        PLACE.set(self._outer)

    @property
    def _tag(self) -> str:
        """The tag of the entries of the run alone."""
        return f"__tc_run:{self.session_id}"

    def _not_removed(self, error: TierCacheError) -> None:
        self._log.warn_once("the entries of a run are removed later, because Valkey did not remove them now: %r", error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id!r}>"

    # The way of a call

    def _refused(self, error: AgentLoopError) -> bool:
        """Answer a loop; return whether the last result of the call stands for its result.

        Raises:
            AgentLoopError: ``on_loop`` is "raise".
            Exception: The caller's function raised it.
        """
        self._calls.looped()
        on_loop = self._on_loop
        if on_loop == "raise":
            raise error
        if on_loop == "warn":
            self._log.warning("run %s: %s; the call runs all the same", self.session_id, error)
        elif not isinstance(on_loop, str):
            on_loop(error)
        return on_loop == "short_circuit"

    def _keep(self, key: str, result: Any) -> None:
        if self._on_loop == "short_circuit":
            self._results[key] = result
            self._results.move_to_end(key)
            if len(self._results) > _MOST_RESULTS:
                self._results.popitem(last=False)


class AgentRun(Run):
    """One run of an agent, from ``AgentCache.agent``, in an ``async with`` block."""

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit()
        if self._has_entries and self._removal is not None:
            try:
                await self._removal(self._tag)
            # The invalidation is repeated, as every other. The end of a run must not take the agent down.
            except TierCacheError as unavailable:
                self._not_removed(unavailable)


class SyncAgentRun(Run):
    """One run of an agent, from ``SyncCache.agent``, in a ``with`` block. Otherwise as ``AgentRun``."""

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit()
        if self._has_entries and self._removal is not None:
            try:
                self._removal(self._tag)
            # As for ``AgentRun``.
            except TierCacheError as unavailable:
                self._not_removed(unavailable)


@dataclass(frozen=True, slots=True)
class Place:
    """The place in a run from which the next tool call is made.

    Attributes:
        run: The innermost run.
        sequence: The last calls of this context, the oldest first.
        depth: The number of tool calls around this place.
        is_counted: Whether the plain face has counted the next call.
    """

    run: Run
    sequence: tuple[AgentCall, ...] = ()
    depth: int = 0
    is_counted: bool = False

    @contextmanager
    def call(self, tool: str, key: str, *, is_counted: bool = False) -> Iterator[CallInRun]:
        """Count a call, and let the calls within the block be nested in it. Errors as for ``AgentRun``.

        After a loop that goes on, the sequence begins again. A call that does not run does not join it.

        Args:
            is_counted: As the attribute, for the call in the block.
        """
        run = self.run
        call = AgentCall(tool, key, None, run._clock.wall())
        sequence = (*self.sequence, call)[-run._guard.window :]
        kind = run._guard.check([each.key for each in sequence], self.depth + 1)
        if kind is not None:
            error = AgentLoopError(kind, [replace(each) for each in sequence])
            if run._refused(error) and (last := run._results.get(key)) is not None:
                # Not the result itself: its value belongs to the caller that got it.
                yield CallInRun(type(last)(last.key, last.source, last._entry, last._now))
                return
            sequence = ()
        run._calls.begun(call)
        made = CallInRun()
        PLACE.set(Place(run, sequence, self.depth + 1, is_counted))
        try:
            yield made
        finally:
            PLACE.set(Place(run, sequence, self.depth))
            run._calls.ended(call, made.result)
        run._keep(key, made.result)


class CallInRun:
    """One counted call.

    Attributes:
        result: The result, which the caller sets. If it is set at the beginning, it is the answer of the call.
    """

    __slots__ = ("result",)

    def __init__(self, result: Any = None) -> None:
        self.result = result


PLACE: Final[ContextVar[Place | None]] = ContextVar("tiercache_agent_place", default=None)


def run_of_entry(log: CacheLog) -> Run:
    """Return the run to which an entry with ``per_run`` belongs now.

    Args:
        log: The log of the cache of the entry.

    Raises:
        UsageError: The caller is in no run of that cache.
    """
    place = PLACE.get()
    if place is None or place.run._is_ended or place.run._log is not log:
        raise UsageError("per_run is for calls within a run of the same cache: async with cache.agent()")
    place.run._has_entries = True
    return place.run


async def answer_in_run(place: Place, tool: str, key: str, answer: Callable[[], Awaitable[R]]) -> R:
    """Return the result of ``answer``, counted as a tool call at ``place``. Errors as for ``Place.call``."""
    if place.run._is_ended:
        return await answer()
    if place.is_counted:
        PLACE.set(replace(place, is_counted=False))
        return await answer()
    with place.call(tool, key) as call:
        if call.result is None:
            call.result = await answer()
    return call.result  # type: ignore[no-any-return]


def answer_plain_call(tool: str, key: str, answer: Callable[[], R], loader: object = None) -> R:
    """Return the result of ``answer``, counted in the thread of the caller, which is in a run.

    The task of the private loop has a copy of the caller's context: a place that it sets is lost.

    Args:
        loader: The loader that ``answer`` uses. If it is a coroutine, and ``answer`` does not run, it is closed.
    """
    place = PLACE.get()
    if place is None or place.run._is_ended:
        return answer()
    # From its start, the answer takes care of the loader: a load may await it after the caller was interrupted.
    is_left = inspect.iscoroutine(loader) and inspect.getcoroutinestate(loader) == inspect.CORO_CREATED
    try:
        with place.call(tool, key, is_counted=True) as call:
            if call.result is None:
                is_left = False
                call.result = answer()
    finally:
        if is_left:
            loader.close()  # type: ignore[attr-defined]
    return call.result  # type: ignore[no-any-return]
