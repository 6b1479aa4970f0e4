"""The items: the keys under load, and the operations of a cache on each.

The role of an item is one of these:

loaded   Every process loads and invalidates these keys, one by one, by tag, by tool and by model.
cleared  As loaded, in a kv tier of its own that processes clear.
stored   One process alone stores and removes each of these keys, because no promise says which of two concurrent stores
         of different processes is the last. Every process reads them.
passing  Each of these keys is used once. They show whether something grows with the number of keys.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ...agent_cache import AgentCache
from ...tiers.kv.tier import KvTier

__all__ = [
    "MODEL_COUNT",
    "TAG_COUNT",
    "TOOL_COUNT",
    "Item",
    "Tier",
    "get_or_load",
    "kv_tier",
    "look_up",
    "model_of",
    "remove",
    "store",
    "tool_of",
]

Tier: TypeAlias = Literal["llm", "tool", "kv", "session"]
Mode: TypeAlias = Literal["use", "refresh", "bypass"]

TOOL_COUNT: Final = 5
MODEL_COUNT: Final = 4
TAG_COUNT: Final = 25


class Item(NamedTuple):
    """One key. For a session ``number`` is the thread, and ``field`` its field."""

    tier: Tier
    role: str
    number: int
    field: int = 0

    @property
    def key(self) -> str:
        """The name of the key in the ledger and in its values."""
        return f"{self.tier}.{self.role}.{self.number}.{self.field}"

    @property
    def thread(self) -> str:
        """The thread of a session."""
        return f"{self.role}-{self.number}"

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that every call gives."""
        if self.tier == "session" or self.role == "cleared":
            return ()
        number = self.number if self.role == "passing" else self.number % TAG_COUNT
        return (f"{self.role}-{number}",)

    @property
    def request(self) -> dict[str, Any]:
        """The params of a model call."""
        return {"model": model_of(self), "messages": [{"role": "user", "content": str(self.number)}]}

    @property
    def args(self) -> dict[str, Any]:
        """The arguments of a tool call."""
        return {"number": self.number}


def tool_of(item: Item) -> str:
    """Return the tool of an item."""
    return f"{item.role}_{item.number % TOOL_COUNT}"


def model_of(item: Item) -> str:
    """Return the model of an item."""
    return f"{item.role}-model-{item.number % MODEL_COUNT}"


def kv_tier(cache: AgentCache, role: str) -> KvTier:
    """Return the kv tier of a role."""
    return cache.tier(role)


async def get_or_load(
    cache: AgentCache, item: Item, load: Callable[[], Awaitable[str]], mode: Mode = "use"
) -> tuple[object, str | None]:
    """Return the value of an item, and the source that the cache reports. A session has no loads."""
    tags = item.tags
    match item.tier:
        case "llm":
            answer = await cache.llm.get_or_load(item.request, load, mode=mode, tags=tags)
            return answer.response, answer.source
        case "tool":
            call = await cache.tool.get_or_load(tool_of(item), item.args, _plain(load), mode=mode, tags=tags)
            return call.response, call.source
        case "kv":
            value = await kv_tier(cache, item.role).get_or_load(str(item.number), _plain(load), mode=mode, tags=tags)
            return value.value, value.source
        case "session":
            return await look_up(cache, item), None


async def look_up(cache: AgentCache, item: Item) -> object:
    """Return the value of an item, or None, without a load."""
    match item.tier:
        case "llm":
            return (await cache.llm.check(item.request)).response
        case "tool":
            return (await cache.tool.check(tool_of(item), item.args)).response
        case "kv":
            return await kv_tier(cache, item.role).get(str(item.number))
        case "session":
            return await cache.session.get(item.thread, str(item.field))


async def store(cache: AgentCache, item: Item, value: str) -> None:
    """Store the value of an item, with its tags."""
    match item.tier:
        case "llm":
            await cache.llm.store(item.request, value, tags=item.tags)
        case "tool":
            await cache.tool.store(tool_of(item), item.args, value, tags=item.tags)
        case "kv":
            await kv_tier(cache, item.role).set(str(item.number), value, tags=item.tags)
        case "session":
            await cache.session.set(item.thread, str(item.field), value)


async def remove(cache: AgentCache, items: Sequence[Item]) -> None:
    """Remove one item, or several items of one kv tier."""
    item = items[0]
    match item.tier:
        case "llm":
            await cache.llm.invalidate(item.request)
        case "tool":
            await cache.tool.invalidate(tool_of(item), item.args)
        case "kv" if len(items) > 1:
            await kv_tier(cache, item.role).delete_many([str(each.number) for each in items])
        case "kv":
            await kv_tier(cache, item.role).delete(str(item.number))
        case "session":
            await cache.session.delete(item.thread, str(item.field))


def _plain(load: Callable[[], Awaitable[str]]) -> Callable[[], Awaitable[str]]:
    """Return a loader without parameters: a tool loader that takes any would get the arguments."""

    async def call() -> str:
        return await load()

    return call
