"""The operations of the matrix: how each is called, and the entries that it reads or changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tests.faults.entries import LOADED, NEW, OLD, TAG, Entry
from tests.faults.outcomes import Outcome
from tests.faults.stage import Stage
from tiercache import ToolPolicy

__all__ = ["KINDS", "OPERATIONS", "Operation"]

Effect: TypeAlias = Literal["reads", "loads", "writes", "removes"]
_Run: TypeAlias = Callable[[Stage, tuple[Entry, ...]], Awaitable[Outcome]]


@dataclass(frozen=True)
class Operation:
    """One call.

    Attributes:
        kind: The column of the matrix.
        entries: The entries that the call reads or changes. Each has an old value in Valkey before the fault.
        effect: "reads": changes nothing. "loads": may store a loaded value. "writes": stores a new value. "removes".
        phase: Operations of one phase run at the same time, before those of the next phase.
    """

    kind: str
    run: _Run
    entries: tuple[Entry, ...]
    effect: Effect
    phase: int

    @property
    def name(self) -> str:
        """The kind, and the tiers of the entries."""
        return f"{self.kind} of {' and '.join(dict.fromkeys(entry.tier for entry in self.entries))}"


def _found(value: str | None, degraded: bool | None) -> Outcome:
    """Return the outcome of a lookup or a load.

    Args:
        degraded: Whether the result is marked degraded, or None if it has no such mark.
    """
    if value == OLD:
        return Outcome.VALUE
    assert value in (None, LOADED), f"the call returned {value!r}"
    if degraded is None:
        return Outcome.UNMARKED
    return Outcome.DEGRADED if degraded else Outcome.MISS


# Lookups and loads


async def _check(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    return _found(*await entries[0].look_up(stage.cache))


async def _look(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    return _found(*await entries[0].load(stage.cache, mode="only_cached"))


async def _get_many(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    found = await stage.cache.kv.get_many([entry.name for entry in entries])
    assert len(set(found.values())) == 1, f"the call returned {found}"
    return _found(found[entries[0].name], None)


async def _get_or_load(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    value, degraded = await entries[0].load(stage.cache)
    assert value is not None
    return _found(value, degraded)


async def _load_absent(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    absent = Entry(entries[0].tier, "absent")
    value, _ = await absent.load(stage.cache)
    assert value == LOADED
    return Outcome.VALUE


async def _refresh(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    value, _ = await entries[0].load(stage.cache, mode="refresh")
    assert value == LOADED
    return Outcome.VALUE


async def _get_or_load_many(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    found = await stage.cache.kv.get_or_load_many(
        [entry.name for entry in entries], lambda names: dict.fromkeys(names, LOADED)
    )
    assert len(set(found.values())) == 1, f"the call returned {found}"
    return _found(found[entries[0].name], None)


async def _explain(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    explanation = await stage.cache.kv.explain(entries[0].name)
    if explanation.l2 == "hit":
        return Outcome.VALUE
    return Outcome.DEGRADED if explanation.l2 == "unavailable" else Outcome.MISS


# Stores


async def _store(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await entries[0].store(stage.cache, NEW)
    return Outcome.DONE


async def _set_many(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.kv.set_many({entry.name: NEW for entry in entries})
    return Outcome.DONE


async def _store_behind(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await entries[0].store(stage.behind, NEW)
    assert (await entries[0].look_up(stage.behind))[0] == NEW
    return Outcome.DONE


# Removals


async def _invalidate(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await entries[0].invalidate(stage.cache)
    return Outcome.DONE


async def _delete_many(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.kv.delete_many([entry.name for entry in entries])
    return Outcome.DONE


async def _invalidate_by(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    by = stage.cache.llm.invalidate_by_model if entries[0].tier == "llm" else stage.cache.tool.invalidate_by_tool
    await by(entries[0].group)
    return Outcome.DONE


async def _invalidate_tag(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.invalidate_tag(TAG)
    return Outcome.DONE


async def _clear(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.tier(entries[0].tier).clear()
    return Outcome.DONE


# Sessions


async def _get_all(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    fields = await stage.cache.session.get_all(entries[0].name)
    return _found(fields.get("field"), None)


async def _append(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    assert await stage.cache.session.append(entries[0].name, "list", 1) == 1
    return Outcome.DONE


async def _incr(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    assert await stage.cache.session.incr(entries[0].name, "count") == 1
    return Outcome.DONE


async def _compare_and_set(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.session.compare_and_set(entries[0].name, "field", OLD, NEW)
    return Outcome.DONE


async def _touch(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.session.touch(entries[0].name)
    return Outcome.DONE


async def _destroy(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.session.destroy_thread(entries[0].name)
    return Outcome.DONE


# Administration


async def _stats(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.stats()
    return Outcome.VALUE


async def _set_policy(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.tool.set_policy("governed", ToolPolicy(ttl=600))
    return Outcome.DONE


async def _flush_writes(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    await stage.cache.flush_writes()
    return Outcome.DONE


async def _aclose(stage: Stage, entries: tuple[Entry, ...]) -> Outcome:
    # With a write on its way, and an invalidation that may be pending.
    for call in (entries[0].load(stage.leaver, mode="refresh"), entries[1].invalidate(stage.leaver)):
        await stage.outcome_of(call)
    await stage.leaver.aclose()
    return Outcome.DONE


def _each(kind: str, run: _Run, effect: Effect, phase: int, *, tags: tuple[str, ...] = ()) -> list[Operation]:
    """Return the operation for each of the tiers llm, tool and kv."""
    return [
        Operation(kind, run, (Entry(tier, f"{kind} {tier} {len(tags)}", tags=tags),), effect, phase)
        for tier in ("llm", "tool", "kv")
    ]


def _pair(kind: str, run: _Run, effect: Effect, phase: int) -> Operation:
    """Return an operation on two entries of the kv tier."""
    return Operation(kind, run, (Entry("kv", f"{kind} 1"), Entry("kv", f"{kind} 2")), effect, phase)


def _session(kind: str, run: _Run, effect: Effect, phase: int) -> Operation:
    return Operation(kind, run, (Entry("session", kind),), effect, phase)


OPERATIONS: Final = (
    *_each("check", _check, "reads", 1),
    *_each("check", _look, "reads", 1, tags=("looked",)),
    _pair("get_many", _get_many, "reads", 1),
    *_each("get_or_load", _get_or_load, "loads", 1),
    *_each("load", _load_absent, "reads", 1),
    *_each("refresh", _refresh, "loads", 1),
    _pair("get_or_load_many", _get_or_load_many, "loads", 1),
    Operation("explain", _explain, (Entry("kv", "explain"),), "reads", 1),
    _session("session.get", _check, "reads", 1),
    _session("session.get_all", _get_all, "reads", 1),
    _session("session.touch", _touch, "reads", 1),
    *_each("store", _store, "writes", 2, tags=("stored",)),
    Operation("set", _store, (Entry("kv", "set"),), "writes", 2),
    _pair("set_many", _set_many, "writes", 2),
    Operation("store behind", _store_behind, (Entry("llm", "store behind"),), "writes", 2),
    _session("session.set", _store, "writes", 2),
    _session("session.append", _append, "reads", 2),
    _session("session.incr", _incr, "reads", 2),
    _session("session.compare_and_set", _compare_and_set, "writes", 2),
    Operation("stats", _stats, (Entry("kv", "stats"),), "reads", 2),
    Operation("set_policy", _set_policy, (Entry("tool", "set_policy"),), "reads", 2),
    *_each("invalidate", _invalidate, "removes", 3),
    _pair("delete_many", _delete_many, "removes", 3),
    _session("session.delete", _invalidate, "removes", 3),
    Operation("invalidate_by", _invalidate_by, (Entry("llm", "by model", "grouped"),), "removes", 4),
    Operation("invalidate_by", _invalidate_by, (Entry("tool", "by tool", "grouped"),), "removes", 4),
    Operation(
        "invalidate_tag",
        _invalidate_tag,
        tuple(Entry(tier, "by tag", tags=(TAG,)) for tier in ("llm", "tool", "kv")),
        "removes",
        4,
    ),
    Operation("clear", _clear, (Entry("cleared", "clear"),), "removes", 4),
    _session("session.destroy", _destroy, "removes", 4),
    Operation("flush_writes", _flush_writes, (Entry("kv", "flush_writes"),), "reads", 5),
    Operation("aclose", _aclose, (Entry("kv", "aclose 1"), Entry("kv", "aclose 2")), "loads", 5),
)

# The columns of the matrix, in the order of the operations.
KINDS: Final = tuple(dict.fromkeys(operation.kind for operation in OPERATIONS))
