"""The operations on a whole cache: on all tiers, and the statistics. Each face of a cache has these operations.

``AgentCache`` documents them. Here is how they work.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from .assembly import Assembly
from .engine.entries.counters import OperationCounters, TierCounters
from .engine.level2.announcement import Announcement
from .engine.memory.pins import PINS
from .engine.operations.around_change import Invalidating, Target
from .engine.operations.invalidate import GroupEntries, Invalidations, sum_of_all
from .engine.operations.pins import PinChanges
from .errors import UsageError
from .indexes.names import kv_prefixes, tag_groups, tag_index_of
from .monitor.effectiveness import ToolEffectiveness, rate
from .monitor.local_stats import LocalStats
from .monitor.statistics import CacheStats, parse
from .shared_parts import SharedParts
from .tiers.golden import GoldenReport
from .tiers.kv.key import ALL_KV
from .tiers.runtime_settings import RuntimeSettings
from .tiers.tagged import entries_with_tag
from .verification import Verification

__all__ = ["CacheOperations", "local_stats"]

# Seconds for which ``stats`` waits for increments that the other face is sending: its event loop may be blocked.
_LONGEST_WAIT: Final = 1.0


class CacheOperations:
    """The operations of one face on the whole cache. Results, errors and cancellation as for ``AgentCache``."""

    def __init__(self, parts: Assembly, name: str) -> None:
        self._parts = parts
        self._name = name
        # Statistics, policies and settings are on the main side.
        self._engine = parts.sides[0].engine
        self._invalidations = [Invalidations(engine) for engine in parts.sides.engines]
        self._pins = [PinChanges(engine) for engine in parts.sides.engines]

    async def flush(self, *, include_session: bool = False) -> int:
        """Remove every entry and pin of the llm, tool and kv tiers, and with ``include_session`` the sessions."""
        self._parts.sides.clear_l1()
        clears: list[Callable[[], Awaitable[int]]] = [self._parts.llm.clear, self._parts.tool.clear]
        # The group of all kv tiers, also of tiers that only other processes have made.
        all_kv = GroupEntries(ALL_KV, kv_prefixes(self._name))
        clears += [partial(each.group, all_kv) for each in self._invalidations]
        clears += [partial(each.remove_all, tag_index_of(self._name, PINS)) for each in self._pins]
        if include_session:
            clears.append(self._parts.session.clear)
        with self._engine.operation("flush") as operation:
            count = await sum_of_all(clears)
            operation.set("deleted_count", count)
        return count

    async def verify(self, file: str | os.PathLike[str]) -> GoldenReport:
        """Compare the answers of the cache with those of a golden file."""
        await self._engine.open()
        with self._engine.operation("verify"):
            return await Verification(self._parts.llm, self._parts.tool).verify(file)

    async def invalidate_tag(self, *tags: str) -> int:
        """Remove every entry that was stored with any of ``tags``."""
        entries = [entries_with_tag(self._name, group) for group in tag_groups(tags)]
        with self._engine.operation("invalidate_tag") as operation:
            count = await sum_of_all([partial(each.group, group) for each in self._invalidations for group in entries])
            operation.set("deleted_count", count)
        return count

    async def reindex(self) -> int:
        """Add every entry under this name to its index."""
        with self._engine.operation("reindex") as operation:
            count = await sum_of_all([side.complete_indexes for side in self._parts.sides])
            for pins in self._pins:
                await pins.look_again()
            operation.set("indexed_count", count)
        return count

    async def configure(self, tier: str, settings: RuntimeSettings | None, tool: str | None) -> None:
        """Change the settings of a tier or of a tool, in every process."""
        table = self._parts.shared.runtime_settings
        field = table.field(tier, settings, tool)
        runtime = await self._engine.open()
        with self._engine.operation("configure"):
            await table.write(runtime.l2.level2, field, settings)
            runtime.l2.announce(Announcement(policies=True))

    def settings(self, tier: str, tool: str | None) -> RuntimeSettings | None:
        """Return the settings of a tier or of a tool, or None if it has no settings."""
        table = self._parts.shared.runtime_settings
        table.field(tier, None, tool)
        return table.of(tier, tool)

    async def refresh_settings(self) -> bool:
        """Read the settings of all tiers and tools from Valkey; return whether Valkey returned them."""
        runtime = await self._engine.open()
        with self._engine.operation("refresh_settings"):
            level2 = runtime.l2.level2
            return level2 is None or await self._parts.shared.runtime_settings.refresh(level2)

    def invalidates(self, *tags: str | Callable[..., str]) -> Invalidating:
        """Return a guard for a change of the source data of tagged entries."""

        def target(*given: Any, **named: Any) -> Target:
            names = [tag(*given, **named) if callable(tag) else tag for tag in tags]
            return Target(tag_groups(names), lambda: self.invalidate_tag(*names))

        takes_call = any(callable(tag) for tag in tags)
        if not takes_call:
            target()
        return Invalidating(self._parts.sides.engines, target, takes_call=takes_call)

    async def stats(self) -> CacheStats:
        """Return the statistics of all processes, with every call of both faces of this process up to now."""
        runtime = await self._engine.open()
        shared = self._parts.shared
        with self._engine.operation("stats"):
            statistics, level2 = shared.statistics, runtime.l2.level2
            if level2 is None:
                fields = shared.new_statistics().collect()
            else:
                await statistics.send(level2)
                await statistics.sent(_LONGEST_WAIT)
                fields = await statistics.read(level2)
        return parse(fields, self._parts.policy_ttl)

    async def tool_effectiveness(self, *, min_samples: int = 1) -> list[ToolEffectiveness]:
        """Return how well caching pays for each tool with at least ``min_samples`` lookups."""
        if not isinstance(min_samples, int) or min_samples < 1:
            raise UsageError(f"min_samples must be a whole number above 0, not {min_samples!r}")
        return rate(await self.stats(), self._parts.tool_ttl, min_samples)


def local_stats(shared: SharedParts) -> LocalStats:
    """Return the counts of this process since the cache was made, of both faces together. Any thread may call this."""
    tiers: dict[str, TierCounters] = {}
    for rules in tuple(shared.tier_rules):
        tiers.setdefault(rules.tier, TierCounters()).add(rules.counters.total())
    operations: dict[str, OperationCounters] = {}
    engines = [engine for face in shared.faces for engine in face.engines]
    for engine in engines:
        for name, counters in engine.operations.snapshot().items():
            operations.setdefault(name, OperationCounters()).add(counters)
    return LocalStats(
        tiers=tiers,
        operations=operations,
        l1_entry_count=sum(engine.l1.entry_count for engine in engines),
        l1_bytes=sum(engine.l1.size_bytes for engine in engines),
        l1_evicted_count=sum(engine.l1.evicted_count for engine in engines),
        queued_write_count=sum(engine.queued_write_count for engine in engines),
        degraded=shared.is_degraded,
        trusted=shared.is_trusted,
        distrusted_count=sum(engine.l1.distrusted_count for engine in engines),
        heard_count=sum(engine.l1.heard_count for engine in engines),
        hook_errors=sum(engine.hooks.error_count for engine in engines),
        hook_events_dropped=sum(engine.hooks.dropped_count for engine in engines),
        tracking=shared.tracking,
    )
