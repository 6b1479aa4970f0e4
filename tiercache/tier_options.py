"""The options of a tier: how it keeps its entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from .errors import UsageError
from .option_checks import (
    check_choice,
    check_counts,
    check_errors,
    check_functions,
    check_seconds,
    is_number,
    take_timedelta,
)
from .scopes import Scope, check_scope
from .text import shown
from .ttl import Ttl, check_ttl

__all__ = ["Admission", "LlmOptions", "OnAbandon", "OnError", "SessionOptions", "TierOptions"]

OnAbandon: TypeAlias = Literal["cancel", "finish"]
OnError: TypeAlias = Literal["degrade", "raise"]


class Admission(NamedTuple):
    """An entry that is about to be stored: the argument of ``TierOptions.admit``.

    Attributes:
        key: The key in Valkey, as results have it.
        size_bytes: Bytes of the entry in Valkey, before compression.
        tier: The name of the tier: "llm", "tool", "kv", or the name given to ``AgentCache.tier``.
        cost: Dollars that it cost to make the value, or None if that is not known.
    """

    key: str
    size_bytes: int
    tier: str
    cost: float | None


@dataclass(frozen=True, slots=True)
class _EntryOptions:
    """The options that every tier takes; ``TierOptions`` describes them."""

    ttl: Ttl | None = None
    l1: bool = True
    l1_ttl: float | None = 30.0
    _: KW_ONLY
    on_abandon: OnAbandon | None = None
    max_value_bytes: int | None = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.ttl is not None:
            check_ttl(self.ttl, f"{type(self).__name__}.ttl")
        if self.on_abandon is not None:
            check_choice(self, "on_abandon", "cancel", "finish")
        take_timedelta(self, "l1_ttl")
        check_seconds(self, "l1_ttl", optional=True)
        check_counts(self, "max_value_bytes", optional=True)


@dataclass(frozen=True, slots=True)
class TierOptions(_EntryOptions):
    """How a tier keeps its entries: the tool and kv tiers, and the llm tier if ``LlmOptions`` are not needed.

    Args:
        ttl: Lifetime in Valkey: seconds (float), a string such as ``"90s"``, ``"1h30m"``, ``"7d"``, or
            ``NO_EXPIRY``. None takes the cache's ``default_ttl``.
        l1: Whether L1 keeps the entries too.
        l1_ttl: Longest life of a copy in L1, in seconds; None sets no limit of its own. This option bounds how long
            a change made by another process can stay unseen, so a cache without Valkey ignores it.
        on_abandon: The end of a load whose last waiter was cancelled: ``"cancel"`` cancels the load, ``"finish"`` lets
            it end and stores the value. None takes the tier's default: ``"finish"`` for llm, because the tokens of a
            model call are paid for, and ``"cancel"`` for the other tiers.
        max_value_bytes: Most bytes of an entry in Valkey, before compression; None sets no limit. A larger loaded value
            goes to its waiters, is counted and is stored nowhere; an explicit write of a larger value is refused; a
            larger entry of another process is a miss.
        lease: Whether a load takes a lease in Valkey first, so that one process at a time loads a key, and Valkey
            refuses the value of a load that an invalidation by any process has overtaken. Without a lease both hold
            within one process only. Sessions and caches without Valkey have no leases.
        scope: A name that keeps the entries apart from those of other scopes, such as a tenant; or a function without
            arguments that returns the name of the present call. See ``AgentCache.calls``.
        jitter: Fraction, 0 to below 1, by which the cache shortens a lifetime at random, so that entries written
            together do not expire together. An explicit ``NO_EXPIRY`` stays.
        store_when: Called with the loader's result, for llm an LlmResponse. If it returns False, the result goes to its
            waiters and is stored nowhere: for example an answer that was cut off. An exception counts as False, and is
            logged once.
        admit: Called with the ``Admission`` of each entry that is about to be stored. If it returns False, a loaded
            value goes to its waiters, is counted as ``not_admitted`` and is stored nowhere, and an explicit write is
            refused. An exception counts as False, and is logged once.
        threads: Whether plain loaders, batch functions included, run in threads (``asyncio.to_thread``), so that a
            blocking loader does not block the event loop. Async loaders run on the event loop in any case.
        stale_for: Seconds past its TTL for which L1 serves a value at once, as ``source="stale"``, while one load
            refreshes it; and still serves it if that load fails. 0: an expired value is a miss.
        retry_pause: Seconds after a failed refresh in which lookups start no other one.
        early_refresh: The factor beta of XFetch, usually 1: a load refreshes a value at random before its TTL ends,
            the earlier the longer its load took. 0: no load does.
        cache_errors: Classes of exceptions, each with the seconds for which L1 raises an equal exception again instead
            of calling the loader. The most specific class counts. A number ``retry_after`` of the exception wins, up to
            3,600. None: the next call loads again.
        compress_above: Entries of more bytes are compressed in Valkey (zstd), if that makes them smaller. None
            compresses none, except exchanges of wrapped clients above 1,024 bytes, where zstd is installed. Only
            tiercache can read compressed entries. Needs the ``compress`` extra.
        share: Whether every caller of the tool or kv tier gets the same list or dict from L1, which is then no copy
            and must not be changed. Otherwise each caller gets its own.
        on_error: The answer to an unavailable Valkey. None: lookups are misses, and explicit stores raise
            ``L2UnavailableError``. ``"degrade"``: stores do not raise either; the failure is counted as
            ``write_errors``. ``"raise"``: lookups and ``get_or_load`` that L1 does not answer raise it too.
    """

    lease: bool = field(default=True, kw_only=True)
    scope: Scope | None = field(default=None, kw_only=True)
    jitter: float = field(default=0.0, kw_only=True)
    store_when: Callable[[Any], bool] | None = field(default=None, kw_only=True)
    admit: Callable[[Admission], bool] | None = field(default=None, kw_only=True)
    threads: bool = field(default=False, kw_only=True)
    compress_above: int | None = field(default=None, kw_only=True)
    share: bool = field(default=False, kw_only=True)
    stale_for: float = field(default=0.0, kw_only=True)
    retry_pause: float = field(default=1.0, kw_only=True)
    early_refresh: float = field(default=0.0, kw_only=True)
    cache_errors: Mapping[type[Exception], float] | None = field(default=None, kw_only=True)
    on_error: OnError | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # Not by super(): slots make the decorator return a second class, which super() does not know.
        _EntryOptions.__post_init__(self)
        if not is_number(self.jitter) or not 0 <= self.jitter < 1:
            kind = type(self).__name__
            raise UsageError(f"{kind}.jitter must be a fraction from 0 to below 1, not {shown(self.jitter)}")
        check_functions(self, "store_when", "admit")
        if self.on_error is not None:
            check_choice(self, "on_error", "degrade", "raise")
        if self.scope is not None:
            check_scope(self.scope, f"{type(self).__name__}.scope")
        check_counts(self, "compress_above", optional=True)
        take_timedelta(self, "stale_for")
        take_timedelta(self, "retry_pause")
        check_seconds(self, "stale_for", zero=True)
        check_seconds(self, "retry_pause")
        if not is_number(self.early_refresh) or not 0 <= self.early_refresh <= 1000:
            kind = type(self).__name__
            raise UsageError(f"{kind}.early_refresh must be a factor from 0 to 1000, not {shown(self.early_refresh)}")
        check_errors(self, "cache_errors")


@dataclass(frozen=True, slots=True)
class LlmOptions(TierOptions):
    """How the llm tier keeps its entries, and which request parameters make a key.

    Args:
        ignore: Names of request parameters that do not take part in the key.
        key: A function from the request parameters to the parameters that make the key: requests with equal results
            share an entry. Must return a new mapping. Applied after ``ignore``.

    Calls of wrapped clients have keys of their own, without ``ignore`` and ``key``.
    The other arguments are those of ``TierOptions``.
    """

    ignore: tuple[str, ...] = field(default=(), kw_only=True)
    key: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        TierOptions.__post_init__(self)
        object.__setattr__(self, "ignore", _names(self.ignore))
        check_functions(self, "key")


@dataclass(frozen=True, slots=True)
class SessionOptions(_EntryOptions):
    """How the session tier keeps its fields.

    The arguments are those of ``TierOptions`` with the same names. ``ttl`` is the window of a field, which each read
    restarts. ``max_value_bytes`` bounds the values that are written; sessions read values of any size.

    The same options apply to checkpoints, the states of graphs: a thread lives for ``ttl`` after its last write.

    Args:
        exact_active: Whether Valkey counts the active threads of all processes, for ``SessionTier.active_count`` and
            the gauge. One command a second for each process. Otherwise each process counts the threads that it uses.
    """

    exact_active: bool = field(default=False, kw_only=True)


def _names(value: object) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise UsageError(f"LlmOptions.ignore must be a sequence of parameter names, not {shown(value)}")
    return names
