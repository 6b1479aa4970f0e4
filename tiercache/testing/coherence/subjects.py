"""The subjects: the keys under test, and the operations of a cache on each.

The role of a subject is one of these:

hot          Every replica invalidates these keys all the time, one by one and by group.
tagged       As hot, and by tag: every call gives the tag.
mixed        As hot, and by tag: each call gives no tag or one of ``MIXED_TAGS``. An invalidation of a tag covers the
             entries of the calls that gave this tag.
quiet        Replicas invalidate these keys rarely, and during faults: no later message repairs a missed invalidation.
quiet_tag    As quiet, but by tag: each of these keys has a tag of its own.
quiet_group  As quiet, but by tool, by model, or by kv tier.
written      One replica alone stores and invalidates each of these keys, because no guarantee says which of two
             concurrent stores by different replicas is the last.
foreign      As written, but each key alone; between its own changes the replica sets and deletes the key as software
             other than tiercache does. The windows of the session fields slide.

The value of a key is its version; that of a mixed key also has the number of the load that made the entry.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from ...agent_cache import AgentCache
from ...engine.call import Mode
from ...tiers.kv.tier import KvTier
from ...tiers.result import Result
from ...tiers.values.tags import split_tags
from .subject import Answer, Loader, Subject

__all__ = ["MIXED_TAGS", "SUBJECTS", "by_name", "group", "kv_tier", "read_many"]

# The tags of mixed keys. There are several, because the index of a tag lists a key for a minute after its last entry.
MIXED_TAGS: Final = tuple(f"mixed-{number}" for number in range(6))

# Seconds of the window of a session field that slides. Reads renew it after a quarter of this time.
_SLIDING_WINDOW: Final = 3.0


class ToolSubject(Subject):
    """A tool result; the role is the name of the tool."""

    __slots__ = ()
    tier = "tool"
    group_method = "tool.invalidate_by_tool"

    async def look_up(self, cache: AgentCache) -> Answer:
        result = await cache.tool.check(self.role, self._args)
        return Answer(_number(result.response), result.source, "tool.check")

    async def get_or_load(
        self, cache: AgentCache, load: Loader, *, refresh: bool = False, tags: tuple[str, ...] = ()
    ) -> Answer:
        async def call() -> str:
            return str(await load())

        mode, method = _mode(refresh)
        result = await cache.tool.get_or_load(self.role, self._args, call, mode=mode, tags=tags)
        return Answer(_number(result.response), result.source, f"tool.{method}", _tag_of(result, tags))

    async def remove(self, cache: AgentCache) -> None:
        await cache.tool.invalidate(self.role, self._args)

    async def remove_group(self, cache: AgentCache) -> None:
        await cache.tool.invalidate_by_tool(self.role)

    async def store(self, cache: AgentCache, version: int) -> None:
        await cache.tool.store(self.role, self._args, str(version), tags=self.tags)

    async def valkey_key(self, name: str) -> str:
        async with AgentCache.in_memory(name=name) as cache:
            return (await cache.tool.check(self.role, self._args)).key

    def decode(self, data: bytes) -> int | None:
        return _response(data)

    def encode(self, version: int) -> bytes:
        return _envelope(version, toolName=self.role, args=self._args)

    @property
    def _args(self) -> dict[str, int]:
        return {"k": self.number}


class LlmSubject(Subject):
    """A model's answer; the role is the name of the model."""

    __slots__ = ()
    tier = "llm"
    group_method = "llm.invalidate_by_model"

    async def look_up(self, cache: AgentCache) -> Answer:
        result = await cache.llm.check(self._params)
        return Answer(_number(result.response), result.source, "llm.check")

    async def get_or_load(
        self, cache: AgentCache, load: Loader, *, refresh: bool = False, tags: tuple[str, ...] = ()
    ) -> Answer:
        async def call() -> str:
            return str(await load())

        mode, method = _mode(refresh)
        result = await cache.llm.get_or_load(self._params, call, mode=mode, tags=tags)
        return Answer(_number(result.response), result.source, f"llm.{method}", _tag_of(result, tags))

    async def remove(self, cache: AgentCache) -> None:
        await cache.llm.invalidate(self._params)

    async def remove_group(self, cache: AgentCache) -> None:
        await cache.llm.invalidate_by_model(self.role)

    async def store(self, cache: AgentCache, version: int) -> None:
        await cache.llm.store(self._params, str(version), tags=self.tags)

    async def valkey_key(self, name: str) -> str:
        async with AgentCache.in_memory(name=name) as cache:
            return (await cache.llm.check(self._params)).key

    def decode(self, data: bytes) -> int | None:
        return _response(data)

    def encode(self, version: int) -> bytes:
        return _envelope(version, model=self.role)

    @property
    def _params(self) -> dict[str, Any]:
        return {"model": self.role, "messages": [{"role": "user", "content": str(self.number)}]}


