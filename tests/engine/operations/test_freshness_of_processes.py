"""Random histories of two processes on one Valkey, compared with a model of the rules of freshness.

The model has the copies of each process, the values in Valkey, and the loads that a test holds back. After each step
the test waits until both processes have received every change, so that the model knows each answer and its source.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import pytest
import valkey
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.seams import caught_up
from tests.support import until
from tiercache import AgentCache, CoherenceOptions, ResilienceOptions, TierOptions
from tiercache.testing.clock import FakeClock

# Lifetimes in Valkey pass in real time: however slow the machine is, a test takes no part of them that counts.
TTL: Final = 6000.0
STALE_FOR: Final = 3000.0
RETRY_PAUSE: Final = 500.0
ERROR_LIFE: Final = 800.0
KEYS: Final = ("a", "b")
TAG: Final = "t"
EXAMPLES: Final = 150
# The early moment of a copy is then exactly one duration of a load before its end.
ALWAYS_DRAWN: Final = 1.0 - 1.0 / math.e
# The steps move the fake clock by whole seconds; a lifetime that Valkey counts is shorter by the time of the test.
LATENCY: Final = 50.0
# Seconds after which a call that does not end has failed.
PATIENCE: Final = 10.0
# Without shrinking: each history that it tries may wait for a call that does not end.
PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate)


class KnownError(Exception):
    """An error that the tier remembers."""


class OtherError(Exception):
    """An error that the tier does not remember."""


@dataclass
class Copy:
    """A value, or a remembered error, in one process."""

    answer: Any
    expires_at: float
    early_at: float = math.inf
    retry_at: float = 0.0

    @property
    def is_error(self) -> bool:
        return isinstance(self.answer, Exception)

    def is_fresh(self, now: float) -> bool:
        return not self.is_error and now < min(self.early_at, self.expires_at)

    def is_kept(self, now: float) -> bool:
        return now < self.expires_at + (0.0 if self.is_error else STALE_FOR)

    def is_due(self, now: float) -> bool:
        """Return whether a lookup serves the value and may refresh it."""
        return not self.is_error and not self.is_fresh(now) and self.is_kept(now)


@dataclass
class Held:
    """A load whose loader waits for ``gate``.

    Attributes:
        replaced: The value that Valkey had when the load began, which the load may replace.
        caller: The lookup that waits for the load; None for a load in the background.
        is_refresh: Whether the load replaces a value that is not stale yet.
    """

    answer: Any
    began: float
    replaced: Any
    is_refresh: bool
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    caller: asyncio.Task[Any] | None = None
    is_overtaken: bool = False


class Process:
    """One cache, and the copies and held loads that the model expects in it."""

    def __init__(self, cache: AgentCache, early_refresh: float) -> None:
        self.cache = cache
        self.early_refresh = early_refresh
        self.copies: dict[str, Copy] = {}
        self.held: dict[str, Held] = {}
        self.load_seconds = 0.0

    def copy_of(self, value: Any, expires_at: float) -> Copy:
        return Copy(value, expires_at, expires_at - self.early_refresh * self.load_seconds)


class History:
    """Two processes and the model of their keys."""

    def __init__(self, processes: list[Process], clock: FakeClock, plain: valkey.Valkey) -> None:
        self.processes = processes
        self.clock = clock
        self.plain = plain
        self.now = 0.0
        self.valkey: dict[str, tuple[Any, float]] = {}
        self.made_count = 0
        self.load_count = 0

    # The steps

    async def load(self, index: int, key: str, kind: str) -> None:
        """Look a key up, with a loader that ends at once."""
        process = self.processes[index]
        if not self._would_wait(process, key):
            await self._lookup(process, key, self._make(kind), is_held=False)

    async def hold(self, index: int, key: str, kind: str) -> None:
        """Look a key up, with a loader that waits for ``release``."""
        process = self.processes[index]
        if key not in process.held and not self._would_wait(process, key):
            await self._lookup(process, key, self._make(kind), is_held=True)

    async def release(self, index: int, key: str, _: str) -> None:
        """Let the held loader of a key end."""
        process = self.processes[index]
        held = process.held.pop(key, None)
        if held is None:
            return
        held.gate.set()
        self._end_load(process, key, held)
        if held.caller is not None:
            copy = process.copies.get(key)
            if isinstance(held.answer, Exception) and copy is not None and copy.is_due(self.now):
                # Also before the end of the value: the load could not confirm it.
                await self._answers(held.caller, copy.answer, "stale")
            else:
                await self._answers(held.caller, held.answer, "loader")
        await self._settled()

    async def get(self, index: int, key: str, _: str) -> None:
        """Look a key up without a loader."""
        process = self.processes[index]
        copy, expected = self._live(process, key), None
        if copy is not None and copy.is_fresh(self.now):
            expected = copy.answer
        elif key in self.valkey:
            expected = self._read(process, key).answer
        elif copy is not None and copy.is_due(self.now):
            expected = copy.answer
            if self.now < copy.expires_at:
                # Valkey does not have the value that it should have: another client has deleted it.
                del process.copies[key]
                expected = None
        assert await process.cache.kv.get(key) == expected

    async def refresh(self, index: int, key: str, kind: str) -> None:
        """Load a key in mode "refresh"."""
        process = self.processes[index]
        if any(each.held.get(key) for each in self.processes):
            return
        held = Held(self._make(kind), self.now, self.valkey.get(key), is_refresh=True)
        self._live(process, key)
        call = process.cache.kv.get_or_load(key, self._loader(held), tags=[TAG], mode="refresh")
        held.gate.set()
        self._end_load(process, key, held, is_explicit=True)
        await self._answers(call, held.answer, "loader")
        await self._settled()

    async def set(self, index: int, key: str, _: str) -> None:
        process, value = self.processes[index], self._make("value")
        self._change(key)
        process.copies[key] = process.copy_of(value, self.now + TTL)
        self.valkey[key] = (value, self.now + TTL)
        await process.cache.kv.set(key, value, tags=[TAG])
        await self._settled()

    async def delete(self, index: int, key: str, _: str) -> None:
        self._change(key)
        await self.processes[index].cache.kv.delete(key)
        await self._settled()

    async def clear(self, index: int, _: str, way: str) -> None:
        """Invalidate all keys at once."""
        for key in KEYS:
            self._change(key)
        cache = self.processes[index].cache
        ways = {"value": cache.kv.clear, "known": cache.flush, "other": lambda: cache.invalidate_tag(TAG)}
        await ways[way]()
        await self._settled()

    async def advance(self, _: int, key: str, kind: str) -> None:
        """Move the clock past a pause, past the life of an error, or past the time of stale values."""
        await self._advance({"value": 400.0, "known": 800.0, "other": 3100.0}[kind])

    async def _advance(self, seconds: float) -> None:
        """Move the clock of the processes, and the lifetimes in Valkey."""
        self.clock.advance(seconds)
        self.now += seconds
        for key, (_, expires_at) in list(self.valkey.items()):
            if expires_at <= self.now:
                del self.valkey[key]
                self.plain.delete(self._stored(key))
            else:
                self.plain.pexpire(self._stored(key), round((expires_at - self.now) * 1000))

    async def lapse(self, index: int, key: str, kind: str) -> None:
        """Let a process have a stale value."""
        await self.load(index, key, "value")
        copy = self.processes[index].copies.get(key)
        if copy is not None and self.now < copy.expires_at:
            await self._advance(math.ceil(copy.expires_at - self.now))

    async def near(self, index: int, key: str, kind: str) -> None:
        """Let a load of a value take 1000 s, and move the clock to 500 s before the end of the value."""
        await self.hold(index, key, "value")
        await self._advance(1000.0)
        await self.release(index, key, "")
        copy = self.processes[index].copies.get(key)
        if copy is not None and self.now < copy.expires_at - 500.0:
            await self._advance(math.ceil(copy.expires_at - self.now) - 500.0)

    async def overtake(self, index: int, key: str, kind: str) -> None:
        """Change a key in either process while a load of it runs, and let the load end."""
        await self.hold(index, key, kind)
        changer = self.made_count % 2
        await (self.delete, self.set, self.clear)[self.made_count % 3](changer, key, kind)
        await self.release(index, key, "")

    async def end(self) -> None:
        for index in range(len(self.processes)):
            for key in KEYS:
                await self.release(index, key, "")
        await self.clear(0, "", "value")

    def free(self) -> None:
        """Let every loader end, after a step that failed."""
        for process in self.processes:
            for held in process.held.values():
                held.gate.set()

    # The model

    def _would_wait(self, process: Process, key: str) -> bool:
        """Return whether a lookup would wait for a held load, of this or of another process."""
        copy = process.copies.get(key)
        if copy is not None and (copy.is_fresh(self.now) or (copy.is_error and copy.is_kept(self.now))):
            return False
        is_due = copy is not None and copy.is_due(self.now)
        own = process.held.get(key)
        if own is not None and not own.is_overtaken:
            return not is_due
        if is_due and copy is not None and self.now < copy.retry_at:
            return False
        others = [each.held[key] for each in self.processes if each is not process and key in each.held]
        return any(not held.is_overtaken for held in others)

    async def _lookup(self, process: Process, key: str, answer: Any, *, is_held: bool) -> None:
        """Look a key up, and compare the answer and the count of loads with the model."""
        before = self.load_count
        copy = self._live(process, key)
        own = process.held.get(key)
        is_joinable = own is not None and not own.is_overtaken
        held: Held | None = None
        if copy is not None and copy.is_error:
            expected, source = copy.answer, ""
        elif copy is not None and copy.is_fresh(self.now):
            expected, source = copy.answer, "l1"
        elif copy is not None:
            expected, source = copy.answer, self._source_of(copy)
            if self.now >= copy.retry_at and not is_joinable:
                held = self._start_refresh(process, key, copy, answer)
        elif key in self.valkey:
            expected, source = self._read(process, key).answer, "l2"
        else:
            expected, source = answer, "loader"
            held = Held(answer, self.now, None, is_refresh=False)
        is_waiting = source == "loader"
        loader = self._loader(held or Held(answer, self.now, None, is_refresh=False))
        call = process.cache.kv.get_or_load(key, loader, tags=[TAG])
        if held is not None and is_held:
            process.held[key] = held
            if is_waiting:
                held.caller = asyncio.ensure_future(call)
            else:
                await self._answers(call, expected, source)
            await until(lambda: self.load_count == before + 1, PATIENCE)
        else:
            if held is not None:
                held.gate.set()
                self._end_load(process, key, held)
            await self._answers(call, expected, source)
        await self._settled()
        assert self.load_count == before + (held is not None)

    def _start_refresh(self, process: Process, key: str, copy: Copy, answer: Any) -> Held | None:
        """Return the load that refreshes ``copy``, or None if Valkey has a newer value."""
        stored = self.valkey.get(key)
        if stored is None:
            if self.now < copy.expires_at:
                del process.copies[key]
            return Held(answer, self.now, None, is_refresh=False)
        is_newer = self.now >= copy.expires_at or stored[1] > copy.expires_at + LATENCY
        self._read(process, key)
        return None if is_newer else Held(answer, self.now, stored, is_refresh=True)

    def _end_load(self, process: Process, key: str, held: Held, *, is_explicit: bool = False) -> None:
        """Store what a load that ends now may store."""
        copy = process.copies.get(key)
        if isinstance(held.answer, Exception):
            is_background = held.caller is None and not is_explicit
            if isinstance(held.answer, KnownError) and not held.is_overtaken and not held.is_refresh and copy is None:
                copy = process.copies[key] = Copy(held.answer, self.now + ERROR_LIFE)
            if is_background and copy is not None:
                copy.retry_at = self.now + RETRY_PAUSE
            return
        # Also the time of a load that stores nothing is the time that the next load may take.
        process.load_seconds = (self.now - held.began) or process.load_seconds
        if held.is_overtaken:
            return
        if held.replaced is not None and self.valkey.get(key) != held.replaced:
            # Valkey no longer has the value that the load may replace: it stores nothing. The load is announced.
            for each in self.processes:
                each.copies.pop(key, None)
            return
        if held.replaced is not None:
            for other in self.processes:
                if other is not process:
                    other.copies.pop(key, None)
        process.copies[key] = process.copy_of(held.answer, self.now + TTL)
        self.valkey[key] = (held.answer, self.now + TTL)

    def _read(self, process: Process, key: str) -> Copy:
        """Copy the value in Valkey into the process."""
        process.copies[key] = process.copy_of(*self.valkey[key])
        return process.copies[key]

    def _live(self, process: Process, key: str) -> Copy | None:
        """Return the copy that the process may still answer with; remove an older one."""
        copy = process.copies.get(key)
        if copy is not None and not copy.is_kept(self.now):
            del process.copies[key]
            return None
        return copy

    def _change(self, key: str) -> None:
        """Remove a key everywhere, and overtake its loads."""
        self.valkey.pop(key, None)
        for process in self.processes:
            process.copies.pop(key, None)
            if key in process.held:
                process.held[key].is_overtaken = True

    def _source_of(self, copy: Copy) -> str:
        return "stale" if self.now >= copy.expires_at else "l1"

    # The processes

    def _make(self, kind: str) -> Any:
        """Return an answer that no loader has given before."""
        self.made_count += 1
        kinds = {"value": str, "known": KnownError, "other": OtherError}
        return kinds[kind](f"{self.made_count}")

    def _loader(self, held: Held) -> Any:
        async def loader() -> Any:
            self.load_count += 1
            await held.gate.wait()
            if isinstance(held.answer, Exception):
                raise held.answer
            return held.answer

        return loader

    async def _answers(self, call: Awaitable[Any], expected: Any, source: str) -> None:
        async with asyncio.timeout(PATIENCE):
            if isinstance(expected, Exception):
                with pytest.raises(type(expected)) as caught:
                    await call
                assert caught.value.args == expected.args
            else:
                result = await call
                assert (result.value, result.source) == (expected, source)

    async def _settled(self) -> None:
        """Return when no loader can go on, Valkey has every write, and each process has received every change."""
        held_count = sum(len(process.held) for process in self.processes)
        tasks = asyncio.all_tasks
        await until(lambda: sum(task.get_name() == "tiercache-load" for task in tasks()) == held_count, PATIENCE)
        for process in self.processes:
            await process.cache.flush_writes()
        for process in self.processes:
            await caught_up(process.cache, self.plain)

    def _stored(self, key: str) -> str:
        return f"test:__tc:kv:kv:{key}"


KINDS: Final = st.sampled_from(["value", "known", "other"])
NAMES: Final = (
    *(["load"] * 6 + ["hold"] * 3 + ["release"] * 3 + ["advance"] * 3 + ["lapse"] * 2 + ["near", "overtake"]),
    *("get", "refresh", "set", "delete", "clear"),
)
# The beginnings that random steps alone rarely make: a stale value, a value near its end, an overtaken load.
BEGINNINGS: Final = ("lapse", "lapse", "near", "overtake", "load")


@st.composite
def episodes(draw: st.DrawFn) -> list[tuple[int, str, str, str]]:
    """Return steps of which most are of one process, and all of one key."""
    index, key = draw(st.sampled_from([0, 1])), draw(st.sampled_from(KEYS))
    steps = [(index, key, draw(st.sampled_from(BEGINNINGS)), draw(KINDS))]
    for _ in range(draw(st.integers(2, 7))):
        other = draw(st.sampled_from([0, 0, 0, 1]))
        steps.append((index ^ other, key, draw(st.sampled_from(NAMES)), draw(KINDS)))
    return steps


HISTORIES: Final = st.lists(episodes(), min_size=2, max_size=4).map(lambda each: list(chain(*each)))


@pytest.mark.parametrize("early_refresh", [0.0, 1.0])
def test_history_of_two_processes_follows_the_rules_of_freshness(
    url: str, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, early_refresh: float
) -> None:
    monkeypatch.setattr("random.random", lambda: ALWAYS_DRAWN)

    @settings(max_examples=EXAMPLES, deadline=None, phases=PHASES)
    @given(HISTORIES)
    def run_all(steps: list[Any]) -> None:
        asyncio.run(_run(steps, url, plain, early_refresh))

    run_all()


async def _run(steps: list[Any], url: str, plain: valkey.Valkey, early_refresh: float) -> None:
    clock = FakeClock()
    options = TierOptions(
        ttl=TTL,
        l1_ttl=None,
        stale_for=STALE_FOR,
        retry_pause=RETRY_PAUSE,
        early_refresh=early_refresh,
        cache_errors={KnownError: ERROR_LIFE},
    )
    # Valkey reports each change of a lifetime, by which this test moves its clock, to a process that tracks keys.
    coherence = CoherenceOptions(tracking="off", max_staleness=1e6)
    patient = ResilienceOptions(l2_timeout=PATIENCE)
    async with AsyncExitStack() as stack:
        processes = []
        for _ in range(2):
            cache = AgentCache.from_url(
                url, name="test", kv=options, coherence=coherence, resilience=patient, clock=clock.clock
            )
            processes.append(Process(await stack.enter_async_context(cache), early_refresh))
        history = History(processes, clock, plain)
        try:
            for index, key, name, kind in steps:
                await getattr(history, name)(index, key, kind)
            await history.end()
        finally:
            history.free()
