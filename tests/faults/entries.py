"""The entries of a run: how a cache reads and stores them, and the bytes that Valkey holds for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import valkey

from tests.faults.server import NAME
from tests.requests import asking
from tiercache import AgentCache

__all__ = ["LOADED", "NEW", "OLD", "TAG", "Entry"]

# The values: stored before the fault, stored during it, loaded during it.
OLD: Final = "the old value"
NEW: Final = "the new value"
LOADED: Final = "the loaded value"
TAG: Final = "tagged"


@dataclass(frozen=True)
class Entry:
    """An entry of one tier.

    Attributes:
        tier: llm, tool, kv or session, or the name of a further kv tier.
        name: The text that makes its key; for a session field the thread.
        group: The model or the tool.
        tags: Its tags.
    """

    tier: str
    name: str
    group: str = "common"
    tags: tuple[str, ...] = ()

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of an llm entry."""
        return asking(self.name, self.group)

    @property
    def args(self) -> dict[str, Any]:
        """The arguments of a tool entry."""
        return {"name": self.name}

    def key(self, cache: AgentCache) -> str:
        """Return the key in Valkey."""
        match self.tier:
            case "llm":
                return cache.llm.key(self.params).key
            case "tool":
                return cache.tool.key(self.group, self.args).key
            case "session":
                return f"{NAME}:session:{self.name}:field"
            case tier:
                return f"{NAME}:__tc:kv:{tier}:{self.name}"

    async def store(self, cache: AgentCache, value: str) -> None:
        """Store ``value`` by an explicit write."""
        match self.tier:
            case "llm":
                await cache.llm.store(self.params, value, tags=self.tags)
            case "tool":
                await cache.tool.store(self.group, self.args, value, tags=self.tags)
            case "session":
                await cache.session.set(self.name, "field", value)
            case tier:
                await cache.tier(tier).set(self.name, value, tags=self.tags)

    async def look_up(self, cache: AgentCache) -> tuple[str | None, bool | None]:
        """Return the value that a lookup finds, and whether the lookup was degraded, None if it does not say."""
        match self.tier:
            case "llm":
                answer = await cache.llm.check(self.params)
                return answer.response, answer.degraded
            case "tool":
                result = await cache.tool.check(self.group, self.args)
                return result.response, result.degraded
            case "session":
                return await cache.session.get(self.name, "field", fresh=True), None
            case tier:
                return await cache.tier(tier).get(self.name), None

    async def load(self, cache: AgentCache, **options: Any) -> tuple[str | None, bool]:
        """Return the value of ``get_or_load``, whose loader returns ``LOADED``, and whether it was degraded."""
        result: Any
        match self.tier:
            case "llm":
                result = await cache.llm.get_or_load(self.params, lambda: LOADED, tags=self.tags, **options)
                return result.response, result.degraded
            case "tool":
                result = await cache.tool.get_or_load(
                    self.group, self.args, lambda name: LOADED, tags=self.tags, **options
                )
                return result.value, result.degraded
            case tier:
                result = await cache.tier(tier).get_or_load(self.name, lambda: LOADED, tags=self.tags, **options)
                return (result.value if result.source else None), result.degraded

    async def invalidate(self, cache: AgentCache) -> None:
        """Remove the entry."""
        match self.tier:
            case "llm":
                await cache.llm.invalidate(self.params)
            case "tool":
                await cache.tool.invalidate(self.group, self.args)
            case "session":
                await cache.session.delete(self.name, "field")
            case tier:
                await cache.tier(tier).delete(self.name)

    def in_valkey(self, cache: AgentCache, admin: valkey.Valkey) -> str | None:
        """Return the value that Valkey holds, or None for nothing, a placeholder or foreign bytes."""
        key = self.key(cache)
        data = admin.get(key) if admin.type(key) == b"string" else None
        return next((value for value in (OLD, NEW, LOADED) if data is not None and value.encode() in data), None)