class KvSubject(Subject):
    """A kv entry; the role is the name of the kv tier."""

    __slots__ = ()
    tier = "kv"
    group_method = "kv.clear"

    async def look_up(self, cache: AgentCache) -> Answer:
        return Answer(await kv_tier(cache, self.role).get(str(self.number)), None, "kv.get")

    async def get_or_load(
        self, cache: AgentCache, load: Loader, *, refresh: bool = False, tags: tuple[str, ...] = ()
    ) -> Answer:
        mode, method = _mode(refresh)
        result = await kv_tier(cache, self.role).get_or_load(str(self.number), load, mode=mode, tags=tags)
        return Answer(result.value, result.source, f"kv.{method}", _tag_of(result, tags))

    async def remove(self, cache: AgentCache) -> None:
        await kv_tier(cache, self.role).delete(str(self.number))

    async def remove_group(self, cache: AgentCache) -> None:
        await kv_tier(cache, self.role).clear()

    async def store(self, cache: AgentCache, version: int) -> None:
        await kv_tier(cache, self.role).set(str(self.number), version, tags=self.tags)

    async def valkey_key(self, name: str) -> str:
        async with AgentCache.in_memory(name=name) as cache:
            tier = kv_tier(cache, self.role)
            return (await tier.get_or_load(str(self.number), lambda: None, mode="only_cached")).key

    def decode(self, data: bytes) -> int | None:
        payload = split_tags(data).data
        return _number(payload[1:]) if payload[:1] == b"j" else None

    def encode(self, version: int) -> bytes:
        return b"j%d" % version


class SessionSubject(Subject):
    """A field of a thread; replicas never load it. The role is the thread id."""

    __slots__ = ()
    tier = "session"
    group_method = "session.destroy_thread"

    async def look_up(self, cache: AgentCache) -> Answer:
        return Answer(_number(await cache.session.get(self.role, str(self.number))), None, "session.get")

    async def get_or_load(
        self, cache: AgentCache, load: Loader, *, refresh: bool = False, tags: tuple[str, ...] = ()
    ) -> Answer:
        return await self.look_up(cache)

    async def remove(self, cache: AgentCache) -> None:
        await cache.session.delete(self.role, str(self.number))

    async def remove_group(self, cache: AgentCache) -> None:
        await cache.session.destroy_thread(self.role)

    async def store(self, cache: AgentCache, version: int) -> None:
        window = _SLIDING_WINDOW if self.role == "foreign" else None
        await cache.session.set(self.role, str(self.number), str(version), ttl=window)

    async def valkey_key(self, name: str) -> str:
        return f"{name}:session:{self.role}:{self.number}"

    def decode(self, data: bytes) -> int | None:
        return _number(data)

    def encode(self, version: int) -> bytes:
        return b"%d" % version


SUBJECTS: Final[tuple[Subject, ...]] = (
    ToolSubject("hot", 0),
    ToolSubject("hot", 1),
    KvSubject("hot", 0),
    KvSubject("hot", 1),
    LlmSubject("hot", 0),
    *(kind(role, 0) for role in ("tagged", "mixed") for kind in (ToolSubject, KvSubject, LlmSubject)),
    *(kind("quiet", number) for number in range(3) for kind in (ToolSubject, KvSubject, LlmSubject)),
    *(kind(role, 0) for role in ("quiet_tag", "quiet_group") for kind in (ToolSubject, KvSubject, LlmSubject)),
    ToolSubject("written", 0),
    KvSubject("written", 0),
    LlmSubject("written", 0),
    SessionSubject("written", 0),
    *(kind("foreign", 0) for kind in (ToolSubject, KvSubject, LlmSubject, SessionSubject)),
    KvSubject("foreign", 1),
    SessionSubject("foreign", 1),
)


def by_name(name: str) -> Subject:
    """Return the subject with the name ``name``."""
    return next(subject for subject in SUBJECTS if subject.name == name)


def group(tier: str, role: str) -> list[Subject]:
    """Return the subjects of a tier and a role."""
    return [subject for subject in SUBJECTS if subject.tier == tier and subject.role == role]


def kv_tier(cache: AgentCache, role: str) -> KvTier:
    """Return the kv tier of a role, which the replica has made."""
    return cache.tier(role)


async def read_many(
    cache: AgentCache, subjects: Sequence[Subject], load: Callable[[list[str]], Awaitable[dict[str, int]]] | None
) -> list[Answer]:
    """Read several kv keys of one role in one call, in their order; without ``load`` only stored keys have versions."""
    tier = kv_tier(cache, subjects[0].role)
    keys = [str(subject.number) for subject in subjects]
    if load is None:
        values, method = await tier.get_many(keys), "kv.get_many"
    else:
        values = await tier.get_or_load_many(keys, load, tags=subjects[0].tags)
        method = "kv.get_or_load_many"
    return [Answer(values[key], None, method) for key in keys]


def _tag_of(result: Result, tags: tuple[str, ...]) -> str | None:
    """Return the tag that the entry has, or None. Without Valkey no tag can be registered."""
    return tags[0] if tags and result.hit and not result.degraded else None


def _mode(refresh: bool) -> tuple[Mode, str]:
    return ("refresh", "get_or_load(refresh)") if refresh else ("use", "get_or_load")


class _Envelope(msgspec.Struct):
    response: str


def _envelope(version: int, **others: Any) -> bytes:
    """Return an entry as BetterDB software writes it."""
    return msgspec.json.encode({"response": str(version), **others, "storedAt": int(time.time() * 1000)})


def _response(data: bytes) -> int | None:
    try:
        return _number(msgspec.json.decode(data, type=_Envelope).response)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _number(text: str | bytes | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
