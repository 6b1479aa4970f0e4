"""The store of LangGraph, the long-term memory of agents, in Valkey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from ..extras import missing_extra
from ..item_stores import TwoFacedItems

try:
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        ListNamespacesOp,
        MatchCondition,
        Op,
        PutOp,
        Result,
        SearchItem,
        SearchOp,
        TTLConfig,
    )
    from langgraph.store.base import Item as StoreItem
except ImportError as error:
    raise missing_extra("langgraph", error) from error

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...text import shown
from ...tiers.items.document import document_data, document_of
from ...tiers.items.key import Namespace
from ...tiers.items.store import Find, Get, Item, ItemStore, Namespaces, Operation, Put
from .item_filter import check_filter, matches

__all__ = ["TierCacheStore"]

_MINUTE: Final = 60.0
_MAX_MINUTES: Final = 100 * 365 * 24 * 60
_TTL_OPTIONS: Final = {"refresh_on_read", "omit_expired", "default_ttl", "sweep_interval_minutes"}


class TierCacheStore(BaseStore):
    """The store of LangGraph on a cache: get, put, delete, search by filter, list namespaces, TTL. No vectors.

    The async methods use the cache, the other methods use ``cache.sync``. A cache of process memory alone takes one of
    both kinds, and keeps the items in a dict.

    A value is stored as JSON, so that a tuple comes back as a list. Each result is a new object. A read sees every
    write that has returned, in any process. As in LangGraph's store in memory, ``created_at`` and ``updated_at`` are
    both the time of the last put, the reads of a batch come before its writes, and ``query`` and ``index`` have no
    effect without vectors.

    A search reads every item below its prefix in Valkey: it is made for namespaces of up to some thousand items.

    Args:
        cache: The cache.
        store: The name of the store: 1 to 128 of ``A-Z a-z 0-9 _ -``. Stores of one name on one cache share their
            items.
        ttl: LangGraph's ``TTLConfig``: ``default_ttl`` in minutes, ``refresh_on_read``. An item that has ended is
            never returned, and Valkey removes it without a sweep.

    Raises:
        UsageError: An argument is wrong: also an operation, a value that is not JSON or is larger than 32 MiB, or a
            namespace or a key of more than 512 bytes. Nothing is stored then.
        L2UnavailableError: Valkey did not answer. A write may or may not have happened.
        L2CommandError: Valkey refused.
    """

    supports_ttl = True

    def __init__(self, cache: AgentCache, *, store: str = "langgraph", ttl: TTLConfig | None = None) -> None:
        super().__init__()
        self.ttl_config = _checked_ttl(ttl)
        self._items = TwoFacedItems(cache, store)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do ``ops`` in one exchange with Valkey; return the result of each. The reads see none of the writes."""
        return await self._items.run(_Batch(ops).run)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do ``ops`` in one exchange with Valkey, as ``abatch``."""
        return self._items.run_plain(_Batch(ops).run)


class _Read(NamedTuple):
    """A read of a batch.

    Attributes:
        place: The place of its result.
    """

    place: int
    op: GetOp | SearchOp | ListNamespacesOp
    operation: Operation


class _Batch:
    """The operations of one batch, checked.

    Raises:
        UsageError: An operation is wrong.
    """

    def __init__(self, ops: Iterable[Op]) -> None:
        given = list(ops)
        self._count = len(given)
        self._reads: list[_Read] = []
        # The last write of an item wins.
        self._writes: dict[tuple[Namespace, str], Put] = {}
        for place, op in enumerate(given):
            if isinstance(op, PutOp):
                self._writes[(tuple(op.namespace), op.key)] = _put(op)
            else:
                self._reads.append(_Read(place, op, _read(op)))

    async def run(self, store: ItemStore) -> list[Result]:
        """Return the result of each operation."""
        results: list[Result] = [None] * self._count
        operations = [*(read.operation for read in self._reads), *self._writes.values()]
        if not operations:
            return results
        found = await store.run(operations)
        to_renew: list[Item] = []
        for (place, op, _), result in zip(self._reads, found[: len(self._reads)], strict=True):
            if isinstance(op, SearchOp):
                page = _page(op, result)
                results[place] = [_search_item(item, value) for item, value in page]
                if op.refresh_ttl:
                    to_renew += [item for item, _ in page if item.window is not None]
            elif isinstance(op, ListNamespacesOp):
                results[place] = _listed(op, result)
            elif isinstance(result, Item) and (value := document_of(result)) is not None:
                results[place] = _store_item(result, value)
        store.renew(to_renew)
        return results


# Operations


def _put(op: PutOp) -> Put:
    namespace = tuple(op.namespace)
    if op.value is None:
        return Put(namespace, op.key, None)
    return Put(namespace, op.key, document_data(op.value), _seconds(op.ttl, "ttl"))


def _read(op: Any) -> Operation:
    if isinstance(op, GetOp):
        return Get(tuple(op.namespace), op.key, op.refresh_ttl)
    if isinstance(op, SearchOp):
        check_filter(op.filter)
        # A negative number counts from the end of all items, as it does in a slice.
        if op.filter or min(op.offset, op.limit) < 0:
            return Find(tuple(op.namespace_prefix))
        return Find(tuple(op.namespace_prefix), op.offset, op.limit)
    if isinstance(op, ListNamespacesOp):
        return Namespaces(_common_prefix(op.match_conditions or ()))
    raise UsageError(f"ops must have GetOp, SearchOp, PutOp and ListNamespacesOp, not {type(op).__name__}")


def _common_prefix(conditions: Sequence[MatchCondition]) -> Namespace:
    """Return labels with which every namespace that meets ``conditions`` begins."""
    longest: Namespace = ()
    for condition in conditions:
        if condition.match_type not in ("prefix", "suffix"):
            raise UsageError(f"match_type must be 'prefix' or 'suffix', not {shown(condition.match_type)}")
        labels = tuple(condition.path)
        if "*" in labels:
            labels = labels[: labels.index("*")]
        if condition.match_type == "prefix" and len(labels) > len(longest):
            longest = labels
    return longest


# Results


def _page(op: SearchOp, found: Any) -> list[tuple[Item, Any]]:
    """Return the items of a search with their values."""
    pairs = [(item, value) for item in found if (value := document_of(item)) is not None]
    if not op.filter and min(op.offset, op.limit) >= 0:
        return pairs
    if op.filter:
        pairs = [(item, value) for item, value in pairs if matches(value, op.filter)]
    return pairs[op.offset : op.offset + op.limit]


def _listed(op: ListNamespacesOp, found: Any) -> list[Namespace]:
    namespaces = {
        namespace
        for namespace in found
        if all(_is_match(namespace, condition) for condition in op.match_conditions or ())
    }
    if op.max_depth is not None:
        namespaces = {namespace[: op.max_depth] for namespace in namespaces}
    return sorted(namespaces)[op.offset : op.offset + op.limit]


def _is_match(namespace: Namespace, condition: MatchCondition) -> bool:
    path = condition.path
    if len(namespace) < len(path):
        return False
    labels = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(expected in ("*", label) for label, expected in zip(labels, path, strict=True))


def _store_item(item: Item, value: dict[str, Any]) -> StoreItem:
    at = datetime.fromtimestamp(item.stored_at, UTC)
    return StoreItem(value=value, key=item.key, namespace=item.namespace, created_at=at, updated_at=at)


def _search_item(item: Item, value: Any) -> SearchItem:
    at = datetime.fromtimestamp(item.stored_at, UTC)
    return SearchItem(namespace=item.namespace, key=item.key, value=value, created_at=at, updated_at=at)


# Lifetimes


def _seconds(minutes: float | None, name: str) -> float | None:
    if minutes is None:
        return None
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes <= _MAX_MINUTES:
        raise UsageError(f"{name} must be minutes above 0 and at most 100 years, or None, not {shown(minutes)}")
    return minutes * _MINUTE


def _checked_ttl(ttl: TTLConfig | None) -> TTLConfig | None:
    if ttl is None:
        return None
    if not isinstance(ttl, dict):
        raise UsageError(f"ttl must be a TTLConfig, which is a dict, not {type(ttl).__name__}")
    if unknown := set(ttl) - _TTL_OPTIONS:
        raise UsageError(f"ttl has the unknown options {sorted(map(str, unknown))}; it may have {sorted(_TTL_OPTIONS)}")
    _seconds(ttl.get("default_ttl"), "default_ttl")
    return ttl
