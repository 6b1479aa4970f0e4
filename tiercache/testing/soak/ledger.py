"""The ledger: the version of each key, and the changes that Valkey acknowledged, on a server without faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..coherence.database import Database

__all__ = ["Ledger"]

# Acknowledged changes that the ledger keeps for each key. A key that changes more often than so many times within the
# staleness bound is not checked against the oldest of them.
_KEPT_COUNT: Final = 32


class Ledger(Database):
    """The source data of all processes, and the history that reads are checked against.

    Moments are ``time.monotonic()``, one clock for all processes of a machine on Linux and macOS.
    """

    async def acknowledge(self, keys: Sequence[str], versions: Sequence[int], moment: float, change: str) -> None:
        """Record that ``change``, a change of ``keys`` to ``versions``, was acknowledged at ``moment``."""
        await self.run(
            [
                command
                for key, version in zip(keys, versions, strict=True)
                for command in (
                    ("LPUSH", _changes(key), f"{version} {moment!r} {change}"),
                    ("LTRIM", _changes(key), 0, _KEPT_COUNT - 1),
                )
            ]
        )

    async def changes(self, keys: Sequence[str]) -> list[list[tuple[int, float, str]]]:
        """Return the latest acknowledged changes of each key: version, moment and name."""
        replies = await self.run([("LRANGE", _changes(key), 0, -1) for key in keys])
        return [[_parsed(line) for line in lines] for lines in replies]


def _changes(key: str) -> str:
    return f"changes:{key}"


def _parsed(line: bytes) -> tuple[int, float, str]:
    version, moment, change = line.split(maxsplit=2)
    return int(version), float(moment), change.decode()
