"""The messages between the soak and its processes, one JSON line each: commands go down, messages come back."""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec import Struct, field

__all__ = [
    "CACHE_NAME",
    "Command",
    "Ended",
    "Measure",
    "Measured",
    "Message",
    "Problem",
    "Ready",
    "Rest",
    "Start",
    "Stop",
    "WorkerSettings",
]

# The name of the cache under load.
CACHE_NAME: Final = "soak"


class WorkerSettings(Struct, frozen=True):
    """The settings of one process.

    Attributes:
        url: The URL of Valkey through the proxy, for the cache.
        ledger_url: The URL of the ledger.
        number: The number of the process, 0 to ``count`` - 1.
        count: The number of processes.
        max_staleness: ``CoherenceOptions.max_staleness``, in seconds.
        ttl: The longest lifetime of an entry, in seconds.
        pause: The longest pause of a caller between two calls, in seconds.
    """

    url: str
    ledger_url: str
    number: int
    count: int
    seed: int
    max_staleness: float
    ttl: float
    pause: float


class Start(Struct, frozen=True, tag=True):
    """Begin the load."""


class Measure(Struct, frozen=True, tag=True):
    """Stop the load until it rests, measure, and go on; the reply is ``Measured``."""


class Stop(Struct, frozen=True, tag=True):
    """End the load and close the cache; the reply is ``Ended``."""


Command: TypeAlias = Start | Measure | Stop


class Rest(Struct, frozen=True):
    """The measures of a process whose load rests.

    Attributes:
        seconds: Seconds since the load began.
        rss_bytes: Resident memory, or 0 where the system does not tell.
        tasks: Tasks of the event loop.
        descriptors: Open file descriptors, or 0 where the system does not tell.
        threads: Threads.
        sizes: The number of elements in each container of the cache, by class and attribute.
    """

    seconds: float
    rss_bytes: int
    tasks: int
    descriptors: int
    threads: int
    sizes: dict[str, int]


class Ready(Struct, frozen=True, tag=True):
    """The cache is open."""


class Measured(Struct, frozen=True, tag=True):
    """The reply to ``Measure``."""

    rest: Rest


class Problem(Struct, frozen=True, tag=True):
    """A broken promise.

    Attributes:
        kind: One of ``report.CHECKS``.
        at: The moment of the discovery, ``time.monotonic()``, or 0 for the checks at the end.
    """

    kind: str
    text: str
    at: float = 0.0


class Ended(Struct, frozen=True, tag=True):
    """The last message.

    Attributes:
        calls: Calls by operation.
        raised: Calls that raised a permitted error, by its class.
        cancelled: Calls that their caller cancelled.
        checked: Values that were compared with their key, and with the changes acknowledged before.
        warnings: Log lines of the level WARNING.
        rest: The measures before the cache was closed.
        left_tasks: The names of the tasks that were left after ``aclose``.
        left_descriptors: Descriptors after ``aclose`` beyond those before the cache was opened.
    """

    calls: dict[str, int]
    raised: dict[str, int]
    cancelled: int
    checked: int
    warnings: int
    rest: Rest
    left_tasks: list[str] = field(default_factory=list)
    left_descriptors: int = 0


Message: TypeAlias = Ready | Measured | Problem | Ended
