"""What the suite asks of a peer: open for one work, look up, store, get or load, close."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from benchmarks.requests import Answer, Params

Loader = Callable[[Params], Awaitable[Answer]]


class Work(Enum):
    """The measured works; the value is part of the benchmark's name."""

    L1_HIT = "l1-hit"
    L2_HIT = "l2-hit"
    MISS_STORE = "miss-store"
    STAMPEDE = "stampede"


@dataclass(frozen=True)
class PeerInfo:
    """What is known of a peer without importing it; the checks before a measurement hold it to this."""

    title: str
    works: frozenset[Work] = frozenset(Work)
    has_l1: bool = True
    """False: its lookups of `Work.L1_HIT` read Valkey."""
    has_l2: bool = True
    """False: in `Work.STAMPEDE` it neither asks Valkey nor fills it."""
    single_flight: bool = True
    """True: 1,000 identical misses call the loader once."""
    is_cache: bool = True
    """False: a floor, left out of every comparison."""


@dataclass(frozen=True)
class Endpoint:
    """The Valkey that all peers share."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


class Peer(Protocol):
    """One cache, as its users would set it up and call it."""

    async def open(self, endpoint: Endpoint, work: Work, loader: Loader) -> None:
        """Connect, configured for ``work``; ``loader`` is what `get_or_load` loads with."""

    async def check(self, params: Params) -> Any:
        """Look up; whatever the library returns, to be read by `answer`."""

    async def store(self, params: Params, answer: Answer) -> Any:
        """Store; returns when every level has the value."""

    async def get_or_load(self, params: Params) -> Any:
        """Look up, and on a miss load and store, as the library advises."""

    def answer(self, found: Any) -> Answer | None:
        """What `check` or `get_or_load` found, None for a miss. Raises ValueError when the wrong level
        answered.
        """

    async def close(self) -> None:
        """Disconnect and leave no task behind."""
