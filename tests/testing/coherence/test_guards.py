"""The guards of coherence: without a guard the checker finds violations of the guarantee that needs this guard."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest

from tests.seams import replace_public
from tiercache.testing.coherence.report import stories_of
from tiercache.testing.coherence.settings import Tracking
from tiercache.tiers.kv.tier import KvTier
from tiercache.tiers.llm.tier import LlmTier
from tiercache.tiers.tool.tier import ToolTier

from .guards import GUARDS, Guard, Patch, run_patched


async def find_violations(
    patch: Patch, fault: str, seeds: Iterable[int], *, kinds: Iterable[str], within: float = 45.0, **options: Any
) -> int:
    """Do runs with ``patch`` until one has violations of ``kinds``; return their number, or 0 if no run has any.

    Args:
        seeds: The seeds of the runs, one after the other.
        within: Seconds after which no further run begins.
        options: Options of ``run_patched``.
    """
    kinds = frozenset(kinds)
    give_up_at = time.monotonic() + within
    for seed in seeds:
        if time.monotonic() > give_up_at:
            break
        # A short patience, because without the guard the replicas may disagree for ever.
        outcome = await run_patched(patch, fault, seed, patience=0.2, **options)
        if count := sum(violation.kind in kinds for violation in outcome.violations):
            return count
    return 0


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
async def test_guard_is_needed_to_prevent_violations(guard: Guard) -> None:
    # On an idle machine most of these runs find a violation, on a busy machine about every second run.
    assert await find_violations(guard.apply, guard.fault, range(1, 21), kinds=guard.kinds, **guard.options)


@pytest.mark.parametrize(
    ("fault", "also", "tracking"),
    [
        pytest.param(*circumstances, id=f"{circumstances[0]}-{circumstances[2]}")
        for circumstances in dict.fromkeys(guard.circumstances for guard in GUARDS)
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
async def test_checker_finds_no_violation_with_every_guard(
    fault: str, also: Patch | None, tracking: Tracking, seed: int
) -> None:
    outcome = await run_patched(also, fault, seed, freshness="on" if seed == 2 else "off", tracking=tracking)
    assert len(outcome.history.reads) > 100
    assert not outcome.violations, stories_of(outcome, 3)


def _forget_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def delete(tier: KvTier, key: str) -> bool:
        return True

    replace_public(monkeypatch, KvTier, "delete", delete)


def _forget_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    async def invalidate_by_tool(tier: ToolTier, tool: str) -> int:
        return 0

    replace_public(monkeypatch, ToolTier, "invalidate_by_tool", invalidate_by_tool)


def _remember_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each replica a memory that no invalidation reaches; the entries in Valkey stay correct."""
    load = LlmTier.get_or_load
    memory: dict[tuple[int, str], Any] = {}

    async def get_or_load(tier: LlmTier, params: Any, loader: Any, **options: Any) -> Any:
        key = (id(tier), repr(params))
        if key not in memory:
            memory[key] = await load(tier, params, loader, **options)
        return memory[key]

    replace_public(monkeypatch, LlmTier, "get_or_load", get_or_load)


def _raise(monkeypatch: pytest.MonkeyPatch) -> None:
    async def get_many(tier: KvTier, keys: Iterable[str], default: Any = None) -> dict[str, Any]:
        raise KeyError("lost")

    replace_public(monkeypatch, KvTier, "get_many", get_many)


@pytest.mark.parametrize("kind", ["own", "bound", "l2", "agree"])
async def test_checker_finds_a_cache_that_ignores_invalidations(kind: str) -> None:
    assert await find_violations(_forget_deletes, "none", [1, 2], kinds=[kind], seconds=0.5, max_staleness=0.3)


async def test_checker_finds_a_cache_that_ignores_group_invalidations() -> None:
    assert await find_violations(_forget_groups, "none", range(1, 6), kinds=["own"], max_staleness=0.3)


@pytest.mark.parametrize("kind", ["own", "bound", "agree"])
async def test_checker_finds_a_replica_that_keeps_stale_entries(kind: str) -> None:
    assert await find_violations(_remember_for_ever, "none", [1, 2], kinds=[kind], seconds=0.5, max_staleness=0.3)


async def test_checker_finds_a_method_that_raises() -> None:
    assert await find_violations(_raise, "none", [1, 2, 3], kinds=["error"], seconds=0.5, max_staleness=0.3)
