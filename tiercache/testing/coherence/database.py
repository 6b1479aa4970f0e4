"""The database: the source data that loaders load, a counter for each key, on a separate server without faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from ...stores.valkey.settings import Settings, client_from_url
from ...stores.valkey.store import ValkeyLevel2

__all__ = ["Database", "connect"]

# A fault may stop the process, or block its event loop, while the process waits for the answer.
_TIMEOUT = 20.0


def connect(url: str, timeout: float = _TIMEOUT) -> ValkeyLevel2:
    """Return a connection to the server at ``url`` that belongs to no cache."""
    return ValkeyLevel2(Settings.from_client(client_from_url(url)), timeout=timeout)


class Database:
    """The current version of each key, shared by all processes. Versions begin at 0 and never fall."""

    def __init__(self, url: str) -> None:
        self._server = connect(url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.aclose()

    async def versions(self, keys: Sequence[str]) -> list[int]:
        """Return the current version of each key."""
        (replies,) = await self.run([("MGET", *map(_counter, keys))])
        return [int(reply or 0) for reply in replies]

    async def raise_versions(self, keys: Sequence[str]) -> list[int]:
        """Raise the version of each key; return the new versions."""
        return [int(reply) for reply in await self.run([("INCR", _counter(key)) for key in keys])]

    async def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in one round trip; return their replies, or raise the first error."""
        replies = await self._server.execute(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


def _counter(key: str) -> str:
    return f"database:{key}"
