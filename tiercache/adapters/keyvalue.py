"""TierCacheKeyValue: a kv tier as a store of py-key-value, for FastMCP and others that take an AsyncKeyValue.

The protocol is one of method names alone, so that this module imports no other library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from hashlib import sha256
from typing import Any, Final, SupportsFloat

from ..agent_cache import AgentCache
from ..errors import L2UnavailableError, UsageError
from ..text import check_text
from ..tiers.kv.result import KvResult
from .caches import UNAVAILABLE, check_cache, log_of

__all__ = ["TierCacheKeyValue"]

# The collection of calls that name none, as in the stores of py-key-value.
_DEFAULT_COLLECTION: Final = "default_collection"
# Longer names are hashed: a key of a kv tier has at most 512 bytes, with the prefix of the cache.
_MOST_NAME_BYTES: Final = 200


class TierCacheKeyValue:
    """An AsyncKeyValue of py-key-value on a kv tier: its values are in L1 and L2 of ``cache``.

    Values are JSON objects. Each caller gets its own copy of a value.

    While Valkey is unavailable, or refuses a command, a lookup is a miss, and a value that cannot be stored is dropped,
    with an older value of its key. That is right for a cache of responses. With ``require_l2`` these calls raise
    instead, which is right for state, such as the logins of users. ``delete``, ``delete_many`` and ``destroy`` raise in
    both cases.

    Every method raises:
        UsageError: An argument is wrong, such as a value that is no JSON object. Nothing was changed.
        L2UnavailableError: Valkey did not answer. A change may or may not have happened.
        L2CommandError: Valkey refused.

    Args:
        cache: The cache.
        tier: The name of the kv tier, which has no other user. ``cache.tier(name, TierOptions(...))`` gives it options.
        require_l2: Whether lookups and stores raise while Valkey is unavailable.

    Raises:
        UsageError: ``cache`` is no AgentCache, or ``tier`` is no name of a tier.
    """

    def __init__(self, cache: AgentCache, tier: str = "keyvalue", *, require_l2: bool = False) -> None:
        self._tier = check_cache(cache).tier(tier)
        self._log = log_of(cache)
        self._require_l2 = require_l2

    # Lookups

    async def get(self, key: str, *, collection: str | None = None) -> dict[str, Any] | None:
        """Return the value of ``key``, or None if there is no value."""
        return _object((await self._find(_name(key, collection))).value)

    async def get_many(self, keys: Sequence[str], *, collection: str | None = None) -> list[dict[str, Any] | None]:
        """Return the value of each key, in order, or None for a key without a value. One read of Valkey."""
        names = _names(keys, collection)
        if self._require_l2:
            return [_object(result.value) for result in await self._find_all(names)]
        found = await self._tier.get_many(names)
        values: list[dict[str, Any] | None] = []
        given: set[str] = set()
        for name in names:
            value = _object(found[name])
            # A key that comes twice gets a copy for its second place.
            values.append(deepcopy(value) if name in given else value)
            given.add(name)
        return values

    async def ttl(self, key: str, *, collection: str | None = None) -> tuple[dict[str, Any] | None, float | None]:
        """Return the value of ``key`` and the seconds that it will live, or None for no end; or (None, None)."""
        return _with_ttl(await self._find(_name(key, collection)))

    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[dict[str, Any] | None, float | None]]:
        """Do as ``ttl`` for each key, in order."""
        return [_with_ttl(result) for result in await self._find_all(_names(keys, collection))]

    async def _find(self, name: str) -> KvResult[Any]:
        found = await self._tier.get_or_load(name, _load_nothing, mode="only_cached")
        if found.degraded and not found.hit and self._require_l2:
            raise L2UnavailableError("the value could not be looked up, because Valkey is unavailable")
        return found

    async def _find_all(self, names: Iterable[str]) -> list[KvResult[Any]]:
        # The lookups of one step of the loop share a round trip.
        return await asyncio.gather(*map(self._find, names))

    # Changes

    async def put(
        self, key: str, value: Mapping[str, Any], *, collection: str | None = None, ttl: SupportsFloat | None = None
    ) -> None:
        """Store a value.

        Args:
            ttl: Seconds; None takes the lifetime of the tier, and then that of the cache.
        """
        await self._store({_name(key, collection): _checked(value)}, ttl)

    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """Store a value for each key, in order. Of a key that comes twice, the last value counts."""
        names = _names(keys, collection)
        if len(names) != len(values):
            raise UsageError(f"keys and values must have the same length, not {len(names)} and {len(values)}")
        await self._store(dict(zip(names, map(_checked, values), strict=True)), ttl)

    async def _store(self, values: Mapping[str, dict[str, Any]], ttl: SupportsFloat | None) -> None:
        seconds = ttl if ttl is None or isinstance(ttl, bool) else _seconds(ttl)
        try:
            await self._tier.set_many(values, ttl=seconds)
        except UNAVAILABLE as error:
            if self._require_l2:
                raise
            self._log.warn_once("a value of a key-value store is not stored: %s", error)
            # Valkey may have an older value, which must not come back.
            with suppress(*UNAVAILABLE):
                await self._tier.delete_many(values)

    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        """Remove a value; return whether there was one."""
        return await self._tier.delete(_name(key, collection))

    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        """Remove the values of ``keys``; return how many there were."""
        return await self._tier.delete_many(_names(keys, collection))

    async def destroy(self) -> bool:
        """Remove the values of all collections. Returns True, as the protocol has it."""
        await self._tier.clear()
        return True


def _load_nothing() -> None:
    """Is never called: a lookup in mode "only_cached" does not load."""


def _names(keys: object, collection: str | None) -> list[str]:
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise UsageError(f"keys must be a sequence of keys, not {type(keys).__name__}")
    return [_name(key, collection) for key in keys]


def _name(key: object, collection: object) -> str:
    """Return the key in the kv tier. The length in front keeps the pairs of collection and key apart."""
    within = _DEFAULT_COLLECTION if collection is None else check_text(collection, "collection") or _DEFAULT_COLLECTION
    name = f"{len(within)}:{within}:{check_text(key, 'key')}"
    if len(encoded := name.encode()) <= _MOST_NAME_BYTES:
        return name
    return f"sha256:{sha256(encoded).hexdigest()}"


def _checked(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"value must be a mapping, not {type(value).__name__}")
    return dict(value)


def _seconds(ttl: SupportsFloat) -> float:
    try:
        return float(ttl)
    except (TypeError, ValueError) as error:
        raise UsageError(f"ttl must be a number of seconds, not {ttl!r}") from error


def _object(value: object) -> dict[str, Any] | None:
    """Return a value that was found. What other code has stored in the tier is no value of this store."""
    return value if isinstance(value, dict) else None


def _with_ttl(found: KvResult[Any]) -> tuple[dict[str, Any] | None, float | None]:
    value = _object(found.value)
    return value, None if value is None else found.ttl
