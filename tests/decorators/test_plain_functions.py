"""``cache.sync.memoize``, ``cache.sync.tool.cached`` and ``cache.sync.llm.cached``: plain functions, many threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tiercache import AgentCache, LlmResponse, UsageError


@pytest.fixture
def plain_cache(url: str) -> Iterator[AgentCache]:
    """Return a cache on the server whose async face is never used."""
    cache = AgentCache.from_url(url, name="test")
    yield cache
    cache.sync.close()


def test_plain_function_is_called_once_for_equal_calls_of_all_threads(plain_cache: AgentCache) -> None:
    calls: list[Any] = []
    gate = threading.Event()

    @plain_cache.sync.memoize(ttl=60)
    def search(text: str, limit: int = 5) -> list[Any]:
        gate.wait(30)
        calls.append((text, limit))
        return [text, limit]

    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(search("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert found == [["a", 5]] * 8
    assert calls == [("a", 5)]
    assert search(text="a", limit=5) == ["a", 5]
    metrics = search.metrics()
    assert metrics.misses + metrics.l1_hits == 9


def test_methods_of_a_plain_function(plain_cache: AgentCache) -> None:
    numbers = iter(range(100))

    @plain_cache.sync.memoize(name="search", key="{text}")
    def search(text: str) -> int:
        """Search."""
        return next(numbers)

    assert (search.__name__, search.__doc__) == ("search", "Search.")
    assert [search("a"), search("a"), search.refresh("a"), search("a")] == [0, 0, 1, 1]
    assert search.key("a") == "test:__tc:kv:memo:search:1:a"
    assert search.is_cached("a")
    assert search.result("a").source == "l1"
    assert search.explain("a").source == "l1"
    assert search.invalidate("a")
    assert not search.is_cached("a")
    search.set(50, "a")
    assert search("a") == 50
    assert search.clear() == 1
    assert repr(search) == "<Cached search:1>"


def test_plain_methods_of_instances(plain_cache: AgentCache) -> None:
    class Searcher:
        def __init__(self, user: str) -> None:
            self.user = user

        @plain_cache.sync.memoize(instance_key=lambda self: self.user)
        def search(self, text: str) -> str:
            return f"{text} of {self.user}"

    ada, bob = Searcher("ada"), Searcher("bob")
    for _ in range(2):
        assert [ada.search("a"), bob.search("a"), Searcher.search(bob, "a")] == ["a of ada", "a of bob", "a of bob"]
    assert ada.search.is_cached("a")
    assert not Searcher("eve").search.is_cached("a")


def test_plain_tools_and_model_calls(plain_cache: AgentCache) -> None:
    calls: list[str] = []

    @plain_cache.sync.tool.cached("weather", ttl=60)
    def get_weather(city: str) -> dict[str, str]:
        calls.append(city)
        return {"city": city}

    @plain_cache.sync.llm.cached
    def ask(model: str, messages: list[Any]) -> LlmResponse:
        calls.append(model)
        return LlmResponse("Hi", tokens={"input": 1, "output": 1})

    for _ in range(2):
        assert get_weather("Sofia") == {"city": "Sofia"}
        assert ask("gpt-4o", []) == LlmResponse("Hi", tokens={"input": 1, "output": 1})
    assert calls == ["Sofia", "gpt-4o"]
    assert plain_cache.sync.tool.check("weather", {"city": "Sofia"}).value == {"city": "Sofia"}


def test_error_of_a_plain_function_reaches_the_caller(plain_cache: AgentCache) -> None:
    @plain_cache.sync.memoize
    def search(text: str) -> str:
        raise LookupError(text)

    with pytest.raises(LookupError, match="a"):
        search("a")
    with pytest.raises(TypeError, match="missing a required argument"):
        search()  # type: ignore[call-arg]


async def test_plain_and_async_function_share_their_values(cache: AgentCache) -> None:
    @cache.sync.memoize(name="search")
    def search(text: str) -> str:
        return f"plain {text}"

    @cache.memoize(name="search")
    async def search_async(text: str) -> str:
        return f"async {text}"

    assert await asyncio.to_thread(search, "a") == "plain a"
    await asyncio.to_thread(cache.sync.flush_writes)
    assert await search_async("a") == "plain a"


def test_async_function_is_refused(plain_cache: AgentCache) -> None:
    async def search(text: str) -> str:
        return text

    for decorate in (plain_cache.sync.memoize, plain_cache.sync.tool.cached, plain_cache.sync.llm.cached):
        with pytest.raises(UsageError, match=r"is async: decorate it without cache\.sync"):
            decorate(search)  # type: ignore[operator]
