"""warm: entries are loaded ahead of their callers, some at a time, and a failure is reported and not raised."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import valkey

from tests.requests import asking
from tests.seams import slow_writes
from tests.support import MakeCache, entry_keys, until
from tiercache import AgentCache, LlmResponse, TierOptions, UsageError, WarmProgress, WriteOptions


class Gauge:
    """A loader of a key that counts the loads at the same time, and fails for the key "bad".

    Attributes:
        most: Most loads at the same time.
        running: Loads that run now.
        cancelled: Loads that were cancelled.
    """

    def __init__(self) -> None:
        self.most = 0
        self.running = 0
        self.cancelled = 0
        self.release = asyncio.Event()

    async def __call__(self, key: str) -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return f"value of {key}"


def failing(key: str) -> str:
    if key == "bad":
        raise ZeroDivisionError(key)
    return f"value of {key}"


async def test_warm_reports_the_one_item_of_three_that_failed(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_writes(monkeypatch)
    await cache.kv.set("there", "older")
    report = await cache.kv.warm(["new", "bad", "there"], failing)
    assert (report.loaded, report.cached) == (1, 1)
    ((item, error),) = report.failed
    assert item == "bad"
    assert isinstance(error, ZeroDivisionError)
    assert report.seconds >= 0
    # Valkey has the values once the call has returned.
    assert entry_keys(plain) == ["test:__tc:kv:kv:new", "test:__tc:kv:kv:there"]
    assert await cache.kv.get_many(["new", "bad", "there"]) == {"new": "value of new", "bad": None, "there": "older"}


async def test_warm_loads_items_with_loaders_of_their_own_in_each_tier(cache: AgentCache) -> None:
    async def weather(city: str) -> dict[str, str]:
        return {"city": city}

    kv = await cache.kv.warm([("a", lambda: 1), ("b", lambda key: key)], tags=["warm"])
    llm = await cache.llm.warm([(asking("a"), lambda: "x"), (cache.llm.key(asking("b")), lambda: LlmResponse("y"))])
    tool = await cache.tool.warm([("weather", {"city": "Sofia"}, weather), ("now", None, lambda: 12)], cost=0.5)
    assert [(report.loaded, report.failed) for report in (kv, llm, tool)] == [(2, [])] * 3
    assert await cache.kv.get_many(["a", "b"]) == {"a": 1, "b": "b"}
    assert [(await cache.llm.check(asking(text))).response for text in "ab"] == ["x", "y"]
    found = await cache.tool.check("weather", {"city": "Sofia"})
    assert (found.value, found.cost) == ({"city": "Sofia"}, 0.5)
    assert await cache.invalidate_tag("warm") == 2


async def test_warm_loads_items_with_one_loader_in_each_tier(cache: AgentCache) -> None:
    llm = await cache.llm.warm([asking("a"), asking("b")], lambda params: params["messages"][0]["content"], ttl=60)
    tool = await cache.tool.warm([("add", {"a": 1, "b": n}) for n in range(3)], lambda a, b: a + b)
    assert (llm.loaded, tool.loaded) == (2, 3)
    assert (await cache.llm.check(asking("b"))).response == "b"
    assert (await cache.tool.check("add", {"a": 1, "b": 2})).value == 3
    again = await cache.tool.warm([("add", {"a": 1, "b": 2})], lambda a, b: a + b)
    assert (again.loaded, again.cached) == (0, 1)


async def test_warm_runs_no_more_loads_at_the_same_time_than_allowed_and_reads_no_further(memory: AgentCache) -> None:
    read: list[int] = []

    async def items() -> AsyncIterator[str]:
        for number in range(20):
            read.append(number)
            yield str(number)

    gauge = Gauge()
    warming = asyncio.create_task(memory.kv.warm(items(), gauge, concurrency=3))
    await until(lambda: gauge.running == 3)
    assert len(read) == 3
    gauge.release.set()
    assert (await warming).loaded == 20
    assert gauge.most == 3


@pytest.mark.parametrize("sized", [True, False])
async def test_warm_shows_progress_after_each_item(memory: AgentCache, sized: bool) -> None:
    shown: list[WarmProgress] = []
    await memory.kv.set("there", 1)
    items: Any = ["a", "bad", "there"]
    await memory.kv.warm(items if sized else iter(items), failing, concurrency=1, on_progress=shown.append)
    total = 3 if sized else None
    assert shown == [
        WarmProgress(1, total, loaded=1, cached=0, failed=0),
        WarmProgress(2, total, loaded=1, cached=0, failed=1),
        WarmProgress(3, total, loaded=1, cached=1, failed=1),
    ]


async def test_warm_goes_on_although_its_progress_function_raises(
    memory: AgentCache, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(progress: WarmProgress) -> None:
        raise ZeroDivisionError

    assert (await memory.kv.warm(["a", "b"], failing, on_progress=broken)).loaded == 2
    (record,) = caplog.records
    assert "on_progress of a warm-up raised" in record.message


async def test_cancelled_warm_cancels_its_loads_and_leaves_no_task(memory: AgentCache) -> None:
    gauge = Gauge()
    warming = asyncio.create_task(memory.kv.warm(map(str, range(20)), gauge, concurrency=3))
    await until(lambda: gauge.running == 3)
    before = asyncio.all_tasks()
    warming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await warming
    await until(lambda: gauge.cancelled == 3)
    left = [task for task in before if not task.done() and task.get_name() == "tiercache-warm"]
    assert left == []


async def test_warm_whose_items_raise_cancels_its_loads_and_raises(memory: AgentCache) -> None:
    gauge = Gauge()

    def items() -> Iterator[str]:
        yield "a"
        yield "b"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await memory.kv.warm(items(), gauge)
    await until(lambda: gauge.running == 0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "tiercache-warm"]


async def test_warm_reports_a_loader_that_cancels_itself(memory: AgentCache) -> None:
    def load(key: str) -> str:
        if key == "a":
            raise asyncio.CancelledError
        return key

    report = await memory.kv.warm(["a", "b"], load)
    assert report.loaded == 1
    assert [(item, type(error)) for item, error in report.failed] == [("a", asyncio.CancelledError)]


async def test_warm_drops_no_value_for_which_the_queue_has_no_room(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lease: the queue would slow down a load that waits for its lease."""
    cache = make_cache(name="test", kv=TierOptions(lease=False), writes=WriteOptions(max_queue_bytes=20_000))
    await cache.open()
    slow_writes(monkeypatch)
    report = await cache.kv.warm(map(str, range(30)), lambda key: "x" * 3_000, concurrency=3)
    assert report.loaded == 30
    assert cache.local_stats().tiers["kv"].fills_dropped == 0
    assert len(entry_keys(plain)) == 30


