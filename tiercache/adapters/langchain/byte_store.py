"""A store of bytes for LangChain's CacheBackedEmbeddings, on a kv tier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any, Final

from ...agent_cache import AgentCache
from ...errors import TierCacheError, UsageError
from ...indexes.names import tag_groups
from ...sync.scoped import ScopedFace
from ...tiers.kv.tagged_keys import tagged_keys
from ...ttl import Ttl, check_ttl
from ..caches import UNAVAILABLE, check_cache, log_of
from ..extras import missing_extra

try:
    from langchain_core.stores import BaseStore
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["TierCacheByteStore"]

_TIER: Final = "langchain"


class TierCacheByteStore(BaseStore[str, bytes]):
    """A store of bytes by text, as a cache: for CacheBackedEmbeddings.

    The sync methods use ``cache.sync``. While Valkey is unavailable, ``mget`` finds only values in L1, and ``mset``
    stores nothing: the embeddings that a program has paid for reach it in any case. So this is no place for bytes that
    exist nowhere else.

    Args:
        cache: The cache.
        tier: The name of the kv tier, as for ``AgentCache.tier``. Stores on one tier share their values.
        ttl: Lifetime of the values: seconds, a string such as ``"30d"``, a timedelta, or ``NO_EXPIRY``. None takes
            that of the tier, then the cache's.
        tags: Names by which the values can be invalidated together with other entries.

    Raises:
        UsageError: An argument is wrong. Every method raises it if the cache is closed, or has no such face.
    """

    def __init__(
        self, cache: AgentCache, *, tier: str = _TIER, ttl: Ttl | None = None, tags: Sequence[str] = ()
    ) -> None:
        self._cache = check_cache(cache)
        self._tier = tier
        if ttl is not None:
            check_ttl(ttl)
        tag_groups(tags)
        cache.tier(tier)  # It refuses a wrong name.
        self._ttl = ttl
        # The index of this tag has the keys of the store, for ``yield_keys``.
        self._tag = f"langchain.bytes.{tier}"
        self._tags = (self._tag, *tags)

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, or None."""
        try:
            return _values(keys, self._cache.sync.tier(self._tier).get_many(keys))
        except UNAVAILABLE as error:
            return self._nothing(keys, error)

    async def amget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, or None."""
        try:
            return _values(keys, await self._cache.tier(self._tier).get_many(keys))
        except UNAVAILABLE as error:
            return self._nothing(keys, error)

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Store pairs of a key and a value. Raises UsageError for a value that is no bytes, and then stores nothing."""
        values = _checked(key_value_pairs)
        try:
            self._cache.sync.tier(self._tier).set_many(values, ttl=self._ttl, tags=self._tags)
        except UNAVAILABLE as error:
            self._warn(error)

    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Store pairs of a key and a value. Raises UsageError for a value that is no bytes, and then stores nothing."""
        values = _checked(key_value_pairs)
        try:
            await self._cache.tier(self._tier).set_many(values, ttl=self._ttl, tags=self._tags)
        except UNAVAILABLE as error:
            self._warn(error)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Remove keys with their values. Errors as for ``KvTier.delete_many``."""
        self._cache.sync.tier(self._tier).delete_many(keys)

    async def amdelete(self, keys: Sequence[str]) -> None:
        """Remove keys with their values. Errors as for ``KvTier.delete_many``."""
        await self._cache.tier(self._tier).delete_many(keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``, in no order.

        The cost grows with the number of keys in the store, unless the server evicts keys: then it grows with the
        number of all keys of the server.

        Raises:
            L2UnavailableError: Valkey did not answer, so the keys are not known.
            L2CommandError: Valkey refused.
        """
        face = self._cache._sync_face
        tier = face.kv_tier(self._tier, None)
        scoped = ScopedFace(face, tier._rules.scopes)
        yield from scoped.run(partial(tagged_keys, tier, self._tag, prefix or ""))

    # pyright takes the method of LangChain, which is a generator, for a coroutine.
    async def ayield_keys(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, prefix: str | None = None
    ) -> AsyncIterator[str]:
        """Yield the keys that begin with ``prefix``, as ``yield_keys``."""
        for key in await tagged_keys(self._cache.tier(self._tier), self._tag, prefix or ""):
            yield key

    def _nothing(self, keys: Sequence[str], error: TierCacheError) -> list[bytes | None]:
        self._warn(error)
        return [None] * len(keys)

    def _warn(self, error: TierCacheError) -> None:
        log_of(self._cache).warn_once("LangChain's store of bytes goes on without Valkey: %s", error)


def _values(keys: Sequence[str], found: dict[str, Any]) -> list[bytes | None]:
    """Return the values in the order of ``keys``; a value that is no bytes is of another program."""
    values = [found[key] for key in keys]
    return [value if isinstance(value, bytes) else None for value in values]


def _checked(pairs: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    values = dict(pairs)
    for key, value in values.items():
        if not isinstance(value, bytes):
            raise UsageError(f"the value of {key!r} must be bytes, not {type(value).__name__}")
    return values
