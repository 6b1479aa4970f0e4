"""The event loops that calls of portals block: their threads wait for the private loop, and run no task until then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["blocking_own_loop", "is_blocked"]

# One item for each call, since calls may be nested. Appends and removals are single steps of the interpreter.
_BLOCKED: Final[list[asyncio.AbstractEventLoop]] = []


@contextmanager
def blocking_own_loop() -> Iterator[None]:
    """While the block runs, count the running loop of this thread as blocked; without one do nothing."""
    loop: asyncio.AbstractEventLoop | None = None
    with suppress(RuntimeError):
        loop = asyncio.get_running_loop()
    if loop is None:
        # Not in a handler of that RuntimeError, which would be shown with every error of the block.
        yield
        return
    _BLOCKED.append(loop)
    try:
        yield
    finally:
        _BLOCKED.remove(loop)


def is_blocked(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a call of a portal blocks ``loop`` now. Any thread may call this."""
    return loop in _BLOCKED
