"""The cache of node results: a kv tier behind ``graph.compile(cache=...)``.

A result is a kv value under ``{length}:{label}...{length}:{key}``, the namespace and the key of LangGraph with the
length in characters before each part. A text longer than ``_MAX_KEY_BYTES`` is replaced by ``sha256:`` and its hash.
The value is bytes: the name of the format, a colon, and the bytes of LangGraph's serializer.

Each entry has two tags, by which ``clear`` finds it without a scan: one of all results of the tier, and one of its
namespace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias

from ..caches import check_cache, log_of
from ..extras import missing_extra

try:
    from langgraph.cache.base import BaseCache
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
except ImportError as error:
    raise missing_extra("langgraph", error) from error

from ...agent_cache import AgentCache
from ...errors import TierCacheError, UsageError, WrongLoopError
from ...tiers.kv.tier import KvTier
from .classes import refuse_pickle

__all__ = ["TierCacheNodeCache"]

Namespace: TypeAlias = tuple[str, ...]
FullKey: TypeAlias = tuple[Namespace, str]
# A value with its lifetime in seconds.
Pairs: TypeAlias = Mapping[FullKey, tuple[Any, int | None]]

_MAX_KEY_BYTES: Final = 200


class TierCacheNodeCache(BaseCache[Any]):
    """The node cache of LangGraph in a kv tier of a cache.

    The async methods use the cache, the other methods use ``cache.sync``. A cache of process memory alone takes one of
    both kinds.

    While Valkey is unavailable, or refuses a command, lookups are misses and results are not stored: the graph runs on.
    A result that the serializer cannot write, or that is larger than the tier's ``max_value_bytes``, is not stored
    either. The log of the cache has a warning for each reason.

    Args:
        cache: The cache.
        tier: The name of the kv tier. Make the tier with options, such as a lifetime for results whose policy has
            none, by ``cache.tier(tier, TierOptions(...))``.
        allow: Classes of results that may be restored, besides messages, documents and the types of the standard
            library that LangGraph counts as safe: classes, or pairs of module and name. A result that contains an
            object of another class is never a hit.
        serde: A serializer instead of LangGraph's own. It alone then decides which classes it restores.

    Raises:
        UsageError: An argument is wrong, ``serde`` would restore pickles, or ``serde`` and ``allow`` are both given.
    """

    def __init__(
        self,
        cache: AgentCache,
        *,
        tier: str = "langgraph-nodes",
        allow: Iterable[type | tuple[str, str]] = (),
        serde: SerializerProtocol | None = None,
    ) -> None:
        self._cache = check_cache(cache)
        self._tier: KvTier = cache.tier(tier)
        self._name = tier
        self._log = log_of(cache)
        self._is_checked = serde is None
        classes = _checked_classes(allow)
        if serde is None:
            serde = JsonPlusSerializer(allowed_msgpack_modules=classes)
        elif classes:
            raise UsageError("allow must be empty where serde is given: the serializer has its own list of classes")
        else:
            refuse_pickle(serde)
        super().__init__(serde=serde)

    # The methods for coroutines

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """Return the results of ``keys`` that are cached, each a new object."""
        if not keys:
            return {}
        names = _names(keys)
        return self._restored(names, await self._tier.get_many(names))

    async def aset(self, pairs: Pairs) -> None:
        """Store results, each with a lifetime in seconds; None takes the tier's lifetime, then the cache's.

        A lifetime of 0 or less removes the result.
        """
        # Serialized before the first await, after which the graph may change the values.
        dumped = [(key, self._dumped(value), ttl) for key, (value, ttl) in pairs.items()]
        await asyncio.gather(*(self._store(key, data, ttl) for key, data, ttl in dumped if data is not None))

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Remove the results of ``namespaces``, or all results of this tier. A namespace below another one stays.

        Raises:
            L2UnavailableError: The results are gone from this process, and may still be in Valkey. This process
                repeats the removal until Valkey acknowledges it, and reads none of them until then.
            L2CommandError: Valkey refused the removal.
        """
        tags = self._tags_to_clear(namespaces)
        if tags:
            await self._cache.invalidate_tag(*tags)

    # The methods for plain code

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """Return the results of ``keys`` that are cached, as ``aget``."""
        if not keys:
            return {}
        names = _names(keys)
        return self._restored(names, self._cache.sync.tier(self._name).get_many(names))

    def set(self, pairs: Pairs) -> None:
        """Store results, as ``aset``."""
        for key, (value, ttl) in pairs.items():
            data = self._dumped(value)
            if data is None:
                continue
            tier = self._cache.sync.tier(self._name)
            try:
                if ttl is not None and ttl <= 0:
                    tier.delete(_name(key))
                else:
                    tier.set(_name(key), data, ttl=ttl, tags=self._tags(key[0]))
            except TierCacheError as error:
                self._not_stored(error)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Remove the results of ``namespaces``, or all results of this tier, as ``aclear``."""
        tags = self._tags_to_clear(namespaces)
        if tags:
            self._cache.sync.invalidate_tag(*tags)

    # Both

    async def _store(self, key: FullKey, data: bytes, ttl: int | None) -> None:
        try:
            if ttl is not None and ttl <= 0:
                await self._tier.delete(_name(key))
            else:
                await self._tier.set(_name(key), data, ttl=ttl, tags=self._tags(key[0]))
        except TierCacheError as error:
            self._not_stored(error)

    def _not_stored(self, error: TierCacheError) -> None:
        """Log that a result is not stored. The graph has the result in any case.

        Raises:
            WrongLoopError: ``error``: the program uses the cache on two event loops.
        """
        if isinstance(error, WrongLoopError):
            raise error
        # The type is in the message: each reason is logged once.
        self._log.warn_once(f"a result of a node is not stored ({type(error).__name__}): %s", error)

    def _dumped(self, value: Any) -> bytes | None:
        """Return the bytes of a result, or None if the serializer cannot write or restore it."""
        try:
            kind, data = self.serde.dumps_typed(value)
        # A serializer calls methods of the caller's classes, which may raise any exception.
        except Exception as error:
            self._log.warn_once("a result of a node is not stored, because it cannot be serialized: %r", error)
            return None
        stored = b"%b:%b" % (kind.encode(), data)
        return stored if self._load(stored) is not None else None

    def _restored(self, names: Mapping[str, FullKey], found: Mapping[str, Any]) -> dict[FullKey, Any]:
        """Return the results that ``found`` has, by their keys."""
        results: dict[FullKey, Any] = {}
        for name, key in names.items():
            loaded = self._load(found[name]) if isinstance(found[name], bytes) else None
            if loaded is not None:
                results[key] = loaded[0]
        return results

    def _load(self, stored: bytes) -> tuple[Any] | None:
        """Return a new object from the bytes of a result, or None if they do not make an equal object.

        For an object of a class that is not allowed, the serializer returns the fields of the object, without an
        error. Such a result has other bytes than the object.
        """
        kind, _, data = stored.partition(b":")
        try:
            value = self.serde.loads_typed((kind.decode(), data))
            is_equal = not self._is_checked or self.serde.dumps_typed(value) == (kind.decode(), data)
        # The bytes may be of other software, and the caller's classes may raise any exception.
        except Exception as error:
            self._log.warn_once("a result of a node cannot be restored: %r", error)
            return None
        if not is_equal:
            self._log.warn_once(
                "a result of a node cannot be restored exactly, and is not cached: name its classes in "
                "TierCacheNodeCache(allow=...)"
            )
        return (value,) if is_equal else None

    # Tags

    def _tags(self, namespace: Namespace) -> tuple[str, str]:
        return self._tag_of_all(), f"{self._tag_of_all()}:{_short(_prefixed(namespace))}"

    def _tag_of_all(self) -> str:
        return f"langgraph.nodes:{self._name}"

    def _tags_to_clear(self, namespaces: Sequence[Namespace] | None) -> list[str]:
        if namespaces is None:
            return [self._tag_of_all()]
        return [self._tags(namespace)[1] for namespace in namespaces]


def _checked_classes(allow: Iterable[type | tuple[str, str]]) -> list[type | tuple[str, str]]:
    classes = list(allow)
    for each in classes:
        is_pair = isinstance(each, tuple) and len(each) == 2 and all(isinstance(part, str) for part in each)
        if not is_pair and not isinstance(each, type):
            raise UsageError(f"allow must have classes, or pairs of module and name, not {each!r}")
    return classes


def _names(keys: Sequence[FullKey]) -> dict[str, FullKey]:
    """Return LangGraph's keys by their keys in the tier."""
    return {_name(key): (tuple(key[0]), key[1]) for key in keys}


def _name(key: FullKey) -> str:
    namespace, text = key
    return _short(_prefixed((*namespace, text)))


def _prefixed(parts: Iterable[str]) -> str:
    return "".join(f"{len(part)}:{part}" for part in parts)


def _short(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    # No other name begins like a hash: the first character of each is a digit.
    if len(data) <= _MAX_KEY_BYTES and text.isprintable():
        return text or "0"
    return f"sha256:{sha256(data).hexdigest()}"
