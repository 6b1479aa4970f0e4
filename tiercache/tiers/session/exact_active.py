"""The exact number of active threads of all processes: a sorted set in Valkey, which the background worker keeps.

    {name}:__tc:active      sorted set of thread ids, scored by the millisecond of the server's clock at which the
                            thread ends; lives as long as its last thread

The end of a thread is the end of its hash (``key``), which the server knows. So a process sends no ends, but the ids of
the threads that it has used, once a second and away from every call. A thread whose hash is gone leaves the set.

Each id is sent in two rounds: a use may have queued the renewal of a field, which reaches Valkey behind the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ...engine.level2.breaker import GuardedLevel2
from ...engine.level2.replies import send
from ...engine.level2.writes import Command
from .active import IDLE_SECONDS, ActiveThreads
from .key import Threads
from .scripts import active_script

__all__ = ["ExactActive"]

# Threads in one script: the server does nothing else while it runs.
_CHUNK_COUNT: Final = 500
# Threads that wait for a Valkey that does not answer.
_MOST_UNSENT: Final = 20_000


class ExactActive:
    """Sends the threads that one face uses, and reads the number of active threads of all processes.

    Args:
        active: The threads that the face uses. They get the number.
        name: The name of the cache.
        now: The monotonic clock, in seconds.
    """

    def __init__(self, active: ActiveThreads, name: str, now: Callable[[], float]) -> None:
        active.records_uses = True
        self._active = active
        self._key = f"{name}:__tc:active"
        self._threads = Threads(name)
        self._now = now
        self._must_clear = False
        self._unsent: tuple[str, ...] = ()

    async def send(self, level2: GuardedLevel2) -> None:
        """Send the threads that were used since the last round and in the round before it, and read the number.

        Raises:
            L2UnavailableError, L2CommandError: The next round sends the threads again.
        """
        self._must_clear |= self._active.take_cleared()
        used = self._active.take_used()
        ids = tuple(dict.fromkeys((*self._unsent, *used)))
        # Before the answer: a round that fails is repeated by the next one.
        self._unsent = ids[-_MOST_UNSENT:]
        if self._must_clear:
            await send(level2, [("DEL", self._key)])
            self._must_clear = False
        count = 0
        for start in range(0, max(1, len(ids)), _CHUNK_COUNT):
            count = await self._note(level2, ids[start : start + _CHUNK_COUNT])
        self._unsent = used
        self._active.note_exact(count, self._now())

    async def _note(self, level2: GuardedLevel2, ids: Sequence[str]) -> int:
        hashes = [self._threads.thread(thread_id).windows for thread_id in ids]
        command: Command = ("EVAL", active_script(), 1 + len(ids), self._key, *hashes, int(IDLE_SECONDS * 1000), *ids)
        (count,) = await send(level2, [command])
        return int(count)
