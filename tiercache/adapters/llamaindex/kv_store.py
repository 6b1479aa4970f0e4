"""The store of keys and values for LlamaIndex: ingestion caches, document stores, index stores.

A collection is a namespace of an item store, and a value is the JSON of an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...agent_cache import AgentCache
from ...errors import TierCacheError, UsageError
from ...identity import KeepsIdentity
from ...tiers.items.document import document_data, document_of
from ...tiers.items.store import Find, Get, Item, ItemStore, Put
from ...ttl import Ttl, check_ttl
from ..caches import UNAVAILABLE, log_of
from ..extras import missing_extra
from ..item_stores import TwoFacedItems

try:
    from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore
except ImportError as error:
    raise missing_extra("llamaindex", error) from error

__all__ = ["TierCacheKVStore"]

# The default of LlamaIndex is 1, which would be a round trip for each pair.
_LEAST_BATCH_SIZE: Final = 100


class TierCacheKVStore(KeepsIdentity, BaseKVStore):
    """A store of JSON objects by collection and key, for LlamaIndex's ingestion caches, docstores and index stores.

    The async methods use the cache, the other methods use ``cache.sync``, from any thread and inside a running loop.
    Each read asks Valkey, and sees every write that has returned, in any process. Each result is a new object.

    The values are state. A store that serves an ingestion cache alone may do without Valkey: with
    ``require_l2=False``, ``get`` finds nothing while Valkey is unavailable, and ``put`` and ``put_all`` store nothing,
    so that a pipeline keeps the embeddings that it has paid for.

    Args:
        cache: The cache.
        store: The name of the store: 1 to 128 of ``A-Z a-z 0-9 _ -``. Stores of one name share their values.
        ttl: Lifetime of a value after its last use: seconds, a string such as ``"30d"``, a timedelta, or
            ``NO_EXPIRY``. None: values have no end.
        require_l2: Whether reads and writes of single values raise while Valkey is unavailable.

    Raises:
        UsageError: An argument is wrong: also a value that is no JSON object or is larger than 32 MiB, and a key or a
            collection of more than 512 bytes. Nothing is stored then.
        L2UnavailableError: Valkey did not answer. A write may or may not have happened.
        L2CommandError: Valkey refused.
    """

    def __init__(
        self, cache: AgentCache, *, store: str = "llamaindex-kv", ttl: Ttl | None = None, require_l2: bool = True
    ) -> None:
        self._items = TwoFacedItems(cache, store)
        self._log = log_of(cache)
        self._window = None if ttl is None else check_ttl(ttl)
        self._require_l2 = require_l2

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        self.put_all([(key, val)], collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        await self.aput_all([(key, val)], collection)

    def put_all(
        self,
        kv_pairs: Sequence[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Store pairs of a key and a value. Of a key that comes twice, the last value counts.

        Args:
            batch_size: The number of pairs in one exchange with Valkey, if it is above 100.
        """
        puts, size = self._puts(kv_pairs, collection), _size(batch_size)
        try:
            self._items.run_plain(lambda items: _put_all(items, puts, size))
        except UNAVAILABLE as error:
            self._go_on(error)

    async def aput_all(
        self,
        kv_pairs: Sequence[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Store pairs of a key and a value, as ``put_all``."""
        puts, size = self._puts(kv_pairs, collection), _size(batch_size)
        try:
            await self._items.run(lambda items: _put_all(items, puts, size))
        except UNAVAILABLE as error:
            self._go_on(error)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return the value of a key, or None."""
        get = Get((collection,), key, renew=True)
        try:
            return self._items.run_plain(lambda items: _get(items, get))
        except UNAVAILABLE as error:
            self._go_on(error)
            return None

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return the value of a key, or None."""
        get = Get((collection,), key, renew=True)
        try:
            return await self._items.run(lambda items: _get(items, get))
        except UNAVAILABLE as error:
            self._go_on(error)
            return None

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return all values of a collection by their keys, in the order in which the keys were put first."""
        return self._items.run_plain(lambda items: _get_all(items, collection))

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return all values of a collection by their keys, in the order in which the keys were put first."""
        return await self._items.run(lambda items: _get_all(items, collection))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Remove a value; return whether there was one."""
        return self._items.run_plain(lambda items: _delete(items, key, collection))

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Remove a value; return whether there was one."""
        return await self._items.run(lambda items: _delete(items, key, collection))

    def _puts(self, pairs: Sequence[tuple[str, dict[str, Any]]], collection: str) -> list[Put]:
        return [Put((collection,), key, document_data(value), self._window) for key, value in pairs]

    def _go_on(self, error: TierCacheError) -> None:
        """Raise ``error``, unless this store may do without Valkey."""
        if self._require_l2:
            raise error
        self._log.warn_once("LlamaIndex's store of keys and values goes on without Valkey: %s", error)


def _size(batch_size: object) -> int:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise UsageError(f"batch_size must be a whole number above 0, not {batch_size!r}")
    return max(batch_size, _LEAST_BATCH_SIZE)


async def _put_all(items: ItemStore, puts: list[Put], size: int) -> None:
    for start in range(0, len(puts), size):
        await items.run(puts[start : start + size])


async def _get(items: ItemStore, get: Get) -> dict[str, Any] | None:
    (item,) = await items.run([get])
    return document_of(item) if isinstance(item, Item) else None


async def _get_all(items: ItemStore, collection: str) -> dict[str, dict[str, Any]]:
    (found,) = await items.run([Find((collection,))])
    assert isinstance(found, list)
    documents = {item.key: document_of(item) for item in found if item.namespace == (collection,)}
    return {key: document for key, document in documents.items() if document is not None}


async def _delete(items: ItemStore, key: str, collection: str) -> bool:
    (removed,) = await items.run([Put((collection,), key, None)])
    return bool(removed)
