"""A user's program without ``await``: ``cache.sync`` has the types of the async cache."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, Literal, TypedDict, assert_type

from tiercache import (
    MISS,
    AgentCache,
    Entry,
    HitEvent,
    KvResult,
    LlmResponse,
    LlmResult,
    Pin,
    RuntimeSettings,
    StoreEvent,
    SyncCache,
    ToolResult,
    WarmReport,
)

Mode = Literal["use", "only_cached"]


class Profile(TypedDict):
    name: str
    visits: int


def number() -> int:
    return 1


def profile_of(key: str) -> Profile:
    return {"name": key, "visits": 1}


async def vector() -> list[float]:
    return [0.5]


def lengths(keys: list[str]) -> dict[str, int]:
    return {key: len(key) for key in keys}


def squares(calls: list[dict[str, Any]]) -> list[int]:
    return [int(call["number"]) ** 2 for call in calls]


def square(number: int) -> int:
    return number**2


def answer(params: Mapping[str, Any]) -> LlmResponse:
    return LlmResponse(str(params["model"]))


def rename(name: str, times: int) -> str:
    return name * times


def loads(cache: SyncCache) -> None:
    result = cache.kv.get_or_load("number", number)
    assert_type(result, KvResult[int])
    assert result.value == 1
    assert_type(cache.kv.get_or_load("profile", profile_of).value, Profile)
    assert_type(cache.kv.get_or_load("vector", vector).value, list[float])
    only = cache.kv.get_or_load("absent", number, mode="only_cached").value
    if only is not MISS:
        assert_type(only, int)
    assert_type(cache.kv.get_or_load_many(["a", "bb"], lengths), dict[str, int])
    called = cache.tool.get_or_load("square", {"number": 3}, square)
    assert_type(called, ToolResult[int])
    assert called.value == 9
    assert_type(cache.tool.get_or_load(cache.tool.key("square", {"number": 4}), square).value, int)
    batched = cache.tool.get_or_load("square", {"number": 5}, cache.tool.batch_loader(squares))
    assert_type(batched.value, int)
    params = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    assert_type(cache.llm.get_or_load(params, answer), LlmResult)
    assert_type(cache.llm.get_or_load(cache.llm.key(params), lambda: "text"), LlmResult)
    assert_type(cache.session.get_or_load("thread", "field", lambda: "text"), str)


def changes(cache: SyncCache) -> None:
    guarded = cache.invalidates("tag")(rename)
    assert_type(guarded("ab", times=2), str)
    with cache.kv.invalidates("number"):
        cache.kv.set("number", 2)
    assert_type(cache.tier("named").delete("number"), bool)
    assert_type(cache.session.incr("thread", "count"), int)
    assert_type(cache.flush(), int)


def decorated(cache: SyncCache) -> None:
    @cache.memoize(key="{number}")
    def double(number: int, times: int = 2) -> int:
        return number * times

    assert_type(double(5, times=3), int)
    assert_type(double.refresh(5), int)
    assert_type(double.is_cached(5), bool)

    @cache.memoize
    def numbers(last: int) -> Iterator[int]:
        yield from range(last)

    @cache.tool.cached("names", ttl=60)
    def names(last: int) -> Generator[str, None, None]:
        yield from "ab"

    assert_type(list(numbers(4)), list[int])
    assert_type(list(names.refresh(4)), list[str])
    numbers.set([1], 4)

    @cache.tool.cached
    def get_weather(city: str) -> dict[str, str]:
        return {"city": city}

    assert_type(get_weather("Sofia"), dict[str, str])


def operations(cache: SyncCache) -> None:
    assert_type(cache.kv.warm(["a", "bb"], profile_of, concurrency=2), WarmReport[str])
    assert_type(list(cache.kv.scan(match="a*")), list[Entry])
    assert_type(cache.kv.inspect("a"), Entry)
    assert_type(cache.kv.delete_pattern("a*", dry_run=True), int)
    params = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    assert_type(cache.llm.pin(params, "Hi"), str)
    assert_type(cache.llm.pins(), list[Pin])
    assert_type(cache.llm.unpin(params), bool)
    cache.configure("kv", RuntimeSettings(ttl="10m"))
    assert_type(cache.settings("kv"), RuntimeSettings | None)
    cache.configure("kv", None)

    @cache.on_hit
    def hit(event: HitEvent) -> str:
        return event.key

    @cache.on_store
    async def stored(event: StoreEvent) -> None:
        assert_type(event.size_bytes, int | None)

    assert_type([cache.remove_hook(hit), cache.remove_hook(stored)], list[bool])


def main(cache: AgentCache) -> None:
    assert_type(cache.sync, SyncCache)
    loads(cache.sync)
    changes(cache.sync)
    decorated(cache.sync)
    operations(cache.sync)
