"""Batch reads: the values and remaining lifetimes of many keys, in one round trip.

There are two ways:

1. A read-only script reads both at one moment, and costs 1.6 times as much as MGET alone.
2. MGET, and PTTL for each key, sent together: 4.4 times as much. This way is for servers without read-only scripts
   (before Redis 7) and for users without permission to run scripts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

from valkey.exceptions import ResponseError

from ...engine.level2.level2 import Stored
from ...errors import L2UnavailableError
from .errors import checked, map_error

__all__ = ["CHUNK_COUNT", "BatchReader"]

# Keys in one command. The bound keeps other clients from waiting long, and Lua's unpack takes only some thousands.
CHUNK_COUNT: Final = 250

_SCRIPT: Final = """
local ttls = {}
for i, key in ipairs(KEYS) do ttls[i] = redis.call('PTTL', key) end
return {redis.call('MGET', unpack(KEYS)), ttls}
"""

Exchange: TypeAlias = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]


class BatchReader:
    """Reads many keys: by script, or by commands from the first time that the server refuses the script."""

    def __init__(self) -> None:
        self._has_scripts = True

    async def read(self, keys: Sequence[str], exchange: Exchange) -> list[Stored | None]:
        """Return the value and lifetime of each of ``keys``, or None for a key that does not exist.

        Args:
            exchange: Sends commands in one write; returns a reply, or a ResponseError as its reply, for each.
        """
        chunks = [keys[start : start + CHUNK_COUNT] for start in range(0, len(keys), CHUNK_COUNT)]
        pairs = await self._by_script(chunks, exchange) if self._has_scripts else None
        if pairs is None:
            pairs = await self._by_commands(chunks, exchange)
        return [_stored(value, ttl) for value, ttl in pairs]

    async def _by_script(self, chunks: Sequence[Sequence[str]], exchange: Exchange) -> list[tuple[Any, int]] | None:
        """Return a value and a PTTL for each key, or None if the server refuses the script."""
        # Not EVALSHA_RO: the text is only as long as two keys, and a server that has lost the script still answers.
        replies = await exchange([("EVAL_RO", _SCRIPT, len(chunk), *chunk) for chunk in chunks])
        for reply in replies:
            if isinstance(reply, ResponseError):
                mapped = map_error(reply, "the script that reads many keys")
                if isinstance(mapped, L2UnavailableError):
                    raise mapped from reply
                # The reason for the refusal does not matter: the commands show whether the server refuses them too.
                self._has_scripts = False
                return None
        return [pair for values, ttls in replies for pair in zip(values, ttls, strict=True)]

    async def _by_commands(self, chunks: Sequence[Sequence[str]], exchange: Exchange) -> list[tuple[Any, int]]:
        commands: list[tuple[Any, ...]] = []
        for chunk in chunks:
            commands.append(("MGET", *chunk))
            commands += [("PTTL", key) for key in chunk]
        replies = iter(await exchange(commands))
        pairs: list[tuple[Any, int]] = []
        for _ in chunks:
            values = checked(next(replies), "MGET")
            pairs += [(value, checked(next(replies), "PTTL")) for value in values]
        return pairs


def _stored(value: bytes | None, ttl: int) -> Stored | None:
    if ttl == -2:  # The key does not exist.
        return None
    # MGET returns None for a key that exists but is not a string.
    return Stored(value, None if ttl == -1 or value is None else ttl / 1000)
