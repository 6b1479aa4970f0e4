"""The tool tier: results of tool calls, by the tool's name and its arguments."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, overload

from ..engine.announcement import Announcement
from ..engine.batch_loader import BATCH_SIZE, BATCH_WINDOW, BatchFunction, BatchLoader, KeywordBatchLoader
from ..engine.engine import Engine
from ..engine.entry import Group
from ..engine.explanation import Explanation, explain
from ..engine.invalidation import invalidate_group
from ..engine.loader import check_loader, takes_any
from ..engine.loading import get_or_load, join, joinable
from ..engine.mutation import Invalidating, Target
from ..engine.policy import Fresh, Load, Mode, Request, TierPolicy, check_mode
from ..engine.storing import store
from ..engine.ttl import Ttl, check_ttl
from ..errors import UsageError
from ..monitor.policies import ToolPolicies, ToolPolicy
from .indexes import index_of, indexes_of, tag_groups
from .prepared import ToolKey, still_makes
from .tool_entry import encode_tool
from .tool_key import ABSENT, ToolKeys, check_tool, shifted
from .tool_result import ToolResult

__all__ = ["ToolTier"]


class ToolTier:
    """``cache.tool``. Every method raises UsageError for a bad argument, having stored nothing, and on a closed cache;
    WrongLoopError from another event loop.

    Args named ``tool`` are names: not empty, without ``:``. Args named ``args`` are JSON: a mapping of keyword
    arguments, None for none. A key made by ``key`` is taken in the place of both.
    """

    def __init__(self, engine: Engine, policy: TierPolicy, policies: ToolPolicies, name: str) -> None:
        self._engine = engine
        self._policy = policy
        self._policies = policies
        self._name = name
        self._prefix = f"{name}:tool:"
        self._known = ToolKeys(self._prefix, policy, engine.l1)
        self._prepared = self._known.of

    def key(self, tool: str, args: Any) -> ToolKey:
        """Return the key of a call with ``args`` as they are now, which later changes of theirs do not touch.

        For callers that ask the same thing over and over: passed in the place of ``tool`` and ``args`` it costs
        nothing to find, however long they are.
        """
        return self._prepared(tool, args)

    @overload
    async def check(self, tool: ToolKey, /) -> ToolResult: ...

    @overload
    async def check(self, tool: str, args: Any) -> ToolResult: ...

    async def check(self, tool: str | ToolKey, args: Any = ABSENT) -> ToolResult:
        """Return what the cache has for a call, without making it.

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, marked ``degraded``.
        """
        engine = self._engine
        prepared = self._prepared(tool, args)
        key = prepared.key
        now = engine.now()
        entry = engine.peek(key, now, prepared._counters)
        if entry is not None:
            if engine.tracer is not None:
                engine.trace_hit("tool.check", key=key, tool_name=prepared.tool)
            return ToolResult.from_l1(key, entry, now)
        with engine.operation("tool.check", key=key, tool_name=prepared.tool) as operation:
            groups = _groups_of(self._policy.tier, prepared.tool)
            request = Request(self._policy, key, groups, prepared._counters)
            found = await engine.find(request, peeked=True)
            operation.found(found)
        return ToolResult.from_found(key, found, engine.now())

    @overload
    async def get_or_load(
        self,
        tool: ToolKey,
        loader: Callable[..., Any],
        /,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> ToolResult: ...

    @overload
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
    ) -> ToolResult: ...

    async def get_or_load(
        self,
        tool: str | ToolKey,
        args: Any,
        loader: Any = ABSENT,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> ToolResult:
        """Return the result of a call, making it at most once at a time, among all processes.

        Args:
            loader: The tool. Called with ``args`` as keywords if it takes any argument, otherwise with nothing; async
                or plain. May return any JSON value. Or what ``batch_loader`` returned. With a key it gets the ``args``
                as JSON has them.
            ttl: Lifetime of what is loaded; None takes that of the tool's policy, then the tier's, then the cache's.
            cost: Dollars that the call costs, counted as saved by each later hit.
            tags: Names by which what is loaded can be invalidated together with other entries.
            mode: As for ``LlmTier.get_or_load``, which also says what is returned when, and what cancelling does.

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, not an error.
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.
        """
        engine = self._engine
        args, loader = shifted(tool, args, loader, "loader")
        prepared = self._prepared(tool, args)
        key = prepared.key
        check_loader(loader)
        if ttl is not None:
            check_ttl(ttl)
        if cost is not None:
            _check_cost(cost)
        tagged = tag_groups(tags) if tags else ()
        if mode == "use":
            now = engine.now()
            entry = engine.peek(key, now, prepared._counters)
            if entry is not None:
                if engine.tracer is not None:
                    engine.trace_hit("tool.get_or_load", key=key, tool_name=prepared.tool)
                return ToolResult.from_l1(key, entry, now)
            flight = joinable(engine, key)
            if flight is not None:
                found = await join(engine, "tool.get_or_load", flight, prepared._counters)
                return ToolResult.from_found(key, found, engine.now())
        else:
            check_mode(mode)
        load = self._loading(prepared, tool, args, loader, cost)
        with engine.operation("tool.get_or_load", key=key, tool_name=prepared.tool) as operation:
            await engine.open()  # Which reads the policies: the first call already knows them.
            request = self._request(prepared, ttl, tagged)
            is_batched = isinstance(loader, BatchLoader)
            if is_batched:
                request = request._replace(is_batched=True)
            found = await get_or_load(engine, request, load, mode)
            operation.found(found)
        return ToolResult.from_found(key, found, engine.now())

    def _loading(self, prepared: ToolKey, tool: str | ToolKey, args: Any, loader: Any, cost: float | None) -> Load:
        # As in the llm tier.
        async def load() -> Fresh:
            # From a key they are decoded for each call: the loader's own.
            value = loader(**_keywords(loader, json.loads(prepared._args) if args is ABSENT else args))
            if inspect.isawaitable(value):
                value = await value
            store = self._is_still(prepared, tool, args) and self._engine.is_wanted(self._policy, value)
            return self._fresh(prepared, value, cost)._replace(store=store)

        return load

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

    @overload
    async def store(
        self,
        tool: ToolKey,
        response: Any,
        /,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
    ) -> str: ...

    @overload
    async def store(
        self,
        tool: str,
        args: Any,
        response: Any,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
    ) -> str: ...

    async def store(
        self,
        tool: str | ToolKey,
        args: Any,
        response: Any = ABSENT,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store a result, a str or any other JSON value, and return its key once Valkey has acknowledged it.

        With ``WriteOptions(mode="behind")`` it returns once the write is queued, and a failure is counted, not raised.

        Args as for ``get_or_load``.

        Raises:
            L2UnavailableError: The write may or may not have happened.
            L2CommandError: Valkey refused it.
        """
        args, response = shifted(tool, args, response, "response")
        prepared = self._prepared(tool, args)
        key, name = prepared.key, prepared.tool
        if ttl is not None:
            check_ttl(ttl)
        if cost is not None:
            _check_cost(cost)
        tagged = tag_groups(tags) if tags else ()
        fresh = self._fresh(prepared, response, cost)
        self._policy.check_size(fresh.data, "response")
        with self._engine.operation("tool.store", key=key, tool_name=name, bytes=len(fresh.data)) as operation:
            await self._engine.open()
            operation.set("ttl", await store(self._engine, self._request(prepared, ttl, tagged), fresh))
        return key

    @overload
    async def invalidate(self, tool: ToolKey, /) -> bool: ...

    @overload
    async def invalidate(self, tool: str, args: Any) -> bool: ...

    async def invalidate(self, tool: str | ToolKey, args: Any = ABSENT) -> bool:
        """Remove the result of a call; return whether there was one. Promise and errors as for the llm tier's."""
        prepared = self._prepared(tool, args)
        with self._engine.operation("tool.invalidate", key=prepared.key, tool_name=prepared.tool) as operation:
            existed = await self._engine.invalidate(prepared.key)
            operation.set("deleted_count", int(existed))
        return existed

    @overload
    def invalidates(self, tool: ToolKey, /) -> Invalidating: ...

    @overload
    def invalidates(self, tool: str, args: Any) -> Invalidating: ...

    def invalidates(self, tool: str | ToolKey, args: Any = ABSENT) -> Invalidating:
        """Return what stands around a change of what a result is made from, as ``async with`` or as a decorator.

        The result is removed before and after; in between this process stores none. Promise and errors as for
        ``invalidate``.

        Args:
            args: As for ``invalidate``; for a decorator also a function of the call's arguments that returns them.
        """

        def target(*given: Any, **named: Any) -> Target:
            at = args(*given, **named) if callable(args) else args
            key = self._prepared(tool, at)
            return Target((key.key,), lambda: self.invalidate(key))

        if not callable(args):
            target()
        return Invalidating(self._engine, target, takes_call=callable(args))

    @overload
    async def explain(self, tool: ToolKey, /) -> Explanation: ...

    @overload
    async def explain(self, tool: str, args: Any) -> Explanation: ...

    async def explain(self, tool: str | ToolKey, args: Any = ABSENT) -> Explanation:
        """Return where the result of a call is, and how ``check`` would be answered. Counts and changes nothing.

        Raises:
            L2CommandError: Valkey refused the read.
        """
        return await explain(self._engine, self._request(self._prepared(tool, args)))

    async def invalidate_by_tool(self, tool: str, *, sweep: bool = False) -> int:
        """Remove every result of ``tool``; return how many there were. Errors as for ``invalidate``.

        Costs what it removes. Where the index may not be complete, also a look at every key in Valkey.

        Args:
            sweep: Look in any case: for entries of software that writes without being registered.
        """
        check_tool(tool)
        with self._engine.operation("tool.invalidate_by_tool", tool_name=tool) as operation:
            name = str.__str__(tool)
            group = Group("tool", name)
            index = index_of(self._name, group)
            count = await invalidate_group(self._engine, group, f"{self._prefix}{name}:", index=index, sweep=sweep)
            operation.set("deleted_count", count)
        return count

    async def set_policy(self, tool: str, policy: ToolPolicy) -> None:
        """Give ``tool`` a lifetime of its own, in every process.

        Raises:
            L2UnavailableError, L2CommandError: It was not written, as far as is known, and is not used here.
        """
        check_tool(tool)
        if not isinstance(policy, ToolPolicy):
            raise UsageError(f"policy must be a ToolPolicy, not {type(policy).__name__}")
        runtime = await self._engine.open()
        with self._engine.operation("tool.set_policy", tool_name=tool):
            await self._policies.set(runtime.level2, str.__str__(tool), policy)
            if runtime.link is not None:
                runtime.link.announce(Announcement(settings=True))

    def get_policy(self, tool: str) -> ToolPolicy | None:
        """Return the policy of ``tool`` as this process knows it, None for none."""
        check_tool(tool)
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

    def _is_still(self, prepared: ToolKey, tool: str | ToolKey, args: Any) -> bool:
        """Return whether ``args`` are still those of ``prepared``: a result for others must not be stored there."""
        warning = "The args of a tool call were changed while it was made: its result is not stored"
        return still_makes(self._engine, prepared.key, lambda: self._prepared(tool, args).key, warning)

    def _request(self, prepared: ToolKey, ttl: Ttl | None = None, tagged: tuple[Group, ...] = ()) -> Request:
        groups = _groups_of(self._policy.tier, prepared.tool) + tagged
        if ttl is None:
            policy = self._policies.get(prepared.tool)
            ttl = None if policy is None else policy.ttl
        return Request(self._policy, prepared.key, groups, prepared._counters, ttl, indexes_of(self._name, groups))

    def _fresh(self, prepared: ToolKey, value: object, cost: float | None) -> Fresh:
        now_ms = int(self._engine.wall() * 1000)
        entry, data = encode_tool(
            value=value, tool=prepared.tool, args_json=prepared._args, stored_at_ms=now_ms, cost=cost
        )
        return Fresh(entry, data)


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
