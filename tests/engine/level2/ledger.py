"""A second level that records its writes, and writes to send to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from tiercache import L2CommandError
from tiercache.engine.level2.level2 import Stored
from tiercache.engine.level2.writes import Write, WriteResult, WriteSet


class Ledger:
    """A Level2 that records the batches of writes that it receives.

    Attributes:
        batches: The batches that were carried out.
        calls: The number of batches received, failed batches included.
        error: Raised for every batch, or None.
        refused: Keys whose stores are refused.
        open: Cleared by a test to hold every batch.
    """

    def __init__(self) -> None:
        self.batches: list[list[Write]] = []
        self.calls = 0
        self.error: Exception | None = None
        self.refused: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()

    async def apply(self, writes: Sequence[Write]) -> list[WriteResult]:
        await self.open.wait()
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.batches.append(list(writes))
        return [
            L2CommandError("no") if isinstance(write, WriteSet) and write.key in self.refused else 1 for write in writes
        ]

    @property
    def keys(self) -> list[str]:
        """The keys of all stores, and of all deletes with a minus sign, in order."""
        return [
            write.key if isinstance(write, WriteSet) else f"-{write.keys[0]!s}" for b in self.batches for write in b
        ]

    @property
    def stored(self) -> list[str]:
        """The keys of all stores, in order."""
        return [write.key for b in self.batches for write in b if isinstance(write, WriteSet)]

    async def ping(self) -> None: ...

    async def get(self, key: str) -> Stored | None: ...

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return []

    async def scan(self, *prefixes: str, match: str | None = None) -> AsyncIterator[list[bytes]]:
        yield []

    async def aclose(self) -> None: ...


def write(key: object, size: int = 1) -> WriteSet:
    """Return a fill of ``key``."""
    return WriteSet(str(key), b"x" * size, None)


def ignore(outcome: int | Exception) -> None:
    """Do nothing with the outcome of a write."""


# A max_delay longer than any test.
NEVER = 3600.0


def store(key: object, value: bytes = b"x", *indexes: str) -> WriteSet:
    """Return an explicit store of ``key``."""
    return WriteSet(str(key), value, None, indexes=indexes, announced=True)
