"""One run of the matrix: the operations under one fault, and the recovery afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from tests.faults.entries import LOADED, OLD, Entry
from tests.faults.expected import EXPECTED, allowed
from tests.faults.faults import Fault
from tests.faults.operations import OPERATIONS, Operation
from tests.faults.outcomes import Outcome, matches
from tests.faults.stage import Stage, opened_stage
from tests.seams import internals
from tests.support import until
from tiercache import AgentCache
from tiercache.options import TrackingMode

__all__ = ["Cell", "run_under", "wrong_cells"]

# Seconds within which a cache has recovered, also on a busy machine.
_RECOVERY_SECONDS = 15.0


class Cell(NamedTuple):
    """One observed call.

    Attributes:
        outcome: The outcome, or a text for one that no cell allows.
    """

    operation: Operation
    outcome: Outcome | str


async def run_under(kind: type[Fault], tracking: TrackingMode = "auto") -> list[Cell]:
    """Run every operation under a fault, and lift it; return the observed calls.

    Raises:
        AssertionError: A cache did not recover, or served an old value, or left a task or a connection.
    """
    async with opened_stage(kind.route, is_silent=kind.is_silent, tracking=tracking) as stage:
        await stage.fill(sorted({entry for operation in OPERATIONS for entry in operation.entries}, key=str))
        async with kind(stage):
            cells = await _observe(stage)
            await _check_removed(stage, cells)
        await Recovery(stage, kind, cells).check()
        for cache in (*stage.under_fault, stage.neighbour):
            await cache.aclose()
        if not kind.keeps_connections:
            await until(lambda: not stage.server.client_count(), _RECOVERY_SECONDS)
        await until(lambda: not stage.proxy.connection_count(), _RECOVERY_SECONDS)
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("tiercache-")]
    assert not left, f"tasks are left: {left}"
    return cells


def wrong_cells(fault: type[Fault], cells: list[Cell]) -> list[str]:
    """Return a line for each observed call whose outcome the matrix does not allow."""
    row = EXPECTED[fault.name]
    wrong = {}
    for operation, outcome in cells:
        expected = allowed(row, operation)
        if not matches(outcome, expected):
            wrong[f"{operation.name}: {outcome}, and not {' or '.join(sorted(expected))}"] = None
    return list(wrong)


async def _observe(stage: Stage) -> list[Cell]:
    cells: list[Cell] = []
    for _, phase in groupby(OPERATIONS, lambda operation: operation.phase):
        operations = list(phase)
        calls = [stage.outcome_of(one.run(stage, one.entries), one.name) for one in operations]
        cells += [Cell(*pair) for pair in zip(operations, await asyncio.gather(*calls), strict=True)]
    return cells


async def _check_removed(stage: Stage, cells: list[Cell]) -> None:
    """Fail if the cache serves a value that it has removed, acknowledged or not."""
    for entry in removed(cells):
        if entry.tier != "session":
            value, _ = await entry.look_up(stage.cache)
            assert value != OLD, f"{entry} is served after its removal, under the fault"


def removed(cells: list[Cell]) -> Iterator[Entry]:
    """Yield the entries whose old values must be gone: their removal was acknowledged, or is repeated."""
    for operation, outcome in cells:
        is_repeated = outcome == Outcome.UNAVAILABLE and operation.entries[0].tier != "session"
        if operation.effect == "removes" and (outcome == Outcome.DONE or is_repeated):
            yield from operation.entries


class Recovery:
    """The recovery of a stage after the end of a fault."""

    def __init__(self, stage: Stage, kind: type[Fault], cells: list[Cell]) -> None:
        self._stage = stage
        self._kind = kind
        self._cells = cells

    async def check(self) -> None:
        """Fail if a cache does not recover by itself."""
        stage = self._stage
        open_caches = (stage.cache, stage.behind, stage.neighbour)
        for cache in open_caches:
            await until(lambda cache=cache: not cache.local_stats().degraded, _RECOVERY_SECONDS)
            await until(lambda cache=cache: not internals(cache).has_pending_invalidations, _RECOVERY_SECONDS)
        await asyncio.gather(*(self._check_gone(entry) for entry in removed(self._cells)))
        entries = {entry: operation for operation, _ in self._cells for entry in operation.entries}
        await asyncio.gather(*(self._check_agreement(*pair) for pair in entries.items()))
        await self._check_work(stage.cache)
        if not self._kind.delays_trust:
            for cache in open_caches:
                await until(lambda cache=cache: cache.local_stats().trusted, _RECOVERY_SECONDS)

    async def _check_gone(self, entry: Entry) -> None:
        """Fail if a removed value is served, or is still in Valkey in the end."""
        stage = self._stage
        assert (await entry.look_up(stage.cache))[0] != OLD, f"{entry} is served after its removal"
        assert entry.in_valkey(stage.cache, stage.server.admin) != OLD, f"{entry} is left in Valkey"

    async def _check_agreement(self, entry: Entry, operation: Operation) -> None:
        """Fail if a cache and Valkey do not have the same value in the end.

        A loaded value that did not reach Valkey may still be in L1.
        """
        stage = self._stage
        caches = [stage.cache, stage.neighbour]

        async def agree(cache: AgentCache) -> bool:
            value, _ = await entry.look_up(cache)
            may_have_loaded = operation.effect == "loads" and cache is stage.cache
            return value == entry.in_valkey(cache, stage.server.admin) or (may_have_loaded and value == LOADED)

        for cache in caches:
            try:
                await until(lambda cache=cache: agree(cache), _RECOVERY_SECONDS)
            except AssertionError as error:
                found = (await entry.look_up(cache), entry.in_valkey(cache, stage.server.admin))
                raise AssertionError(f"{entry}: a cache and Valkey differ: {found}") from error

    async def _check_work(self, cache: AgentCache) -> None:
        """Fail if a read does not reach Valkey again, or a loaded value is not stored there."""
        entry = Entry("llm", "afterwards")
        await entry.load(cache)
        await cache.flush_writes()
        cache.clear_l1()
        result = await cache.llm.check(entry.params)
        assert result.source == "l2", f"a lookup after the end of the fault: {result}"
        await cache.llm.store(entry.params, OLD)
        await cache.session.set("afterwards", "field", OLD)
        await cache.stats()
