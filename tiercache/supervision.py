"""Supervision of background jobs: a defect in one job is logged once, the job runs again, and every other job goes on.

A background job is work that no caller waits for, and that therefore raises its errors to no caller: sending the
statistics, the registration, the read of the tool policies, the trimming and the completion of indexes, the listener
and its PINGs, the repetition of pending invalidations. Errors that a job expects (``TierCacheError``) stay in the job;
an exception that reaches this module is a defect in this package, or bytes in Valkey that this package does not expect.

There are two kinds of job:

1. A loop, which ``keep_running`` starts again.
2. A step of such a loop, which ``attempt`` runs; the next round of the loop runs the step again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from .log import CacheLog

__all__ = ["attempt", "keep_running"]

# Seconds between a defect in a loop and the next run of the loop.
_PAUSE_SECONDS: Final = 1.0


async def attempt(job: str, work: Callable[[], Awaitable[object]], log: CacheLog) -> bool:
    """Run ``work`` once; return whether it ended without a defect. A defect is logged, once for each job and type."""
    try:
        await work()
    # Any exception: see above. A cancellation is none, and goes on to the caller.
    except Exception as error:
        log.defect(job, error)
        return False
    return True


async def keep_running(job: str, work: Callable[[], Awaitable[object]], log: CacheLog) -> None:
    """Run ``work`` until it returns; after a defect run it again, a second later. Cancel the caller to end ``work``."""
    while True:
        if await attempt(job, work, log):
            return
        await asyncio.sleep(_PAUSE_SECONDS)
