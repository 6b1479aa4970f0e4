"""Stale values, early refresh and remembered errors: the rules of freshness, in memory and between two processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import valkey

from tests.engine.operations.sources import Source
from tests.seams import in_l1, replace_reads
from tests.support import MakeCache, settled, until
from tiercache import AgentCache, CoherenceOptions, L2UnavailableError, TierOptions, UsageError
from tiercache.testing.clock import FakeClock

KEY = "test:__tc:kv:kv:k"


class NotFoundError(Exception):
    """The loader's answer that there is nothing."""


class BusyError(Exception):
    """The loader's answer that it must be asked later."""

    def __init__(self, text: str, *, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def make_memory(clock: FakeClock) -> AsyncIterator[Callable[..., AgentCache]]:
    """Return a function that makes a cache of process memory with the given options of its kv tier."""
    made: list[AgentCache] = []

    def make(**options: Any) -> AgentCache:
        made.append(AgentCache.in_memory(name="test", kv=TierOptions(ttl=60, **options), clock=clock.clock))
        return made[-1]

    yield make
    for cache in made:
        await cache.aclose()


# Stale values


async def test_stale_value_is_served_while_one_load_refreshes_it(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache, source = make_memory(stale_for=30), Source("old")
    await cache.kv.get_or_load("k", source)
    clock.advance(61)
    source.answer = "new"
    source.gate.clear()
    for _ in range(5):
        result = await cache.kv.get_or_load("k", source)
        assert (result.value, result.source, result.stale) == ("old", "stale", True)
    source.gate.set()
    await settled()
    assert source.count == 2
    assert (await cache.kv.get_or_load("k", source)).value == "new"
    assert source.count == 2


async def test_stale_value_is_served_when_its_load_fails(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache, source = make_memory(stale_for=30, retry_pause=5), Source("old")
    await cache.kv.get_or_load("k", source)
    clock.advance(61)
    source.answer = NotFoundError("down")
    for _ in range(3):
        assert (await cache.kv.get_or_load("k", source)).source == "stale"
        await settled()
    assert source.count == 2  # The pause holds the other refreshes back.
    clock.advance(5)
    assert (await cache.kv.get_or_load("k", source)).stale
    await settled()
    assert source.count == 3
    counts = cache.local_stats().tiers["kv"]
    assert (counts.stale_hits, counts.refreshes, counts.refresh_errors) == (4, 2, 2)
    clock.advance(30)
    with pytest.raises(NotFoundError):
        await cache.kv.get_or_load("k", source)


async def test_stale_value_is_gone_after_stale_for(make_memory: Callable[..., AgentCache], clock: FakeClock) -> None:
    cache, source = make_memory(stale_for=30), Source("old")
    await cache.kv.get_or_load("k", source)
    clock.advance(90)
    source.answer = "new"
    assert (await cache.kv.get_or_load("k", source)).source == "loader"


async def test_stale_value_is_found_by_a_lookup_without_loader(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache, source = make_memory(stale_for=30), Source("old")
    await cache.kv.get_or_load("k", source)
    clock.advance(61)
    assert await cache.kv.get("k") == "old"
    assert await cache.kv.get_many(["k", "other"]) == {"k": "old", "other": None}
    explanation = await cache.kv.explain("k")
    assert (explanation.source, explanation.l1, explanation.retry_in) == ("stale", "stale", 0.0)
    assert explanation.kept_ttl == pytest.approx(29.0)
    assert source.count == 1


@pytest.mark.parametrize("change", ["delete", "clear", "tag", "flush", "set"])
async def test_stale_value_is_dropped_by_every_change(
    make_memory: Callable[..., AgentCache], clock: FakeClock, change: str
) -> None:
    cache, source = make_memory(stale_for=30), Source("old")
    await cache.kv.get_or_load("k", source, tags=["t"])
    clock.advance(61)
    source.answer = "new"
    if change == "delete":
        await cache.kv.delete("k")
    elif change == "clear":
        await cache.kv.clear()
    elif change == "tag":
        await cache.invalidate_tag("t")
    elif change == "flush":
        await cache.flush()
    else:
        await cache.kv.set("k", "new")
    assert (await cache.kv.get_or_load("k", source)).value == "new"


async def test_stale_value_does_not_return_after_an_invalidation_during_its_refresh(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache, source = make_memory(stale_for=30), Source("old")
    await cache.kv.get_or_load("k", source)
    clock.advance(61)
    source.gate.clear()
    source.answer = "overtaken"
    assert (await cache.kv.get_or_load("k", source)).value == "old"
    await until(lambda: source.count == 2)
    await cache.kv.delete("k")
    source.gate.set()
    await settled()
    assert await cache.kv.get("k") is None


async def test_stale_values_of_many_keys_are_refreshed_by_one_call(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache = make_memory(stale_for=30)
    asked: list[list[str]] = []

    async def load(keys: list[str]) -> list[str]:
        asked.append(list(keys))
        return [f"{key}{len(asked)}" for key in keys]

    await cache.kv.get_or_load_many(["a", "b"], load)
    clock.advance(61)
    values = await cache.kv.get_or_load_many(["a", "b", "c"], load)
    assert (values["a"], values["b"]) == ("a1", "b1")
    await settled()
    assert sorted(asked) == [["a", "b"], ["a", "b"], ["c"]]
    assert (await cache.kv.get_or_load_many(["a"], load))["a"] in ("a2", "a3")
    assert len(asked) == 3


# Early refresh


async def test_early_refresh_replaces_a_value_before_its_end(
    make_memory: Callable[..., AgentCache], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.9)  # The value is refreshed ln(10) = 2.3 load times early.
    cache = make_memory(early_refresh=1.0)
    count = 0

    async def load() -> int:
        nonlocal count
        count += 1
        clock.advance(10)
        return count

    await cache.kv.get_or_load("k", load)
    clock.advance(30)
    result = await cache.kv.get_or_load("k", load)
    assert (result.value, result.source, count) == (1, "l1", 1)
    clock.advance(10)
    result = await cache.kv.get_or_load("k", load)
    assert (result.value, result.source) == (1, "l1")
    await settled()
    assert count == 2
    assert (await cache.kv.get_or_load("k", load)).value == 2
    assert count == 2


# Remembered errors


async def test_error_of_a_loader_is_raised_again_for_its_time(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache, source = make_memory(cache_errors={NotFoundError: 2}), Source(NotFoundError("k", 7))
    raised = []
    for _ in range(2):
        with pytest.raises(NotFoundError) as caught:
            await cache.kv.get_or_load("k", source)
        raised.append(caught.value)
    assert source.count == 1
    assert raised[0].args == raised[1].args == ("k", 7)
    assert raised[0] is not raised[1]
    assert (await cache.kv.explain("k")).l1 == "failed"
    assert not await cache.kv.exists("k")
    assert not await cache.kv.delete("other")
    clock.advance(2)
    source.answer = "found"
    assert (await cache.kv.get_or_load("k", source)).value == "found"
    counts = cache.local_stats().tiers["kv"]
    assert (counts.failed_hits, counts.misses, counts.load_errors) == (1, 3 + 1, 1)


async def test_error_with_retry_after_is_remembered_for_as_long(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache, source = make_memory(cache_errors={Exception: 1, BusyError: 2}), Source(BusyError("later", retry_after=20))
    for _ in range(2):
        with pytest.raises(BusyError) as caught:
            await cache.kv.get_or_load("k", source)
        assert (str(caught.value), caught.value.retry_after) == ("later", 20)
        clock.advance(19)
    assert source.count == 1
    clock.advance(1)
    source.answer = BusyError("much later", retry_after=1e9)
    for _ in range(2):
        with pytest.raises(BusyError):
            await cache.kv.get_or_load("k", source)
        clock.advance(3599)
    assert source.count == 2
    clock.advance(1)
    with pytest.raises(BusyError):
        await cache.kv.get_or_load("k", source)
    assert source.count == 3


async def test_error_of_another_class_is_not_remembered(make_memory: Callable[..., AgentCache]) -> None:
    cache, source = make_memory(cache_errors={NotFoundError: 2}), Source(ValueError("no"))
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await cache.kv.get_or_load("k", source)
    assert source.count == 2


class UncopyableOneError(Exception):
    """An exception whose text is its own secret."""

    def __str__(self) -> str:
        return str(id(self))


async def test_error_that_cannot_be_copied_is_not_remembered(
    make_memory: Callable[..., AgentCache], caplog: pytest.LogCaptureFixture
) -> None:
    cache, source = make_memory(cache_errors={UncopyableOneError: 2}), Source(UncopyableOneError("x"))
    for _ in range(2):
        with pytest.raises(UncopyableOneError):
            await cache.kv.get_or_load("k", source)
    assert source.count == 2
    assert sum("cannot be copied" in record.message for record in caplog.records) == 1


async def test_remembered_error_is_dropped_by_a_change_and_never_covers_one(
    make_memory: Callable[..., AgentCache],
) -> None:
    cache, source = make_memory(cache_errors={NotFoundError: 60}), Source(NotFoundError("k"))
    with pytest.raises(NotFoundError):
        await cache.kv.get_or_load("k", source)
    await cache.kv.set("k", "set")
    assert (await cache.kv.get_or_load("k", source)).value == "set"
    await cache.kv.delete("k")
    source.gate.clear()
    waiting = asyncio.create_task(cache.kv.get_or_load("k", source))
    await until(lambda: source.count == 2)
    await cache.kv.delete("k")  # The error of a load that a change has overtaken.
    source.gate.set()
    with pytest.raises(NotFoundError):
        await waiting
    source.answer = "found"
    assert (await cache.kv.get_or_load("k", source)).value == "found"


async def test_remembered_error_is_counted_by_no_removal(make_memory: Callable[..., AgentCache]) -> None:
    cache, source = make_memory(cache_errors={NotFoundError: 60}), Source(NotFoundError("k"))
    for remove in (lambda: cache.kv.delete("k"), cache.kv.clear, lambda: cache.invalidate_tag("t")):
        count = source.count
        with pytest.raises(NotFoundError):
            await cache.kv.get_or_load("k", source, tags=["t"])
        assert source.count == count + 1
        assert not await remove()


async def test_error_of_a_refresh_leaves_the_stale_value(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache, source = make_memory(stale_for=30, cache_errors={NotFoundError: 60}), Source("old")
    await cache.kv.get_or_load("k", source)
    clock.advance(61)
    source.answer = NotFoundError("k")
    for _ in range(2):
        assert (await cache.kv.get_or_load("k", source)).value == "old"
        await settled()


async def test_error_of_an_explicit_refresh_leaves_the_value(make_memory: Callable[..., AgentCache]) -> None:
    cache, source = make_memory(cache_errors={NotFoundError: 60}), Source("old")
    await cache.kv.get_or_load("k", source)
    source.answer = NotFoundError("k")
    with pytest.raises(NotFoundError):
        await cache.kv.get_or_load("k", source, mode="refresh")
    assert (await cache.kv.get_or_load("k", source)).value == "old"


async def test_remembered_error_keeps_no_frames(make_memory: Callable[..., AgentCache]) -> None:
    cache = make_memory(cache_errors={NotFoundError: 60})

    async def load() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise NotFoundError("k") from error

    with pytest.raises(NotFoundError):
        await cache.kv.get_or_load("k", load)
    with pytest.raises(NotFoundError) as caught:
        await cache.kv.get_or_load("k", load)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stale_for": -1}, "stale_for"),
        ({"retry_pause": 0}, "retry_pause"),
        ({"early_refresh": -1}, "early_refresh"),
        ({"cache_errors": {BaseException: 1}}, "cache_errors"),
        ({"cache_errors": {NotFoundError: 0}}, "cache_errors"),
        ({"cache_errors": [NotFoundError]}, "cache_errors"),
    ],
)
def test_freshness_options_refuse_wrong_values(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=f"TierOptions.{text}"):
        TierOptions(**options)


# Two processes on one Valkey


async def expired_pair(
    make_cache: MakeCache, plain: valkey.Valkey, source: Source, **options: Any
) -> tuple[AgentCache, AgentCache]:
    """Return two caches on one Valkey; the first has a copy of a value whose TTL has ended."""
    tier = TierOptions(ttl=0.2, **options)
    a, b = make_cache(name="test", kv=tier), make_cache(name="test", kv=tier)
    await b.open()
    await a.kv.get_or_load("k", source)
    await a.flush_writes()
    await until(lambda: not plain.exists(KEY))
    return a, b


async def test_stale_value_survives_the_report_of_its_expiry(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    source = Source("old")
    a, _ = await expired_pair(make_cache, plain, source, stale_for=30)
    await a.kv.get("unrelated")
    source.gate.clear()
    result = await a.kv.get_or_load("k", source)
    assert (result.value, result.source) == ("old", "stale")
    source.gate.set()
    await settled()


async def test_stale_value_is_refreshed_from_valkey_first(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    source = Source("old")
    a, b = await expired_pair(make_cache, plain, source, stale_for=30)
    await b.kv.get_or_load("k", Source("by the other"), ttl=60)
    await b.flush_writes()
    assert (await a.kv.get_or_load("k", source)).value == "old"
    await settled()
    result = await a.kv.get_or_load("k", source)
    assert (result.value, result.source, source.count) == ("by the other", "l1", 1)


async def test_stale_value_is_dropped_by_an_invalidation_of_another_process(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """Valkey has no value any more: the invalidation is published all the same."""
    source = Source("old")
    a, b = await expired_pair(make_cache, plain, source, stale_for=30)
    assert in_l1(a, KEY)
    await b.kv.delete("k")
    await until(lambda: not in_l1(a, KEY))
    source.answer = "new"
    assert (await a.kv.get_or_load("k", source)).source == "loader"


async def test_remembered_error_is_dropped_by_an_invalidation_of_another_process(make_cache: MakeCache) -> None:
    tier = TierOptions(cache_errors={NotFoundError: 60})
    a, b = make_cache(name="test", kv=tier), make_cache(name="test", kv=tier)
    await b.open()
    source = Source(NotFoundError("k"))
    with pytest.raises(NotFoundError):
        await a.kv.get_or_load("k", source)
    assert in_l1(a, KEY)
    await b.kv.delete("k")
    await until(lambda: not in_l1(a, KEY))
    source.answer = "found"
    assert (await a.kv.get_or_load("k", source)).value == "found"


async def test_kept_copy_is_dropped_when_valkey_lost_the_value_before_its_end(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    """The end of l1_ttl lets the lookup ask Valkey: nothing there means that a client has deleted the value."""
    tier = TierOptions(ttl=60, l1_ttl=0.05, stale_for=30)
    a = make_cache(name="test", kv=tier, coherence=CoherenceOptions(tracking="off"))
    await a.kv.get_or_load("k", Source("old"))
    await a.flush_writes()
    plain.delete(KEY)
    await asyncio.sleep(0.06)
    assert await a.kv.get("k") is None
    assert not in_l1(a, KEY)


async def test_stale_value_without_tracking_is_served_within_l1_ttl_alone(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    a = make_cache(
        name="test", kv=TierOptions(ttl=0.1, l1_ttl=0.3, stale_for=30), coherence=CoherenceOptions(tracking="off")
    )
    source = Source("old")
    await a.kv.get_or_load("k", source)
    await a.flush_writes()
    await until(lambda: not plain.exists(KEY))
    assert await a.kv.get("k") == "old"
    await asyncio.sleep(0.3)
    assert await a.kv.get("k") is None


async def test_stale_value_of_the_sync_face_is_refreshed_in_the_background(
    make_memory: Callable[..., AgentCache], clock: FakeClock
) -> None:
    cache = make_memory(stale_for=30)
    answers = iter(["old", "new"])

    def work() -> tuple[Any, Any, Any]:
        load = lambda: next(answers)  # noqa: E731
        first = cache.sync.kv.get_or_load("k", load).value
        clock.advance(61)
        second = cache.sync.kv.get_or_load("k", load)
        assert second.source == "stale"
        for _ in range(1000):
            third = cache.sync.kv.get_or_load("k", load)
            if third.source == "l1":
                break
        return first, second.value, third.value

    assert await asyncio.to_thread(work) == ("old", "old", "new")


async def test_stale_value_is_not_served_while_l1_is_not_trusted(
    make_cache: MakeCache, clock: FakeClock, plain: valkey.Valkey
) -> None:
    """Without a PONG since, a change may have been missed."""
    tier, coherence = TierOptions(ttl=60, l1_ttl=None, stale_for=600), CoherenceOptions(tracking="off")
    cache = make_cache(name="test", kv=tier, coherence=coherence, clock=clock.clock)
    await cache.kv.get_or_load("k", Source("old"))
    await cache.flush_writes()
    plain.delete(KEY)
    clock.advance(61)  # The last PONG is a minute old now.
    assert await cache.kv.get("k") is None


async def test_remembered_error_is_another_object_for_each_caller(make_memory: Callable[..., AgentCache]) -> None:
    cache, source = make_memory(cache_errors={NotFoundError: 60}), Source(NotFoundError("k"))
    source.answer.add_note("of the loader")
    raised: list[NotFoundError] = []
    for _ in range(3):
        with pytest.raises(NotFoundError) as caught:
            await cache.kv.get_or_load("k", source)
        caught.value.add_note(f"of caller {len(raised)}")
        raised.append(caught.value)
    assert len({id(error) for error in raised}) == 3
    assert raised[2].__notes__ == ["of the loader", "of caller 2"]


async def test_kept_copy_is_served_when_valkey_and_the_loader_fail(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past l1_ttl and within the TTL, the lookup asks Valkey and then the loader."""
    cache, source = make_cache(kv=TierOptions(ttl=60, l1_ttl=0.05, stale_for=30)), Source("old")
    await cache.kv.get_or_load("k", source)
    await cache.flush_writes()
    await asyncio.sleep(0.06)

    async def fail(_: object) -> None:
        raise L2UnavailableError("no answer")

    replace_reads(monkeypatch, fail)
    source.answer = NotFoundError("down")
    result = await cache.kv.get_or_load("k", source)
    assert (result.value, result.source, source.count) == ("old", "stale", 2)
