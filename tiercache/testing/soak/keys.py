"""The keys that Valkey keeps when every process has closed its cache and every lifetime has passed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..coherence.server import Server
from .protocol import CACHE_NAME

__all__ = ["KeysLeft", "wait_for_few_keys"]

# The keys that a cache may leave: statistics, the registry, the counter of the changes, the state of the indexes.
_PERMITTED: Final = frozenset(
    {
        "__betterdb:caches",
        "__betterdb:protocol",
        *(f"{CACHE_NAME}:{rest}" for rest in ("__stats", "__tool_policies", "__tc:settings", "__tc:alive")),
        *(f"{CACHE_NAME}:__tc:{rest}" for rest in ("sequence", "indexed", "indexing", "others", "evicted")),
    }
)
_PAUSE: Final = 1.0


class KeysLeft(NamedTuple):
    """The keys at the end.

    Attributes:
        seconds: Seconds from the close of the last cache until no other key was left.
        permitted: The permitted keys that are left.
        others: The count of all other keys, by the beginning of their names.
        examples: A few of them.
    """

    seconds: float
    permitted: Sequence[str]
    others: Counter[str]
    examples: Sequence[str] = ()


async def wait_for_few_keys(server: Server, patience: float) -> KeysLeft:
    """Return the keys as soon as only permitted keys are left, or after ``patience`` seconds."""
    began = time.monotonic()
    while True:
        (reply,) = await server.execute(("KEYS", "*"))
        keys = sorted(key.decode(errors="replace") for key in reply)
        others = [key for key in keys if key not in _PERMITTED]
        seconds = time.monotonic() - began
        if not others or seconds > patience:
            kinds = Counter(_kind_of(key) for key in others)
            return KeysLeft(seconds, [key for key in keys if key in _PERMITTED], kinds, others[:5])
        await asyncio.sleep(_PAUSE)


def _kind_of(key: str) -> str:
    """Return the beginning of a key's name, up to the part that differs from entry to entry."""
    parts = key.split(":")
    return ":".join(parts[:4] if parts[1:2] == ["__tc"] else parts[:2])
