"""Warm-ups of the tool tier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from ...errors import UsageError
from ...indexes.names import tag_groups
from ...ttl import Ttl, check_ttl
from ..warm import Items, OnProgress, WarmReport, WarmUp, check_shared
from .cached import check_cost
from .loader import ToolLoader
from .pinned import PinningTier

__all__ = ["WarmingTier"]


class WarmingTier(PinningTier):
    """The part of the tool tier that makes many calls ahead of their callers."""

    @overload
    async def warm(
        self,
        items: Items[tuple[str, Any]],
        loader: ToolLoader[Any],
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[tuple[str, Any]]: ...

    @overload
    async def warm(
        self,
        items: Items[tuple[str, Any, ToolLoader[Any]]],
        loader: None = None,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[tuple[str, Any, ToolLoader[Any]]]: ...

    async def warm(
        self,
        items: Items[Any],
        loader: ToolLoader[Any] | None = None,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        concurrency: int = 8,
        on_progress: OnProgress | None = None,
    ) -> WarmReport[Any]:
        """Load the results that the cache lacks ahead of their callers, as ``get_or_load`` of each item does.

        Args:
            items: Tuples of a tool and its args; without ``loader``, of a tool, its args and its loader. Any iterable,
                also an async one: it is read as the loads go on, and never as a whole.
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
        if cost is not None:
            check_cost(cost)
        tag_groups(tags)
        check_shared(loader)
        tier: Any = self

        async def get(item: Any) -> Any:
            full = (*item, loader) if isinstance(item, tuple) and loader is not None else item
            if not isinstance(full, tuple) or len(full) != 3:
                raise UsageError("an item must be a tuple of a tool, its args, and its loader unless all share one")
            return await tier.get_or_load(*full, ttl=ttl, cost=cost, tags=tags)

        with self._engine.operation("tool.warm"):
            return await WarmUp(self._engine, get, concurrency=concurrency, on_progress=on_progress).run(items)
