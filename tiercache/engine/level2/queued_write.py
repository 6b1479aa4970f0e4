"""One write in the write pipe's queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .writes import Write, WriteSet

__all__ = ["OnDone", "QueuedWrite"]

# Called with the count of keys touched, the reply to a Run or the error, at the moment the outcome is known and before
# any waiter runs.
OnDone = Callable[[Any], object]


class QueuedWrite:
    """A write in its place in the queue.

    Attributes:
        is_explicit: Whether it is a change, and not a fill.
        is_behind: Whether it may wait for others.
        later: Further writes whose place this one's has become; ``write`` is what is sent for all of them.
    """

    __slots__ = ("answered", "future", "is_behind", "is_explicit", "keys", "later", "on_done", "size_bytes", "write")

    def __init__(
        self,
        write: Write,
        on_done: OnDone | None,
        future: asyncio.Future[Any] | None,
        *,
        is_explicit: bool = True,
        is_behind: bool = False,
    ) -> None:
        self.write = write
        self.keys = write.keys
        self.size_bytes = write.size_bytes
        self.is_explicit = is_explicit
        self.is_behind = is_behind
        self.on_done = on_done
        self.future = future
        self.answered: asyncio.Future[None] | None = None
        self.later: list[QueuedWrite] | None = None

    def supersede(self, later: QueuedWrite, write: WriteSet) -> None:
        """Have ``write`` sent for this write and for ``later``."""
        self.write = write
        if self.later is None:
            self.later = []
        self.later.append(later)

    def finish(self, outcome: Any) -> None:
        if self.on_done is not None:
            self.on_done(outcome)
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)
        if self.future is not None and not self.future.done():
            if isinstance(outcome, Exception):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)
        for queued in self.later or ():
            queued.finish(outcome)
