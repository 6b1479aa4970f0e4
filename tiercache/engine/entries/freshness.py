"""Freshness: how a tier serves values past their lifetime, refreshes values early, and remembers errors of loaders.

A tier with one of these options keeps its entries in L1 as ``KeptEntry``:

::

    store          early refresh       end of l1_ttl      TTL ends             kept_until
      │─────────────────┼──────────────────┼─────────────────┼─────────────────────┤
      │  served as "l1" │ served as "l1",  │ the lookup      │ served as "stale",  │ gone
      │                 │ one load runs    │ reads Valkey    │ one load runs       │

``Entry.deadline`` is the end of the first part, so that a lookup within it costs nothing more than without these
options. A copy in any part obeys every invalidation, and is served only while L1 is trusted.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping
from typing import Any, Final

from .entry import Entry, Group

__all__ = ["FailedEntry", "Freshness", "KeptEntry", "UncopyableError", "copy_of_error", "served_until"]

# The longest life, in seconds, of a remembered error whose ``retry_after`` decides.
_LONGEST_RETRY_AFTER: Final = 3600.0
# Bytes that a KeptEntry takes beside those of an Entry; and a guess at those of an exception.
_KEPT_BYTES: Final = 72
_ERROR_BYTES: Final = 1024


class KeptEntry(Entry, eq=False, gc=False):
    """An entry that L1 keeps past its deadline.

    Attributes:
        l1_until: Monotonic second until which L1 alone may answer: the deadline without early refresh.
        kept_until: Monotonic second from which L1 no longer keeps the entry.
        retry_at: Monotonic second before which no further refresh starts, because the last one failed.
    """

    l1_until: float = math.inf
    kept_until: float = math.inf
    retry_at: float = -math.inf


def served_until(entry: Entry) -> float:
    """Return the monotonic second until which L1 alone may answer with ``entry``."""
    return entry.l1_until if isinstance(entry, KeptEntry) else entry.deadline


class FailedEntry(KeptEntry, eq=False, gc=False):
    """A remembered error of a loader. ``value`` is the error, and L1 never serves it as a value.

    It has no reference to frames: the error has no traceback, cause or context.
    """


class Freshness:
    """The freshness of the entries of one tier, or of one function.

    Args:
        stale_for: Seconds past its TTL for which a value is served.
        retry_pause: Seconds after a failed refresh in which no other one starts.
        early_refresh: The factor beta of XFetch; 0 is off.
        cache_errors: Seconds for which an error of a loader is raised again, by its class.
    """

    __slots__ = ("_load_seconds", "cache_errors", "early_refresh", "retry_pause", "stale_for")

    def __init__(
        self,
        stale_for: float = 0.0,
        retry_pause: float = 1.0,
        early_refresh: float = 0.0,
        cache_errors: Mapping[type[Exception], float] | None = None,
    ) -> None:
        self.stale_for = stale_for
        self.retry_pause = retry_pause
        self.early_refresh = early_refresh
        self.cache_errors = dict(cache_errors or {})
        # The duration of the last load: the early refresh of a value that another process has loaded goes by it.
        self._load_seconds = 0.0

    @property
    def outlives_valkey(self) -> bool:
        """Whether L1 may keep an entry, or an error, for which Valkey holds no key."""
        return bool(self.stale_for or self.cache_errors)

    def but(self, options: Mapping[str, Any]) -> Freshness:
        """Return this freshness with other ``options``, by the names of the arguments."""
        names = ("stale_for", "retry_pause", "early_refresh", "cache_errors")
        return Freshness(**{name: getattr(self, name) for name in names} | dict(options))

    def ends(self, entry: KeptEntry) -> float:
        """Return the monotonic second from which ``entry`` is no longer served.

        The entry may have been kept under another ``stale_for``, which was set at run time: the shorter one counts.
        """
        return min(entry.kept_until, entry.expires_at + self.stale_for)

    def keep(self, entry: Entry, load_seconds: float) -> Entry:
        """Return ``entry`` as L1 keeps it.

        Args:
            load_seconds: Seconds that its load took, or 0 if that is not known.
        """
        self._load_seconds = load_seconds or self._load_seconds
        if entry.expires_at == math.inf or not (self.stale_for or self.early_refresh):
            return entry
        deadline = min(entry.deadline, self._early_moment(entry.expires_at))
        return KeptEntry(
            entry.value,
            deadline,
            entry.began,
            entry.expires_at,
            entry.stored_at,
            entry.groups,
            entry.size_bytes + _KEPT_BYTES,
            entry.cost_micros,
            entry.deadline,
            entry.expires_at + self.stale_for,
        )

    def _early_moment(self, expires_at: float) -> float:
        """Return the second from which a load refreshes a value that expires at ``expires_at``.

        XFetch draws a moment at each lookup; here each copy of the value draws one, so that lookups draw none.
        """
        if not self.early_refresh:
            return math.inf
        return expires_at + self._load_seconds * self.early_refresh * math.log(1.0 - random.random())

    def failed(self, error: Exception, groups: tuple[Group, ...], *, began: float, now: float) -> FailedEntry | None:
        """Return the entry that remembers ``error`` of a load, or None if the tier does not remember such errors.

        Args:
            began: Monotonic second at which the load began.

        Raises:
            UncopyableError: The tier remembers such errors, and this one cannot be copied.
        """
        seconds = self._seconds_of(error)
        if seconds <= 0.0:
            return None
        until = now + seconds
        kept = copy_of_error(error)
        return FailedEntry(kept, -math.inf, began, until, now, groups, _ERROR_BYTES, 0, -math.inf, until)

    def _seconds_of(self, error: Exception) -> float:
        """Return the seconds for which ``error`` is remembered; its own ``retry_after`` wins."""
        seconds = next((self.cache_errors[kind] for kind in type(error).__mro__ if kind in self.cache_errors), None)
        if seconds is None:
            return 0.0
        own = getattr(error, "retry_after", None)
        if isinstance(own, int | float) and not isinstance(own, bool) and math.isfinite(own) and own >= 0.0:
            return min(float(own), _LONGEST_RETRY_AFTER)
        return float(seconds)


class UncopyableError(Exception):
    """An exception cannot be copied: its copy would be another exception."""


def copy_of_error(error: Exception) -> Exception:
    """Return an exception that is equal to ``error`` in class, arguments and attributes, without its traceback.

    Raises:
        UncopyableError: No such exception can be made.
    """
    for make in (_copy_by_new, copy.copy):
        try:
            made = make(error)
            if type(made) is type(error) and made.args == error.args and str(made) == str(error):
                made.__traceback__ = made.__cause__ = made.__context__ = None
                return made
        # The class of the caller may do anything when an instance is made.
        except Exception:
            continue
    raise UncopyableError(type(error).__qualname__)


def _copy_by_new(error: Exception) -> Exception:
    """Return a copy of ``error`` whose ``__init__`` does not run: it may take other arguments than ``args``."""
    made: Any = type(error).__new__(type(error), *error.args)
    made.args = error.args
    for name, value in error.__dict__.items():
        # Every caller may add notes to its own copy.
        made.__dict__[name] = list(value) if name == "__notes__" else value
    return made  # type: ignore[no-any-return]
