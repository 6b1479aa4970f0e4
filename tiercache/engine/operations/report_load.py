"""The report of a loader's call to the hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from ..call import Call
from ..runtime.runtime import Runtime

__all__ = ["report_load"]

T = TypeVar("T")


class Loading(Protocol):
    """One load whose loader is called: ``Load``."""

    call: Call

    @property
    def waiter_count(self) -> int: ...


async def report_load(loads: Sequence[Loading], runtime: Runtime, run: Callable[[], Awaitable[T]]) -> T:
    """Run ``run``, which calls the loader of ``loads``, and report its end for each of them; return its result.

    A cancelled call makes no event: no caller waits for it any more, or the cache is being closed.
    """
    if not runtime.hooks.registry.load:
        return await run()
    began = runtime.now()
    try:
        result = await run()
    except Exception as error:
        _report(loads, runtime, began, error)
        raise
    _report(loads, runtime, began, None)
    return result


def _report(loads: Sequence[Loading], runtime: Runtime, began: float, error: Exception | None) -> None:
    seconds = runtime.now() - began
    for load in loads:
        runtime.hooks.load(load.call.key, load.call.groups, seconds, load.waiter_count, error)
