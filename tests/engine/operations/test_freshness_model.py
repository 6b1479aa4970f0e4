"""Random histories of one key in process memory, compared with a small model of the rules of freshness."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import until
from tiercache import AgentCache, TierOptions
from tiercache.testing.clock import FakeClock

TTL: Final = 60.0
STALE_FOR: Final = 30.0
RETRY_PAUSE: Final = 5.0
ERROR_LIFE: Final = 8.0


class KnownError(Exception):
    """An error that the tier remembers."""


class OtherError(Exception):
    """An error that the tier does not remember."""


@dataclass
class Kept:
    """The value, or the error, that the model expects in L1."""

    answer: Any
    expires_at: float
    retry_at: float = 0.0


@dataclass
class Held:
    """A refresh whose loader waits for ``gate``."""

    answer: Any
    gate: asyncio.Event
    is_overtaken: bool = False


# Most lookups, and most waits, let an expired value meet a load that fails.
STEPS: Final = st.one_of(
    st.tuples(st.just("load"), st.sampled_from(["value", "known", "other"])),
    st.tuples(st.just("load"), st.sampled_from(["known", "other"])),
    st.tuples(st.just("advance"), st.sampled_from([1.0, 5.0, 61.0])),
    st.tuples(st.just("hold"), st.sampled_from(["value", "known", "other"])),
    st.tuples(st.just("release"), st.none()),
    st.tuples(st.just("advance"), st.sampled_from([1.0, 5.0, 8.0, 31.0, 60.0, 90.0])),
    st.tuples(st.just("change"), st.sampled_from(["delete", "clear", "tag", "flush", "set"])),
)


class History:
    """One cache, and the model of its only key."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        options = TierOptions(
            ttl=TTL, stale_for=STALE_FOR, retry_pause=RETRY_PAUSE, cache_errors={KnownError: ERROR_LIFE}
        )
        self.cache = AgentCache.in_memory(name="test", kv=options, clock=self.clock.clock)
        self.now = 0.0
        self.kept: Kept | None = None
        self.held: Held | None = None
        self.made_count = 0
        self.load_count = 0

    def make_answer(self, kind: str) -> Any:
        """Return an answer that no loader has given before."""
        self.made_count += 1
        kinds = {"value": str, "known": KnownError, "other": OtherError}
        return kinds[kind](f"{self.made_count}")

    async def load(self, kind: str) -> None:
        await self._lookup(self.make_answer(kind), None)
        if self.held is None:
            await self._settled()

    async def hold(self, kind: str) -> None:
        """Look the key up; if that starts a refresh, hold its loader back."""
        kept = self.kept
        is_due = kept is not None and self._is_stale(kept) and self.now >= kept.retry_at and self.held is None
        if is_due:
            held = Held(self.make_answer(kind), asyncio.Event())
            self.held = held
            count = self.load_count
            await self._lookup(held.answer, held.gate)
            await until(lambda: self.load_count == count + 1)

    async def release(self, _: None) -> None:
        held, self.held = self.held, None
        if held is not None:
            held.gate.set()
            await self._settled()
            self._end_refresh(held.answer, held.is_overtaken)

    async def advance(self, seconds: float) -> None:
        if self.held is not None and self.kept is not None and self.now + seconds >= self.kept.expires_at + STALE_FOR:
            await self.release(None)
        self.clock.advance(seconds)
        self.now += seconds

    async def change(self, way: str) -> None:
        cache = self.cache
        is_error = self.kept is not None and isinstance(self.kept.answer, Exception)
        if self.held is not None:
            self.held.is_overtaken = True
        self.kept = None
        if way == "delete":
            existed = await cache.kv.delete("k")
            assert not (existed and is_error)
        elif way == "clear":
            count = await cache.kv.clear()
            assert not (count and is_error)
        elif way == "tag":
            await cache.invalidate_tag("t")
        elif way == "flush":
            await cache.flush()
        else:
            value = self.make_answer("value")
            await cache.kv.set("k", value, tags=["t"])
            self.kept = Kept(value, self.now + TTL)

    async def _lookup(self, answer: Any, gate: asyncio.Event | None) -> None:
        """Look the key up, with a loader that gives ``answer``, and compare with the model."""
        expected, source, loads = self._expected(answer)
        before = self.load_count

        async def loader() -> Any:
            self.load_count += 1
            if gate is not None:
                await gate.wait()
            if isinstance(answer, Exception):
                raise answer
            return answer

        if isinstance(expected, Exception):
            with pytest.raises(type(expected)) as caught:
                await self.cache.kv.get_or_load("k", loader, tags=["t"])
            assert caught.value.args == expected.args
        else:
            result = await self.cache.kv.get_or_load("k", loader, tags=["t"])
            assert (result.value, result.source) == (expected, source)
        if gate is None:
            if self.held is None:
                await self._settled()
            assert self.load_count == before + loads

    def _is_stale(self, kept: Kept) -> bool:
        is_value = not isinstance(kept.answer, Exception)
        return is_value and kept.expires_at <= self.now < kept.expires_at + STALE_FOR

    def _expected(self, answer: Any) -> tuple[Any, str, int]:
        """Return the expected answer, source and count of loads; move the model on."""
        kept = self.kept
        if kept is not None and self.now < kept.expires_at:
            return kept.answer, "l1", 0
        if kept is not None and self._is_stale(kept):
            if self.held is not None and not self.held.is_overtaken and self.held.answer is not answer:
                return kept.answer, "stale", 0
            if self.now < kept.retry_at:
                return kept.answer, "stale", 0
            old = kept.answer
            if self.held is None or self.held.answer is not answer:
                self._end_refresh(answer, False)
            return old, "stale", 1
        self.kept = None
        if isinstance(answer, KnownError):
            self.kept = Kept(answer, self.now + ERROR_LIFE)
        elif not isinstance(answer, Exception):
            self.kept = Kept(answer, self.now + TTL)
        return answer, "loader", 1

    def _end_refresh(self, answer: Any, is_overtaken: bool) -> None:
        kept = self.kept
        if not isinstance(answer, Exception):
            if not is_overtaken:
                self.kept = Kept(answer, self.now + TTL)
        elif kept is not None and not isinstance(kept.answer, Exception):
            kept.retry_at = self.now + RETRY_PAUSE

    async def _settled(self) -> None:
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "tiercache-load"])


@settings(max_examples=500, deadline=None)
@given(st.lists(STEPS, min_size=5, max_size=25))
def test_history_of_one_key_follows_the_rules_of_freshness(steps: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        history = History()
        async with history.cache:
            for name, argument in steps:
                if history.held is not None and history.held.is_overtaken and name in ("load", "hold"):
                    # An overtaken load ends first: its end and that of the next load come in no fixed order.
                    await history.release(None)
                await getattr(history, name)(argument)
            await history.release(None)

    asyncio.run(run())
