"""A user's program: the type of each value is the type that its loader returns, and the values have these types."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, Literal, TypedDict, assert_type

from valkey.asyncio import Valkey

from tiercache import (
    MISS,
    Admission,
    AgentCache,
    AgentCall,
    Entry,
    ErrorEvent,
    HitEvent,
    InvalidateEvent,
    KvResult,
    LlmResponse,
    LlmResult,
    LoadEvent,
    Pin,
    RuntimeSettings,
    StoreEvent,
    TierOptions,
    ToolResult,
    WarmProgress,
    WarmReport,
)

Mode = Literal["use", "only_cached"]


class Profile(TypedDict):
    name: str
    visits: int


class Searcher:
    cache = AgentCache.in_memory()

    @cache.memoize(ttl="1h", key="{text}")
    async def search(self, text: str, limit: int = 5) -> list[str]:
        return [text] * limit

    @cache.memoize(key="pages:{text}")
    async def pages(self, text: str) -> AsyncIterator[str]:
        yield text

    @classmethod
    @cache.memoize
    async def of_class(cls, number: int) -> int:
        return number

    @staticmethod
    @cache.memoize
    async def static(number: int) -> int:
        return number


def scoped(cache: AgentCache, tenant: ContextVar[str]) -> None:
    with cache.calls(scope=tenant.get), cache.sync.calls(scope="acme"):
        cache.tier("named", TierOptions(scope=tenant.get))
        cache.memoize(scope=lambda: "acme")
        cache.sync.tool.cached("t", scope=tenant.get)


def with_servers(client: Valkey) -> AgentCache:
    clients = {"session": client, "embed": client}
    AgentCache.in_memory(clients=clients)
    AgentCache.embedded(clients={"session": "valkey://state:6379"})
    return AgentCache.from_url("valkey://cache:6379", clients={"session": client, "embed": "valkey://state:6379/1"})


async def per_run(cache: AgentCache) -> None:
    @cache.memoize(per_run=True, ttl=60)
    async def double(number: int) -> int:
        return 2 * number

    @cache.sync.tool.cached("halve", per_run=True)
    def halve(number: int) -> float:
        return number / 2

    async with cache.agent():
        assert_type(await double(5), int)
        assert_type(await cache.tool.get_or_load("double", {"number": 5}, double, per_run=True), ToolResult[int])
    with cache.sync.agent():
        assert_type(halve(5), float)


async def decorated(cache: AgentCache) -> None:
    @cache.memoize
    async def double(number: int, times: int = 2) -> int:
        return number * times

    assert_type(await double(5, times=3), int)
    assert_type(await double.refresh(5), int)
    assert_type(double.key(5), str)
    assert_type(await double.is_cached(5), bool)
    await double.set(10, 5)
    searcher = Searcher()
    assert_type(await searcher.search("a", limit=2), list[str])
    assert_type(searcher.search.key("a"), str)
    assert_type(await Searcher.search(searcher, "a"), list[str])
    assert_type(await searcher.of_class(5), int)
    assert_type(await Searcher.static(5), int)
    assert_type([text async for text in searcher.pages("a")], list[str])
    await Searcher.cache.aclose()

    @cache.tool.cached("weather", ttl=60)
    async def get_weather(city: str) -> Profile:
        return {"name": city, "visits": 1}

    assert_type(await get_weather("Sofia"), Profile)

    @cache.llm.cached
    async def ask(model: str, messages: list[dict[str, str]]) -> str:
        return "Hi"

    assert_type(await ask("m", []), str)

    @cache.memoize_many(ttl="1d")
    async def embed(texts: list[str], model: str = "small") -> list[list[float]]:
        return [[float(len(text))] for text in texts]

    assert_type(await embed(["a"], model="large"), list[list[float]])
    assert_type(embed.key("a"), str)
    assert_type(await embed.invalidate(["a"]), int)


async def generators(cache: AgentCache) -> None:
    @cache.memoize
    async def numbers(last: int, step: int = 1) -> AsyncIterator[int]:
        for number in range(0, last, step):
            yield number

    @cache.tool.cached("names", ttl=60)
    async def names(last: int) -> AsyncGenerator[Profile, None]:
        for number in range(last):
            yield {"name": str(number), "visits": number}

    @cache.memoize(ttl="1h", store_when=bool)
    async def texts(last: int) -> AsyncIterator[str]:
        for number in range(last):
            yield str(number)

    @cache.llm.cached
    async def ask(model: str, messages: list[dict[str, str]]) -> AsyncIterator[str]:
        yield "Hi"

    @cache.llm.cached(ttl=60)
    async def ask_again(params: dict[str, Any]) -> AsyncIterator[str]:
        yield "Hi"

    assert_type([part async for part in ask("m", [])], list[str])
    assert_type([part async for part in ask_again({"model": "m", "messages": []})], list[str])
    assert_type([number async for number in numbers(4, step=2)], list[int])
    assert_type([name async for name in names(2)], list[Profile])
    assert_type([text async for text in texts.refresh(2)], list[str])
    assert_type(numbers.key(4), str)
    assert_type(await texts.is_cached(2), bool)
    await texts.set(["a"], 2)
    async with aclosing(numbers(3)) as items:
        assert_type(await anext(items), int)


class Lookup:
    async def __call__(self, key: str) -> int:
        return len(key)


def plain() -> int:
    return 1


def of_key(key: str) -> str:
    return key


async def profile_of(key: str) -> Profile:
    return {"name": key, "visits": 1}


async def vector() -> list[float]:
    return [0.5]


async def maybe(key: str, suffix: str = "!") -> str | None:
    return key + suffix


def untyped(key: str) -> Any:
    return {"key": key}


async def lengths(keys: list[str]) -> dict[str, int]:
    return {key: len(key) for key in keys}


def profiles(keys: list[str]) -> list[Profile]:
    return [{"name": key, "visits": 0} for key in keys]


async def known(keys: list[str]) -> list[int | LookupError]:
    return [len(key) if key else LookupError(key) for key in keys]


async def weather(city: str, unit: str = "C") -> Profile:
    return {"name": f"{city} in {unit}", "visits": 21}


async def weathers(calls: list[dict[str, Any]]) -> list[float]:
    return [float(len(call["city"])) for call in calls]


async def answers(requests: list[dict[str, Any]]) -> list[str | LlmResponse]:
    return [LlmResponse(request["model"]) for request in requests]


async def kv_values(cache: AgentCache) -> None:
    """One loader for one key."""
    kv = cache.kv
    number = await kv.get_or_load("plain", plain)
    assert_type(number, KvResult[int])
    assert_type(number.value, int)
    assert_type((await kv.get_or_load("of key", of_key)).value, str)
    assert_type((await kv.get_or_load("vector", vector, ttl="1h")).value, list[float])
    assert_type((await kv.get_or_load("maybe", maybe)).value, str | None)
    assert_type((await kv.get_or_load("untyped", untyped)).value, Any)
    assert_type((await kv.get_or_load("lookup", Lookup())).value, int)
    assert_type((await kv.get_or_load("bytes", lambda: b"x")).value, bytes)
    profile = (await kv.get_or_load("ann", profile_of)).value
    assert_type(profile, Profile)
    assert (profile["name"], profile["visits"]) == ("ann", 1)
    later = (await kv.get_or_load("ann", lambda: profile_of("ann"))).value
    assert_type(later, Profile)
    assert later == profile


async def kv_modes(cache: AgentCache, mode: Mode) -> None:
    """A lookup that loads nothing may have no value."""
    found = await cache.kv.get_or_load("unknown", plain, mode="only_cached")
    assert found.value is MISS
    assert_type((await cache.kv.get_or_load("plain", plain, mode=mode)).value, int)
    cached = (await cache.kv.get_or_load("plain", plain, mode="only_cached")).value
    if cached is not MISS:
        assert_type(cached, int)
        assert cached == 1


async def kv_reads(cache: AgentCache) -> None:
    """A read without a loader does not know the type of the value."""
    assert_type(await cache.kv.get("plain"), Any)
    assert_type(await cache.kv.get("plain", MISS), Any)
    assert_type(await cache.kv.get_many(["plain"]), dict[str, Any])
    count: int = await cache.kv.get("plain", 0)
    assert count == 1


async def kv_many(cache: AgentCache) -> None:
    """One loader for many keys, and a loader that collects keys."""
    assert_type(await cache.kv.get_or_load_many(["a", "bb"], lengths), dict[str, int])
    assert_type(await cache.kv.get_or_load_many(["ann"], profiles), dict[str, Profile])
    assert_type(await cache.kv.get_or_load_many(["c"], lambda keys: [1.5 for _ in keys]), dict[str, float])
    collected = cache.kv.batch_loader(lengths_in_order)
    assert_type((await cache.kv.get_or_load("ddd", collected)).value, int)
    assert_type((await cache.kv.get_or_load("eeee", cache.kv.batch_loader(known))).value, int)


async def lengths_in_order(keys: list[str]) -> list[int]:
    return [len(key) for key in keys]


async def tool_values(cache: AgentCache) -> None:
    """Results of tools."""
    result = await cache.tool.get_or_load("weather", {"city": "Sofia"}, weather)
    assert_type(result, ToolResult[Profile])
    assert_type(result.value, Profile)
    assert_type(result.response, str | Any)
    assert result.value["name"] == "Sofia in C"
    key = cache.tool.key("weather", {"city": "Sofia"})
    assert_type((await cache.tool.get_or_load(key, weather, cost=0.1)).value, Profile)
    assert_type((await cache.tool.get_or_load("numbers", None, lambda: [1, 2])).value, list[int])
    assert_type((await cache.tool.get_or_load("unknown", None, plain, mode="only_cached")).value, int | None)
    assert_type((await cache.tool.get_or_load(key, weather, mode="only_cached")).value, Profile | None)
    assert_type((await cache.tool.check("weather", {"city": "Sofia"})).value, Any)
    collected = cache.tool.batch_loader(weathers)
    assert_type((await cache.tool.get_or_load("degrees", {"city": "Ruse"}, collected)).value, float)


async def text() -> str:
    """Return a text; its coroutine is a loader."""
    return "Hi"


async def awaitables(cache: AgentCache) -> None:
    """The coroutine of an async function is a loader."""
    assert_type((await cache.kv.get_or_load("text", text())).value, str)
    assert_type((await cache.tool.get_or_load("text", None, text())).value, str)


async def llm_values(cache: AgentCache, params: dict[str, Any]) -> None:
    """Answers of models have one type."""
    assert_type(await cache.llm.get_or_load(params, lambda: "Hi"), LlmResult)
    assert_type((await cache.llm.get_or_load(params, lambda: "Hi")).response, str | Any)
    assert_type(await cache.llm.get_or_load(params, text()), LlmResult)
    async with cache.agent():
        assert_type(await cache.llm.get_or_load(params, lambda: "Hi", per_run=True), LlmResult)
    collected = cache.llm.batch_loader(answers)
    other: dict[str, Any] = {**params, "seed": 1}
    assert (await cache.llm.get_or_load(other, collected)).response == "gpt-4o"


async def stores(cache: AgentCache, rows: Mapping[str, object], profile: Profile) -> None:
    """A value to store may have any type with a JSON form: tuples and keys that are numbers, too."""
    await cache.kv.set("pair", (1, 2))
    await cache.kv.set("by number", {1: "one"})
    await cache.kv.set("profile", profile)
    await cache.kv.set("bytes", b"x")
    await cache.kv.set_many({"a": 1, "b": [None]})
    await cache.tool.store("weather", {"city": "Ruse"}, profile)
    await cache.tool.store(cache.tool.key("rows", None), rows)
    await cache.session.set_json("thread", "profile", profile)
    await cache.session.append("thread", "items", ("a", 1))


def wider(result: KvResult[bool], other: ToolResult[bool]) -> tuple[KvResult[int], ToolResult[int]]:
    """Return results as results of a wider type: a result cannot be changed."""
    return result, other


async def agent_runs(cache: AgentCache) -> None:
    """Runs of agents."""
    async with cache.agent("run", on_loop=lambda error: print(error.kind, error.history)) as agent:
        assert_type(agent.session_id, str)
        assert_type(agent.history, list[AgentCall])
        assert_type(agent.metrics().cost_saved, float)


def is_cheap(admission: Admission) -> bool:
    assert_type(admission.size_bytes, int)
    assert_type(admission.cost, float | None)
    return admission.size_bytes < 1000


def observe(event: WarmProgress) -> None:
    assert_type(event.done, int)


async def operations(cache: AgentCache, params: dict[str, Any]) -> None:
    """Warm-ups, entries, pins, settings at run time."""
    admitting = cache.tier("admitting", TierOptions(admit=is_cheap))
    report = await admitting.warm(["a", "bb"], of_key, ttl="1h", concurrency=2, on_progress=observe)
    assert_type(report.loaded, int)
    assert_type([error for _, error in report.failed], list[BaseException])
    calls: list[tuple[str, Any]] = [("weather", {"city": "Pleven"})]
    assert_type(await cache.tool.warm(calls, weather, cost=0.1), WarmReport[tuple[str, Any]])
    assert_type([entry async for entry in admitting.scan(match="a*")], list[Entry])
    entry = await cache.kv.inspect("a")
    assert_type(entry.exists, bool)
    assert_type(entry.ttl, float | None)
    assert_type(await cache.llm.inspect(params), Entry)
    assert_type(await cache.tool.inspect("weather", {"city": "Pleven"}), Entry)
    assert_type(await admitting.delete_pattern("a*", dry_run=True), int)
    assert_type(await cache.llm.pin(params, "Hi"), str)
    assert_type(await cache.llm.pins(), list[Pin])
    assert_type(await cache.llm.unpin(params), bool)
    await cache.tool.pin("weather", {"city": "Pleven"}, {"name": "Pleven"}, cost=0.1)
    assert_type(await cache.tool.unpin(cache.tool.key("weather", {"city": "Pleven"})), bool)
    await cache.configure("tool", RuntimeSettings(ttl="10m", cost=0.1), tool="weather")
    assert_type(cache.settings("tool", tool="weather"), RuntimeSettings | None)
    await cache.configure("tool", None, tool="weather")


async def hooks(cache: AgentCache) -> None:
    """A hook keeps its type; plain and async functions are hooks."""

    @cache.on_hit
    def hit(event: HitEvent) -> str:
        return event.key

    @cache.on_load
    async def load(event: LoadEvent) -> None:
        assert_type(event.seconds, float)

    @cache.on_error
    def failed(event: ErrorEvent) -> None:
        print(event.error)

    @cache.on_store
    @cache.on_invalidate
    def note(event: StoreEvent | InvalidateEvent) -> None:
        print(event)

    assert_type(hit(HitEvent("kv", "k", "l1", None, None, None, None)), str)
    assert_type([cache.remove_hook(hook) for hook in (hit, load, failed, note)], list[bool])


async def main(cache: AgentCache) -> None:
    """Run every part against a cache."""
    await kv_values(cache)
    await kv_modes(cache, "use")
    await kv_reads(cache)
    await kv_many(cache)
    await tool_values(cache)
    await decorated(cache)
    await agent_runs(cache)
    await generators(cache)
    await llm_values(cache, {"model": "gpt-4o", "messages": []})
    await operations(cache, {"model": "gpt-4o", "messages": []})
    await hooks(cache)
    await stores(cache, {"a": 1}, {"name": "ann", "visits": 2})
