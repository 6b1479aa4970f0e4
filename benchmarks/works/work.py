"""What a work is: variants of one kind of call, what it asks of a peer, and how it is run and checked."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.data import SIZES, Answer, Size
from benchmarks.peers.protocol import Endpoint, Peer, Setting
from benchmarks.server import Counters
from benchmarks.timing import Body, Budget, Measured, sample

_ECHO_SECONDS = 0.05
"""After a store: a cache's own invalidations may still be on their way."""


class WrongAnswerError(Exception):
    """A peer did not do the work that it was about to be measured on."""


@dataclass(frozen=True)
class Variant:
    """One row or column of a work. Variants of one ``table`` are shown together, ``column`` by column."""

    name: str
    table: str = ""
    column: str = ""
    use: str = "both"
    size: str = "short"
    callers: int = 1
    count: int = 0
    """Entries, characters or unrelated keys."""
    quick: bool = True
    """Whether ``--quick`` measures it."""


@dataclass(frozen=True)
class Bench:
    """What the worker process gives a work to measure with."""

    endpoint: Endpoint
    counters: Counters
    budget: Budget
    loops: int = 0
    peer_name: str = ""

    async def sample(self, body: Body) -> Measured:
        return await sample(body, self.budget, self.loops)


class Work(ABC):
    """A kind of call. To add one: a subclass, and an instance in `benchmarks.works.WORKS`."""

    name: ClassVar[str]
    title: ClassVar[str]
    explained: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    """Methods of the peer without which it is not asked."""
    unit: ClassVar[str] = "second"
    rounds: ClassVar[int] = 1_000
    """Most rounds in which it is measured."""
    fresh_process: ClassVar[bool] = False
    quick: ClassVar[bool] = True
    """Whether ``--quick`` measures it."""
    unpinned: ClassVar[bool] = False
    """True: it starts processes of its own, which need the cores."""

    @abstractmethod
    def variants(self) -> list[Variant]:
        """All variants, in the order of the tables."""

    def offers(self, peer: type[Peer], variant: Variant) -> bool:
        """Whether ``peer`` does this, at the level that the variant is about."""
        if peer.works is not None and self.name not in peer.works:
            return False
        if not all(peer.can(need) for need in self.needs):
            return False
        level = "l2" if variant.use == "both" else variant.use
        return level == "any" or level in peer.levels or (peer.everywhere and level in ("l1", "l2"))

    def setting(self, endpoint: Endpoint, variant: Variant) -> Setting:
        return Setting(endpoint, "both" if variant.use == "any" else variant.use)

    def unrelated(self, variant: Variant) -> int:
        """Keys of nobody that the server is filled with before."""
        return 0

    @abstractmethod
    async def run(self, peer: Peer, variant: Variant, bench: Bench) -> Measured | dict[str, Measured]:
        """Check the opened peer, then measure it. A dict has the figures of several peers.

        Raises:
            WrongAnswerError: It gave a wrong answer, or another level than the one meant answered.
        """


async def echoes() -> None:
    """Return when what the server tells of own stores has arrived."""
    await asyncio.sleep(_ECHO_SECONDS)


def expect(peer: Peer, found: Any, wanted: Answer | None) -> None:
    """Raise unless ``found`` is the answer; None is a miss."""
    answer = peer.answer(found)
    if answer != wanted:
        raise WrongAnswerError(f"{peer.title} answered {answer!r}, not {wanted!r}")


def expect_equal(peer: Peer, found: Any, wanted: Any) -> None:
    """Raise unless both are equal."""
    if found != wanted:
        raise WrongAnswerError(f"{peer.title} returned {found!r}, not {wanted!r}")


def expect_level(peer: Peer, found: Iterable[Any], level: str) -> None:
    """Raise if more than one in a hundred, as far as they say so, came from elsewhere than ``level``."""
    levels = [given for each in found if (given := peer.level(each))]
    others = sum(given != level for given in levels)
    if others * 100 > len(levels):
        raise WrongAnswerError(f"{peer.title} answered {others} of {len(levels)} lookups not from {level}")


def size_of(variant: Variant) -> Size:
    return SIZES[variant.size]
