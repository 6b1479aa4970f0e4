"""A user's program whose marked lines each checker refuses: these values do not come back as they were returned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tiercache import AgentCache, RuntimeSettings, TierOptions


@dataclass
class User:
    name: str


async def user() -> User:
    return User("ann")


def user_of(key: str) -> User:
    return User(key)


def pair() -> tuple[int, int]:
    return 1, 2


def by_number() -> dict[int, str]:
    return {1: "one"}


def moment() -> datetime:
    return datetime(2026, 1, 1)


def numbers() -> set[int]:
    return {1}


def of_two(first: str, second: str) -> str:
    return first + second


def plain_number() -> int:
    return 1


def raw() -> bytes:
    return b"x"


async def users(keys: list[str]) -> dict[str, User]:
    return {key: User(key) for key in keys}


async def user_list(keys: list[str]) -> list[User]:
    return [User(key) for key in keys]


async def weather(city: str) -> User:
    return User(city)


def weathers(calls: list[dict[str, Any]]) -> list[User]:
    return [User(call["city"]) for call in calls]


async def number() -> int:
    return 1


async def user_items() -> AsyncIterator[User]:
    yield User("ann")


def plain_items() -> Iterator[int]:
    yield 1


async def loads(cache: AgentCache) -> None:
    """A loader's value has a JSON form of the same type."""
    await cache.kv.get_or_load("user", user)  # refused
    await cache.kv.get_or_load("user", user_of)  # refused
    await cache.kv.get_or_load("pair", pair)  # refused
    await cache.kv.get_or_load("by number", by_number)  # refused
    await cache.kv.get_or_load("moment", moment)  # refused
    await cache.kv.get_or_load("numbers", numbers)  # refused
    await cache.kv.get_or_load("two", of_two)  # refused
    await cache.kv.get_or_load_many(["ann"], users)  # refused
    await cache.kv.get_or_load_many(["ann"], user_list)  # refused
    cache.kv.batch_loader(user_list)  # refused
    await cache.tool.get_or_load("user", None, user)  # refused
    await cache.tool.get_or_load("raw", None, raw)  # refused
    await cache.tool.get_or_load(cache.tool.key("weather", {"city": "Sofia"}), weather)  # refused
    cache.tool.batch_loader(weathers)  # refused
    await cache.llm.get_or_load({"model": "gpt-4o", "messages": []}, user)  # refused
    await cache.session.get_or_load("thread", "field", number)  # refused


async def values(cache: AgentCache) -> None:
    """The value has the type of the loader, and no other."""
    count = (await cache.kv.get_or_load("number", number)).value
    count.upper()  # refused
    print((await cache.kv.get_or_load("number", number)).response)  # refused
    print((await cache.tool.get_or_load("number", None, number)).response.value)  # refused
    text: str = (await cache.tool.get_or_load("number", None, number)).value  # refused
    maybe: int = (await cache.kv.get_or_load("number", number, mode="only_cached")).value  # refused
    print(text, maybe)


async def stores(cache: AgentCache) -> None:
    """A stored value has a JSON form."""
    await cache.kv.set("user", User("ann"))  # refused
    await cache.kv.set("numbers", {1, 2})  # refused
    await cache.kv.set_many({"user": User("ann")})  # refused
    await cache.tool.store("user", None, User("ann"))  # refused
    await cache.tool.store("raw", None, b"x")  # refused
    await cache.session.set_json("thread", "field", User("ann"))  # refused
    await cache.session.append("thread", "field", User("ann"))  # refused


async def decorated(cache: AgentCache) -> None:
    """A decorated function takes its own arguments, and returns its own type, which has a JSON form."""

    @cache.memoize(ttl=60)
    async def search(text: str, limit: int = 5) -> list[str]:
        return [text] * limit

    await search(5)  # refused
    await search.invalidate()  # refused
    search.key("a", size=5)  # refused
    number: int = await search("a")  # refused
    await search.set(5, "a")  # refused
    print(number)
    cache.memoize(user)  # refused
    cache.memoize(plain_number)  # refused

    @cache.memoize_many
    async def embed(texts: list[str], model: str = "small") -> dict[str, float]:
        return dict.fromkeys(texts, 0.5)

    await embed([5])  # refused
    await embed(["a"], size=5)  # refused
    embed.key(5)  # refused
    cache.memoize_many(user_list)  # refused

    @cache.memoize(ttl=60)
    async def texts(last: int) -> AsyncIterator[str]:
        yield str(last)

    texts("a")  # refused
    await texts(5)  # refused
    first: int = await anext(texts(5))  # refused
    await texts.set([5], 5)  # refused
    print(first)
    cache.memoize(user_items)  # refused
    cache.memoize(plain_items)  # refused
    cache.sync.memoize(user_items)  # refused
    cache.llm.cached(user_items)  # refused
    cache.memoize(ttll=60)  # refused
    cache.sync.memoize(user_of)  # refused


def agent_runs(cache: AgentCache) -> None:
    """A run takes a known answer to loops, and a plain run is for plain code."""
    cache.agent(on_loop="stop")  # refused
    with cache.agent():  # refused
        pass


def on_key(event: str) -> None:
    print(event)


def is_small(size: int) -> bool:
    return size < 1000


async def operations(cache: AgentCache) -> None:
    """Hooks, pins, settings and warm-ups take arguments of their types."""
    cache.on_hit(on_key)  # refused
    cache.sync.on_load(on_key)  # refused
    TierOptions(admit=is_small)  # refused
    await cache.kv.inspect(5)  # refused
    await cache.kv.delete_pattern("a*", dry_run="yes")  # refused
    await cache.configure("kv", {"ttl": 5})  # refused
    RuntimeSettings(enabled="no")  # refused
    AgentCache.in_memory(clients={"session": 5})  # refused
    cache.memoize(per_run="yes")  # refused
    await cache.llm.pin({"model": "m", "messages": []}, 5)  # refused
    await cache.kv.warm(["a"], concurrency="2")  # refused
    for _ in cache.kv.scan():  # refused
        pass


def plain_code(cache: AgentCache) -> None:
    """``cache.sync`` refuses the same, and returns values instead of coroutines."""
    cache.sync.kv.get_or_load("user", user)  # refused
    cache.sync.tool.get_or_load("raw", None, raw)  # refused
    cache.sync.kv.set("user", User("ann"))  # refused
    text: str = cache.sync.kv.get_or_load("number", number).value  # refused
    print(text)
