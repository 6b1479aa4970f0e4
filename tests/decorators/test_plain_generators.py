"""Plain generators that ``cache.sync`` decorates, and generators that are tools or call models."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support import MakeCache, until
from tiercache import AgentCache, LlmOptions, ResilienceOptions, UsageError


class Counter:
    """A plain generator of numbers.

    Attributes:
        started: The arguments of its runs.
        threads: The thread of each step.
        ended: Is set at the end of a run.
    """

    def __init__(self) -> None:
        self.started: list[int] = []
        self.threads: list[int] = []
        self.ended = threading.Event()

    def __call__(self, last: int) -> Iterator[int]:
        self.started.append(last)
        try:
            for number in range(last):
                self.threads.append(threading.get_ident())
                yield number
        finally:
            self.ended.set()


def decorated(cache: AgentCache, counter: Counter, **options: Any) -> Any:
    def count(last: int) -> Iterator[int]:
        yield from counter(last)

    return cache.sync.memoize(**options)(count)


def in_plain_code(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.fixture
def plain_cache(url: str) -> Iterator[AgentCache]:
    cache = AgentCache.from_url(url, name="test")
    yield cache
    cache.sync.close()


def test_plain_generator_runs_in_the_thread_of_its_reader_and_is_replayed(plain_cache: AgentCache) -> None:
    counter = Counter()
    count = decorated(plain_cache, counter)
    assert [list(count(3)), list(count(3))] == [[0, 1, 2]] * 2
    assert counter.started == [3]
    assert set(counter.threads) == {threading.get_ident()}


def test_plain_generator_whose_reader_breaks_is_closed_and_not_stored(plain_cache: AgentCache) -> None:
    counter = Counter()
    count = decorated(plain_cache, counter)
    for item in count(5):
        if item == 1:
            break
    assert counter.ended.wait(5)
    assert len(counter.threads) == 2
    assert not count.is_cached(5)
    items = count(5)
    assert next(items) == 0
    items.close()
    assert list(items) == []
    assert list(count(5)) == [0, 1, 2, 3, 4]
    assert counter.started == [5, 5, 5]


def test_plain_generator_makes_each_item_in_the_thread_that_waits_for_it(plain_cache: AgentCache) -> None:
    counter = Counter()
    count = decorated(plain_cache, counter)
    with ThreadPoolExecutor(1) as pool:
        mine, theirs = count(4), count(4)
        other = pool.submit(threading.get_ident).result()
        assert next(mine) == pool.submit(next, theirs).result() == 0
        assert pool.submit(next, theirs).result() == 1
        assert [next(mine), next(mine)] == [1, 2]
        assert pool.submit(list, theirs).result() == [2, 3]
        assert list(mine) == [3]
    own = threading.get_ident()
    assert counter.threads == [own, other, own, other]
    assert counter.started == [4]


def test_methods_of_a_plain_generator_act_on_its_items(plain_cache: AgentCache) -> None:
    counter = Counter()
    count = decorated(plain_cache, counter, key="{last}", name="count")
    assert list(count.refresh(2)) == [0, 1]
    assert count.is_cached(2)
    assert count.explain(2).source == "l1"
    count.set((number for number in [5]), 2)
    assert list(count(2)) == [5]
    assert count.key(2) == "test:__tc:kv:memo:count:1:2"
    assert count.invalidate(2)
    assert list(count(2)) == [0, 1]
    assert count.clear() == 1
    assert count.metrics().misses == 2
    assert repr(count) == "<CachedGenerator count:1>"


def test_plain_generator_raises_its_error_after_its_items(plain_cache: AgentCache) -> None:
    @plain_cache.sync.memoize
    def count() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    for _ in range(2):
        items = count()
        assert next(items) == 1
        with pytest.raises(LookupError, match="no more"):
            next(items)
    assert not count.is_cached()


def test_plain_generator_is_left_alone_where_when_says_so(plain_cache: AgentCache) -> None:
    counter = Counter()
    count = decorated(plain_cache, counter, when=lambda last: last > 3)
    assert list(count(3)) == list(count(3)) == [0, 1, 2]
    assert counter.started == [3, 3]
    assert count.metrics().skipped == 2


def test_plain_generator_method_takes_its_instance(plain_cache: AgentCache) -> None:
    class Index:
        tenant = "acme"

        @plain_cache.sync.memoize(instance_key=lambda self: self.tenant)
        def find(self, text: str) -> Iterator[str]:
            yield f"{text} of {self.tenant}"

    assert list(Index().find("a")) == list(Index.find(Index(), "a")) == ["a of acme"]


def test_plain_generator_that_makes_an_item_while_the_cache_closes_ends_after_it(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = AgentCache.from_url(url, name="test", resilience=ResilienceOptions(drain_timeout=0.01))
    begun, released = threading.Event(), threading.Event()
    counter = Counter()

    @cache.sync.memoize
    def count() -> Iterator[int]:
        for number in counter(5):
            begun.set()
            released.wait(5)
            yield number

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, count())
        assert begun.wait(5)
        cache.sync.close()
        released.set()
        with pytest.raises(UsageError, match="closed"):
            reading.result()
    gc.collect()
    assert counter.ended.wait(5)
    assert len(counter.threads) == 1
    assert not any("when it was closed" in record.message for record in caplog.records)


async def test_generators_of_both_faces_share_their_items(make_cache: MakeCache) -> None:
    cache = make_cache(name="test")
    started = []

    async def items(last: int) -> AsyncIterator[int]:
        started.append("async")
        for number in range(last):
            yield number

    def plain_items(last: int) -> Iterator[int]:
        started.append("plain")
        yield from range(last)

    count, plain_count = cache.memoize(name="count")(items), cache.sync.memoize(name="count")(plain_items)
    assert [item async for item in count(3)] == [0, 1, 2]
    assert in_plain_code(lambda: list(plain_count(3))) == [0, 1, 2]
    assert started == ["async"]


async def test_generator_that_is_a_tool_has_the_entry_of_the_tool(cache: AgentCache) -> None:
    started = []

    @cache.tool.cached("search", cost=0.5)
    async def search(text: str, limit: int = 2) -> AsyncIterator[dict[str, int]]:
        started.append(text)
        for number in range(limit):
            yield {text: number}

    for _ in range(2):
        assert [item async for item in search("a")] == [{"a": 0}, {"a": 1}]
    assert started == ["a"]
    found = await cache.tool.check("search", {"text": "a", "limit": 2})
    assert found.value == [{"a": 0}, {"a": 1}]
    assert await cache.tool.invalidate_by_tool("search") == 1
    await search.set([{"b": 1}], "a")
    assert [item async for item in search("a")] == [{"b": 1}]
    async for _ in search("b"):
        break
    assert not await search.is_cached("b")


@pytest.mark.parametrize(("pinned", "items"), [(["a", "b"], ["a", "b"]), ({"a": 1}, [{"a": 1}])])
async def test_pinned_result_of_a_tool_wins_over_its_generator(cache: AgentCache, pinned: Any, items: Any) -> None:
    @cache.tool.cached("search")
    async def search(text: str) -> AsyncIterator[Any]:
        yield "made"

    assert [item async for item in search("a")] == ["made"]
    await cache.tool.pin("search", {"text": "a"}, pinned)
    for _ in range(2):
        assert [item async for item in search("a")] == items


def test_plain_generator_that_is_a_tool_has_the_entry_of_the_tool(plain_cache: AgentCache) -> None:
    @plain_cache.sync.tool.cached(ttl=60)
    def search(text: str) -> Iterator[str]:
        yield text
        yield text

    assert list(search("a")) == list(search("a")) == ["a", "a"]
    assert plain_cache.sync.tool.check("search", {"text": "a"}).value == ["a", "a"]


async def test_generator_of_the_other_face_is_refused_at_its_decoration(memory: AgentCache) -> None:
    def plain() -> Any:
        yield 1

    async def items() -> Any:
        yield 1

    for decorate in (memory.memoize, memory.tool.cached, memory.llm.cached):
        with pytest.raises(UsageError, match=r"is not async: cache\.sync\.(memoize|(tool|llm)\.cached)"):
            decorate(plain)
    for decorate in (memory.sync.memoize, memory.sync.tool.cached, memory.sync.llm.cached):
        with pytest.raises(UsageError, match=r"without cache\.sync"):
            decorate(items)
    with pytest.raises(UsageError, match="is a generator"):
        memory.memoize_many(items)
    with pytest.raises(UsageError, match="is a generator"):
        memory.sync.memoize_many(plain)


QUESTION = [{"role": "user", "content": "Hi"}]


async def test_parts_of_a_model_answer_are_replayed_and_stored_as_one_answer(make_cache: MakeCache) -> None:
    started = []
    parts = ["So", "", "fi\n", "a"]

    async def made(model: str, messages: list[dict[str, str]]) -> AsyncIterator[str]:
        started.append(model)
        for part in parts:
            yield part

    for _ in range(2):
        cache = make_cache(name="test")
        ask = cache.llm.cached(made)
        for _ in range(2):
            assert [part async for part in ask("m", QUESTION)] == parts
        found = await cache.llm.check({"model": "m", "messages": QUESTION})
        assert found.response == "Sofi\na"
        await cache.flush_writes()
    assert started == ["m"]
    await ask.set(["Ru", "se"], "m", QUESTION)
    assert [part async for part in ask("m", QUESTION)] == ["Ru", "se"]
    await cache.llm.store({"model": "m", "messages": QUESTION}, "Varna")
    assert [part async for part in ask("m", QUESTION)] == ["Varna"]
    assert await cache.llm.invalidate_by_model("m") == 1
    with pytest.raises(UsageError, match="each a str"):
        await ask.set([5], "m", QUESTION)  # type: ignore[list-item]


async def test_parts_that_are_no_text_reach_their_reader_and_are_not_stored(memory: AgentCache) -> None:
    started = []

    @memory.llm.cached
    async def ask(model: str, messages: list[dict[str, str]]) -> AsyncIterator[Any]:
        started.append(model)
        yield "So"
        yield 5

    for _ in range(2):
        assert [part async for part in ask("m", QUESTION)] == ["So", 5]
    assert started == ["m", "m"]
    assert memory.local_stats().tiers["llm"].unstorable == 2


@pytest.mark.parametrize(("on_abandon", "is_stored"), [(None, False), ("cancel", False), ("finish", True)])
async def test_model_stream_without_readers_is_finished_only_with_on_abandon_finish(
    make_cache: MakeCache, on_abandon: Any, is_stored: bool
) -> None:
    cache = make_cache(name="test", llm=LlmOptions(on_abandon=on_abandon))
    ends = []

    @cache.llm.cached
    async def ask(model: str, messages: list[dict[str, str]]) -> AsyncIterator[str]:
        try:
            yield "So"
            yield "fia"
            ends.append("end")
        except GeneratorExit:
            ends.append("closed")
            raise

    async for _ in ask("m", QUESTION):
        break
    await until(lambda: ends)
    assert ends == ["end" if is_stored else "closed"]
    assert await ask.is_cached("m", QUESTION) == is_stored


def test_plain_generator_that_calls_a_model_is_replayed(plain_cache: AgentCache) -> None:
    @plain_cache.sync.llm.cached(ttl=60)
    def ask(model: str, messages: list[dict[str, str]]) -> Iterator[str]:
        yield "So"
        yield "fia"

    assert list(ask("m", QUESTION)) == list(ask("m", QUESTION)) == ["So", "fia"]
    assert plain_cache.sync.llm.check({"model": "m", "messages": QUESTION}).response == "Sofia"
