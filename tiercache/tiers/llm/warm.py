"""Warm-ups of the llm tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from ...errors import UsageError
from ...indexes.names import tag_groups
from ...ttl import Ttl, check_ttl
from ..keys.key import LlmKey
from ..warm import Items, OnProgress, WarmReport, WarmUp, check_shared
from .loader import LlmLoader
from .pinned import PinningTier

__all__ = ["WarmingTier"]


class WarmingTier(PinningTier):
    """The part of the llm tier that loads many answers ahead of their callers."""

    @overload
    async def warm(
        self,
        items: Items[Mapping[str, Any]],
        loader: LlmLoader[Any],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[Mapping[str, Any]]: ...

    @overload
    async def warm(
        self,
        items: Items[tuple[Mapping[str, Any] | LlmKey, LlmLoader[Any]]],
        loader: None = None,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[tuple[Mapping[str, Any] | LlmKey, LlmLoader[Any]]]: ...

    async def warm(
        self,
        items: Items[Any],
        loader: LlmLoader[Any] | None = None,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[Any]:
        """Load the answers that the cache lacks ahead of their callers, as ``get_or_load`` of each item does.

        Args:
            items: Params; without ``loader``, tuples of params, or their key, and a loader. Any iterable, also an async
                one: it is read as the loads go on, and never as a whole.
            loader: The loader of every item.
            concurrency: Most items at the same time.
            on_progress: Plain function, called with a ``WarmProgress`` after each item. Its exceptions are logged once.

        The other arguments are those of ``get_or_load``.

        Returns:
            The counts, and each item that failed with its exception, once Valkey has answered the writes. The failure
            of an item raises nothing, and the other items go on.

        Cancelling the call cancels the loads that have no other caller, and leaves no task.
        """
        if ttl is not None:
            check_ttl(ttl)
        tag_groups(tags)
        check_shared(loader)
        tier: Any = self

        async def get(item: Any) -> Any:
            if loader is not None:
                return await tier.get_or_load(item, loader, ttl=ttl, tags=tags)
            if not isinstance(item, tuple) or len(item) != 2:
                raise UsageError("an item must be a tuple of params and their loader, or all items need a loader")
            return await tier.get_or_load(*item, ttl=ttl, tags=tags)

        with self._engine.operation("llm.warm"):
            return await WarmUp(self._engine, get, concurrency=concurrency, on_progress=on_progress).run(items)
