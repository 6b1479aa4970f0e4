"""Software other than tiercache: a plain client that sets and deletes entries, as valkey-cli or BetterDB Monitor do."""

from __future__ import annotations

from typing import Self

from ...errors import TierCacheError
from .database import connect
from .settings import CACHE_NAME
from .subject import Subject

__all__ = ["ForeignClient"]


class ForeignClient:
    """A client of the server at ``url``, without cache and proxy. Valkey carries out at once what it acknowledges."""

    def __init__(self, url: str) -> None:
        self._server = connect(url)
        self._keys: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.aclose()

    async def set(self, subject: Subject, version: int, *, keeps_ttl: bool = False) -> bool:
        """Set the key of ``subject`` to ``version``; return whether the server acknowledged that."""
        options = ("KEEPTTL",) if keeps_ttl else ()
        return await self._run("SET", await self._key_of(subject), subject.encode(version), *options)

    async def delete(self, subject: Subject) -> bool:
        """Delete the key of ``subject``; return whether the server acknowledged that."""
        return await self._run("DEL", await self._key_of(subject))

    async def _key_of(self, subject: Subject) -> str:
        if subject.name not in self._keys:
            self._keys[subject.name] = await subject.valkey_key(CACHE_NAME)
        return self._keys[subject.name]

    async def _run(self, *command: str | bytes) -> bool:
        try:
            (reply,) = await self._server.execute([command])
        except TierCacheError:
            return False  # Valkey is being restarted.
        return not isinstance(reply, Exception)  # A server without memory refuses a SET.
