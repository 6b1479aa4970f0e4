"""One write in the queue of the write pipe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .writes import Write, WriteSet

__all__ = ["OnDone", "QueuedWrite", "ignore_outcome"]

# Receives the outcome of a write: the count of keys touched, the reply to a Run, or the error. The write pipe calls the
# function in the step in which the outcome is known, before any waiter of the write runs.
OnDone = Callable[[Any], object]


def ignore_outcome(_: object) -> None:
    """Ignore the outcome of a write: an ``OnDone`` for a write whose outcome another part handles."""


class QueuedWrite:
    """A write at its place in the queue.

    Attributes:
        write: The write to send.
        is_explicit: Whether the write is a change made by a caller. False for the cache's own writes, such as fills.
        is_behind: Whether the write is a store behind, which may wait for other writes to share a round trip.
        on_done: Receives the outcome, or None.
        future: The future of the caller that waits for the outcome, or None.
        answered: The future of a ``flush`` that waits for this write, or None.
        absorbed: Later stores of the same key that gave up their own places in the queue, or None. ``write`` is sent
            for this store and for all of them, and all get its outcome.
    """

    __slots__ = ("absorbed", "answered", "future", "is_behind", "is_explicit", "keys", "on_done", "size_bytes", "write")

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
        self.absorbed: list[QueuedWrite] | None = None

    def absorb(self, later: QueuedWrite, write: WriteSet) -> None:
        """Send ``write`` at this place in the queue, for this store and for ``later``."""
        self.write = write
        if self.absorbed is None:
            self.absorbed = []
        self.absorbed.append(later)

    def finish(self, outcome: Any) -> None:
        """Hand the outcome to ``on_done``, to a waiting ``flush``, to the caller, and to the ``absorbed`` stores."""
        try:
            if self.on_done is not None:
                self.on_done(outcome)
        finally:
            # Also where ``on_done`` raises by a defect: otherwise the caller would wait forever.
            if self.answered is not None and not self.answered.done():
                self.answered.set_result(None)
            if self.future is not None and not self.future.done():
                if isinstance(outcome, Exception):
                    self.future.set_exception(outcome)
                else:
                    self.future.set_result(outcome)
            for queued in self.absorbed or ():
                queued.finish(outcome)
