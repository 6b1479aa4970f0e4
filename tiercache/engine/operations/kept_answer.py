"""Answers that L1 keeps past their time: stale values, values that are refreshed early, and errors of loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..call import Call, LoadFunction
from ..entries.freshness import FailedEntry, KeptEntry, copy_of_error
from ..entries.lookup import Lookup
from ..runtime.reads import MISS
from ..runtime.runtime import Runtime
from .load import Load
from .load_many import LoadMany, LoadManyFunction

__all__ = ["KeptAnswer", "KeptAnswers"]

# Two values of one key that expire within this time count as one value. Its expiry, read twice, differs by latencies.
_SAME_EXPIRY_SECONDS: Final = 1.0


class KeptAnswer:
    """The answer that L1 keeps for one call that no entry in L1 answers."""

    def __init__(self, runtime: Runtime, call: Call) -> None:
        self._runtime = runtime
        self._call = call

    def find(self, function: LoadFunction) -> Lookup | None:
        """Return the kept value, and start one load that refreshes it; None if the call must look further.

        Raises:
            Exception: A copy of the error that the last load of the key raised.
        """
        runtime, call = self._runtime, self._call
        now = runtime.now()
        entry = runtime.reads.kept(call, now)
        if entry is None:
            return None
        if isinstance(entry, FailedEntry):
            call.counters.misses += 1
            call.counters.failed_hits += 1
            raise copy_of_error(entry.value)
        is_stale = now >= entry.expires_at
        if not (is_stale or now < entry.l1_until) or not all(tag in entry.groups for tag in call.tags):
            return None
        if now >= entry.retry_at and runtime.flights.joinable(call.key) is None and not runtime.is_closing:
            self._refresh(entry, function)
        return Lookup(entry, "stale" if is_stale else "l1")

    def _refresh(self, entry: KeptEntry, function: LoadFunction) -> None:
        load = _Refresh(self._runtime, self._call, entry)
        load.register()
        self._call.counters.refreshes += 1
        self._runtime.start(load.flight, load.run(function))


class KeptAnswers:
    """The stale values that L1 keeps for the calls of one tier that no entry in L1 answers."""

    def __init__(self, runtime: Runtime, calls: Sequence[Call]) -> None:
        self._runtime = runtime
        self._calls = calls

    def find(self, function: LoadManyFunction) -> dict[str, Lookup]:
        """Return the stale values by key, and start one load that refreshes them."""
        runtime, now = self._runtime, self._runtime.now()
        found: dict[str, Lookup] = {}
        due: list[Call] = []
        for call in self._calls:
            lookup = runtime.reads.stale(call, MISS)
            entry = lookup.entry
            # Before its expiry a value is asked of Valkey.
            if not isinstance(entry, KeptEntry) or now < entry.expires_at:
                continue
            found[call.key] = lookup
            if now >= entry.retry_at and runtime.flights.joinable(call.key) is None and not runtime.is_closing:
                assert call.rules.freshness is not None
                # From its start: a load of many keys ends for each of them at another moment.
                entry.retry_at = now + call.rules.freshness.retry_pause
                call.counters.refreshes += 1
                due.append(call)
        if due:
            LoadMany(runtime, due).start(function)
        return found


class _Refresh(Load):
    """The load in the background that refreshes a kept value. It reads Valkey first: another process may have done so.

    Args:
        kept: The value. If the load fails, lookups go on serving it, and pause before the next refresh.
    """

    __slots__ = ("_kept",)

    def __init__(self, runtime: Runtime, call: Call, kept: KeptEntry) -> None:
        super().__init__(runtime, call)
        self._kept = kept

    async def run(self, function: LoadFunction) -> None:
        """Run the load: the body of the flight's task."""
        freshness = self.call.rules.freshness
        assert freshness is not None
        try:
            await self._run(function)
        except Exception:
            self.call.counters.refresh_errors += 1
            # The read may have replaced the copy in L1.
            kept = self._runtime.l1.peek(self.call.key)
            if isinstance(kept, KeptEntry):
                kept.retry_at = self._runtime.now() + freshness.retry_pause
            raise

    async def _read(self) -> None:
        await super()._read()
        found, kept = self.lookup.entry, self._kept
        if found is None or self._runtime.now() >= kept.expires_at:
            return
        if found.expires_at <= kept.expires_at + _SAME_EXPIRY_SECONDS:
            # The value has been refreshed by no other process: replace it.
            self.lookup = MISS
            self.is_refresh = True
