"""The base of all works: the variants of one kind of call, the needs from a peer, the run and its checks."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.data import SIZES, Answer, Size
from benchmarks.peers.protocol import Endpoint, Peer, Setting
from benchmarks.server import Counters
from benchmarks.timing import Body, Budget, Measured, sample

_MESSAGE_SECONDS = 0.05
"""Wait after a store, during which invalidation messages for that store may still arrive."""


class WrongAnswerError(Exception):
    """A peer gave a wrong answer, or another level than the expected one answered."""


@dataclass(frozen=True)
class Variant:
    """One column of a table of a work. Variants with the same ``table`` are columns of the same table."""

    name: str
    table: str = ""
    column: str = ""
    use: str = "both"
    size: str = "short"
    callers: int = 1
    count: int = 0
    """Entries, characters or unrelated keys."""
    quick: bool = True
    """Whether ``--quick`` measures the variant."""


@dataclass(frozen=True)
class Bench:
    """The tools that the worker process gives a work for measuring."""

    endpoint: Endpoint
    counters: Counters
    budget: Budget
    loops: int = 0
    peer_name: str = ""

    async def sample(self, body: Body) -> Measured:
        """Measure ``body`` within the budget."""
        return await sample(body, self.budget, self.loops)


class Work(ABC):
    """A kind of call. To add one, write a subclass, and add an instance to `benchmarks.works.WORKS`."""

    name: ClassVar[str]
    title: ClassVar[str]
    explained: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    """Methods that a peer must have to take part."""
    unit: ClassVar[str] = "second"
    rounds: ClassVar[int] = 1_000
    """The most rounds in which the work is measured."""
    fresh_process: ClassVar[bool] = False
    quick: ClassVar[bool] = True
    """Whether ``--quick`` measures the work."""
    unpinned: ClassVar[bool] = False
    """True: the work starts processes of its own, which need all cores."""

    @abstractmethod
    def variants(self) -> list[Variant]:
        """Return all variants, in the order of the tables."""

    def offers(self, peer: type[Peer], variant: Variant) -> bool:
        """Return whether ``peer`` does this work at the level of the variant."""
        if peer.works is not None and self.name not in peer.works:
            return False
        if not all(peer.can(need) for need in self.needs):
            return False
        level = "l2" if variant.use == "both" else variant.use
        return level == "any" or level in peer.levels or (peer.joins_every_level and level in ("l1", "l2"))

    def setting(self, endpoint: Endpoint, variant: Variant) -> Setting:
        """Return how the peer is set up for the variant."""
        return Setting(endpoint, "both" if variant.use == "any" else variant.use)

    def unrelated(self, variant: Variant) -> int:
        """Return how many unrelated keys the server holds during the variant."""
        return 0

    @abstractmethod
    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured | dict[str, Measured]:
        """Check the opened peer, then measure it. A dict holds the values of several peers.

        Raises:
            WrongAnswerError: The peer gave a wrong answer, or another level than the expected one answered.
        """


async def wait_for_own_invalidations() -> None:
    """Wait until the invalidation messages for earlier stores of this process have arrived."""
    await asyncio.sleep(_MESSAGE_SECONDS)


def expect(peer: Peer, found: Any, wanted: Answer | None) -> None:
    """Raise WrongAnswerError unless ``found`` is the answer ``wanted``; None is a miss."""
    answer = peer.answer(found)
    if answer != wanted:
        raise WrongAnswerError(f"{peer.title} answered {answer!r}, not {wanted!r}")


def expect_equal(peer: Peer, found: Any, wanted: Any) -> None:
    """Raise WrongAnswerError unless both are equal."""
    if found != wanted:
        raise WrongAnswerError(f"{peer.title} returned {found!r}, not {wanted!r}")


def expect_level(peer: Peer, found: Iterable[Any], level: str) -> None:
    """Raise WrongAnswerError if over one percent of the results that name a level name another one than ``level``."""
    levels = [given for each in found if (given := peer.level(each))]
    others = sum(given != level for given in levels)
    if others * 100 > len(levels):
        raise WrongAnswerError(
            f"{peer.title} answered {others} of {len(levels)} lookups from another level than {level}"
        )


def size_of(variant: Variant) -> Size:
    """Return the kind of requests of the variant."""
    return SIZES[variant.size]
