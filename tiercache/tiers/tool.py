"""The tool tier: results of tool calls, by the tool's name and its arguments.

An entry lies under ``{name}:tool:{tool}:{sha256 hex}``, hashed being the canonical JSON of the arguments (of ``{}`` for
None). The tool's name stands in the key as it is, and so may hold no ``:``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from ..engine.announcement import Announcement
from ..engine.batch_loader import BATCH_SIZE, BATCH_WINDOW, BatchFunction, BatchLoader, KeywordBatchLoader
from ..engine.engine import Engine
from ..engine.entry import Group
from ..engine.explanation import Explanation, explain
from ..engine.invalidation import invalidate_group
from ..engine.loader import check_loader, takes_any
from ..engine.loading import get_or_load
from ..engine.mutation import Invalidating, Target
from ..engine.policy import Fresh, Mode, Request, TierPolicy, check_mode
from ..engine.ttl import Ttl, check_ttl
from ..errors import UsageError
from ..monitor.policies import ToolPolicies, ToolPolicy
from .canonical import canonical_json
from .indexes import index_key, indexes_of, tag_groups
from .tool_entry import encode_tool
from .tool_result import ToolResult

__all__ = ["ToolTier"]


class ToolTier:
    """``cache.tool``. Every method raises UsageError for a bad argument, having stored nothing, and on a closed cache;
    WrongLoopError from another event loop.

    Args named ``tool`` are names: not empty, without ``:``. Args named ``args`` are JSON: a mapping of keyword
    arguments, None for none.
    """

    def __init__(self, engine: Engine, policy: TierPolicy, policies: ToolPolicies, name: str) -> None:
        self._engine = engine
        self._policy = policy
        self._policies = policies
        self._name = name
        self._prefix = f"{name}:tool:"

    async def check(self, tool: str, args: Any) -> ToolResult:
        """Return what the cache has for a call, without making it.

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, marked ``degraded``.
        """
        engine = self._engine
        key = self._key(tool, args)
        now = engine.now()
        entry = engine.peek(key, now, self._policy.counters.of(tool))
        if entry is not None:
            if engine.tracer is not None:
                engine.trace_hit("tool.check", key=key, tool_name=tool)
            return ToolResult.from_l1(key, entry, now)
        with engine.operation("tool.check", key=key, tool_name=tool) as operation:
            found = await engine.find(self._request(tool, key))
            operation.found(found)
        return ToolResult.from_found(key, found, engine.now())

    async def get_or_load(
        self,
        tool: str,
        args: Any,
        loader: Callable[..., Any],
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> ToolResult:
        """Return the result of a call, making it at most once at a time, among all processes.

        Args:
            loader: The tool. Called with ``args`` as keywords if it takes any argument, otherwise with nothing; async
                or plain. May return any JSON value. Or what ``batch_loader`` returned.
            ttl: Lifetime of what is loaded; None takes that of the tool's policy, then the tier's, then the cache's.
            cost: Dollars that the call costs, counted as saved by each later hit.
            tags: Names by which what is loaded can be invalidated together with other entries.
            mode: As for ``LlmTier.get_or_load``, which also says what is returned when, and what cancelling does.

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, not an error.
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.
        """
        engine = self._engine
        key = self._key(tool, args)
        check_loader(loader)
        if ttl is not None:
            check_ttl(ttl)
        if cost is not None:
            _check_cost(cost)
        tagged = tag_groups(tags) if tags else ()
        if mode == "use":
            now = engine.now()
            entry = engine.peek(key, now, self._policy.counters.of(tool))
            if entry is not None:
                if engine.tracer is not None:
                    engine.trace_hit("tool.get_or_load", key=key, tool_name=tool)
                return ToolResult.from_l1(key, entry, now)
        else:
            check_mode(mode)
        with engine.operation("tool.get_or_load", key=key, tool_name=tool) as operation:

            async def load() -> Fresh:
                value = loader(**_keywords(loader, args))
                if inspect.isawaitable(value):
                    value = await value
                if self._is_key_of(key, tool, args) and engine.is_wanted(self._policy, value):
                    return self._fresh(tool, args, value, cost)
                return self._fresh(tool, None, value, cost)._replace(store=False)

            await engine.open()  # Which reads the policies: the first call already knows them.
            request = self._request(tool, key, ttl, tagged)._replace(is_batched=isinstance(loader, BatchLoader))
            found = await get_or_load(engine, request, load, mode)
            operation.found(found)
        return ToolResult.from_found(key, found, engine.now())

    def batch_loader(
        self,
        fn: BatchFunction[dict[str, Any]],
        *,
        window: float = BATCH_WINDOW,
        max_size: int = BATCH_SIZE,
    ) -> KeywordBatchLoader:
        """Return a loader for ``get_or_load`` that answers calls which come at about the same time by one of ``fn``.

        Args:
            fn: Called with a list of the args of several calls, each a new dict, in the order in which they came to be
                loaded; async or plain. Returns a list of the results, of the same length and order. An exception in
                a place is raised for that call alone; what ``fn`` raises, for all of them.
            window: Seconds that the first call waits for others; 0 waits for those of the same turn of the event loop.
            max_size: Most calls that are answered together; with so many ``fn`` is called at once.

        Raises:
            UsageError: An argument is not of this kind. From ``get_or_load``: what ``fn`` returned is not.

        ``ResilienceOptions.max_loads`` and ``load_timeout`` are for calls of ``fn``. A call that is cancelled leaves
        the others waiting; with the last one gone ``fn`` is cancelled. ``fn`` may ask the cache itself, for
        whatever it likes.
        """
        return KeywordBatchLoader(self._engine, fn, window=window, max_size=max_size)

    async def store(
        self,
        tool: str,
        args: Any,
        response: Any,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store a result, a str or any other JSON value, and return its key once Valkey has acknowledged it.

        Args as for ``get_or_load``.

        Raises:
            L2UnavailableError: The write may or may not have happened.
            L2CommandError: Valkey refused it.
        """
        key = self._key(tool, args)
        if ttl is not None:
            check_ttl(ttl)
        if cost is not None:
            _check_cost(cost)
        tagged = tag_groups(tags) if tags else ()
        fresh = self._fresh(tool, args, response, cost)
        with self._engine.operation("tool.store", key=key, tool_name=tool, bytes=len(fresh.data)) as operation:
            await self._engine.open()
            operation.set("ttl", await self._engine.store(self._request(tool, key, ttl, tagged), fresh))
        return key

    async def invalidate(self, tool: str, args: Any) -> bool:
        """Remove the result of a call; return whether there was one. Promise and errors as for the llm tier's."""
        key = self._key(tool, args)
        with self._engine.operation("tool.invalidate", key=key, tool_name=tool) as operation:
            existed = await self._engine.invalidate(key)
            operation.set("deleted_count", int(existed))
        return existed

    def invalidates(self, tool: str, args: Any) -> Invalidating:
        """Return what stands around a change of what a result is made from, as ``async with`` or as a decorator.

        The result is removed before and after; in between this process stores none. Promise and errors as for
        ``invalidate``.

        Args:
            args: As for ``invalidate``; for a decorator also a function of the call's arguments that returns them.
        """

        def target(*given: Any, **named: Any) -> Target:
            at = args(*given, **named) if callable(args) else args
            return Target((self._key(tool, at),), lambda: self.invalidate(tool, at))

        if not callable(args):
            target()
        return Invalidating(self._engine, target, takes_call=callable(args))

    async def explain(self, tool: str, args: Any) -> Explanation:
        """Return where the result of a call is, and how ``check`` would be answered. Counts and changes nothing.

        Raises:
            L2CommandError: Valkey refused the read.
        """
        return await explain(self._engine, self._request(tool, self._key(tool, args)))

    async def invalidate_by_tool(self, tool: str) -> int:
        """Remove every result of ``tool``; return how many there were. Errors as for ``invalidate``."""
        _check_tool(tool)
        with self._engine.operation("tool.invalidate_by_tool", tool_name=tool) as operation:
            name = str.__str__(tool)
            group = Group("tool", name)
            index = index_key(self._name, group)
            count = await invalidate_group(self._engine, group, f"{self._prefix}{name}:", index=index)
            operation.set("deleted_count", count)
        return count

    async def set_policy(self, tool: str, policy: ToolPolicy) -> None:
        """Give ``tool`` a lifetime of its own, in every process.

        Raises:
            L2UnavailableError, L2CommandError: It was not written, as far as is known, and is not used here.
        """
        _check_tool(tool)
        if not isinstance(policy, ToolPolicy):
            raise UsageError(f"policy must be a ToolPolicy, not {type(policy).__name__}")
        runtime = await self._engine.open()
        with self._engine.operation("tool.set_policy", tool_name=tool):
            await self._policies.set(runtime.level2, str.__str__(tool), policy)
            if runtime.link is not None:
                runtime.link.announce(Announcement(settings=True))

    def get_policy(self, tool: str) -> ToolPolicy | None:
        """Return the policy of ``tool`` as this process knows it, None for none."""
        _check_tool(tool)
        return self._policies.get(tool)

    async def refresh_policies(self) -> bool:
        """Read the policies of all tools now; return False, and keep those known, if Valkey does not give them."""
        runtime = await self._engine.open()
        with self._engine.operation("tool.refresh_policies"):
            return runtime.level2 is None or await self._policies.refresh(runtime.level2)

    async def clear(self) -> int:
        """Remove every entry of this tier; return how many there were. Errors as for ``invalidate``."""
        with self._engine.operation("tool.clear") as operation:
            count = await invalidate_group(self._engine, self._policy.group, self._prefix)
            operation.set("deleted_count", count)
        return count

    def _is_key_of(self, key: str, tool: str, args: Any) -> bool:
        """Return whether ``args`` are still those that made ``key``: a result for others must not be stored there."""
        try:
            if self._key(tool, args) == key:
                return True
        except UsageError:
            pass
        self._engine.warn_once("The args of a tool call were changed while it was made: its result is not stored")
        return False

    def _key(self, tool: str, args: Any) -> str:
        _check_tool(tool)
        tool = str.__str__(tool)  # Of a subclass, what it is and not what it says it is.
        digest = sha256(canonical_json({} if args is None else args, "args")).hexdigest()
        return f"{self._prefix}{tool}:{digest}"

    def _request(self, tool: str, key: str, ttl: Ttl | None = None, tagged: tuple[Group, ...] = ()) -> Request:
        groups = _groups_of(self._policy.tier, str.__str__(tool)) + tagged
        if ttl is None:
            policy = self._policies.get(tool)
            ttl = None if policy is None else policy.ttl
        indexes = indexes_of(self._name, groups)
        return Request(self._policy, key, groups, self._policy.counters.of(tool), ttl, indexes)

    def _fresh(self, tool: str, args: Any, value: object, cost: float | None) -> Fresh:
        entry, data = encode_tool(
            value=value, tool=tool, args=args, stored_at_ms=int(self._engine.wall() * 1000), cost=cost
        )
        return Fresh(entry, data)


def _check_tool(tool: object) -> None:
    if not isinstance(tool, str) or not tool or ":" in tool:
        raise UsageError(f"tool must be a name that is not empty and has no ':', not {tool!r}")
    try:
        tool.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"tool has text that is not Unicode (a lone surrogate): {error}") from error


def _check_cost(cost: object) -> None:
    if not isinstance(cost, int | float) or isinstance(cost, bool) or not 0 <= cost < math.inf:
        raise UsageError(f"cost must be dollars from 0, not {cost!r}")


def _keywords(loader: Callable[..., Any], args: Any) -> Mapping[str, Any]:
    """Return what to call ``loader`` with: ``args``, or nothing if it takes nothing."""
    if args is None or not takes_any(loader):
        return {}
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        raise UsageError("args must be a mapping of keyword arguments, or the loader take none")
    return args


@lru_cache(maxsize=1024)
def _groups_of(tier: str, tool: str) -> tuple[Group, ...]:
    """The groups of a tool's entries: one tuple for all of them."""
    return (Group("tier", tier), Group("tool", tool))