async def test_warm_of_a_sync_cache_runs_plain_loaders_at_the_same_time(cache: AgentCache) -> None:
    together = threading.Barrier(3, timeout=20)
    readers: set[int] = set()

    def items() -> Iterator[str]:
        for number in range(6):
            readers.add(threading.get_ident())
            yield str(number)

    def load(key: str) -> str:
        together.wait()
        return key

    def work() -> tuple[Any, bool]:
        return cache.sync.kv.warm(items(), load, concurrency=3), readers == {threading.get_ident()}

    report, is_read_here = await asyncio.to_thread(work)
    assert (report.loaded, report.failed) == (6, [])
    assert is_read_here
    shown: list[WarmProgress] = []
    again = await asyncio.to_thread(cache.sync.kv.warm, ["1", "2"], load, on_progress=shown.append)
    assert again.cached == 2
    assert shown[-1].total == 2
    report = await asyncio.to_thread(cache.sync.tool.warm, [("t", {"a": 1})], lambda a: a)
    assert report.loaded == 1
    report = await asyncio.to_thread(cache.sync.llm.warm, [asking("a")], lambda: "x")
    assert report.loaded == 1


async def test_warm_stays_in_the_scope_of_its_caller(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", kv=TierOptions())
    with cache.calls(scope="a"):
        await cache.kv.warm(["k"], lambda: 1)
    assert await cache.kv.get("k") is None
    with cache.calls(scope="a"):
        assert await cache.kv.get("k") == 1


async def test_warm_reports_items_of_a_wrong_form(memory: AgentCache) -> None:
    for report in (
        await memory.kv.warm(["ab", ("k",)]),  # type: ignore[list-item]
        await memory.llm.warm([{"model": "m"}, ("p",)]),  # type: ignore[list-item]
        await memory.tool.warm(["t", ("t", {})]),  # type: ignore[list-item]
        await memory.kv.warm([""], lambda: 1),
    ):
        assert report.loaded == 0
        assert {type(error) for _, error in report.failed} == {UsageError}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"items": "ab"}, "items must be an iterable of items, not str"),
        ({"items": 1}, "items must be an iterable of items, not int"),
        ({"loader": 1}, "loader must be a function, which is called for each item, not int"),
        ({"concurrency": 0}, "concurrency must be a whole number above 0, not 0"),
        ({"concurrency": True}, "concurrency must be a whole number above 0, not True"),
        ({"on_progress": 1}, "on_progress must be a plain function"),
        ({"on_progress": asyncio.sleep}, "on_progress must be a plain function"),
        ({"ttl": -1}, "ttl"),
        ({"tags": "tag"}, "tags must be a sequence of names"),
    ],
)
async def test_warm_refuses_wrong_argument(memory: AgentCache, arguments: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"items": ["k"], "loader": lambda: 1, **arguments}
    for warm in (memory.kv.warm, memory.llm.warm, memory.tool.warm):
        with pytest.raises(UsageError, match=reason):
            await warm(**given)
    with pytest.raises(UsageError, match=reason):
        await asyncio.to_thread(lambda: memory.sync.kv.warm(**given))
