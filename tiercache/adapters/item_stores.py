"""A store of items on both faces of a cache, for adapters whose frameworks have async and plain methods."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..agent_cache import AgentCache
from ..identity import KeepsIdentity
from ..tiers.items.store import ItemStore
from .caches import check_cache

__all__ = ["TwoFacedItems"]

R = TypeVar("R")


class TwoFacedItems(KeepsIdentity):
    """The items of one store of a cache, on its async face and on its sync face.

    Raises:
        UsageError: ``cache`` is no AgentCache, or ``store`` is no name of a store.
    """

    def __init__(self, cache: AgentCache, store: str) -> None:
        self._cache = check_cache(cache)
        self._store = store
        self._items = cache._parts.items(store)

    async def run(self, operation: Callable[[ItemStore], Coroutine[Any, Any, R]]) -> R:
        """Return the result of ``operation`` with the items of the async face."""
        return await operation(self._items)

    def run_plain(self, operation: Callable[[ItemStore], Coroutine[Any, Any, R]]) -> R:
        """Return the result of ``operation`` with the items of the sync face. Any thread may call it."""
        face = self._cache.sync._face
        return face.run(lambda: operation(face.parts.items(self._store)))
