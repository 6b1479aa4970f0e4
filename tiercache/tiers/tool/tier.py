"""The tool tier: results of tool calls, by the tool's name and its arguments."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from ...engine.call import Call, Loaded, LoadFunction, Mode
from ...engine.engine import Engine
from ...engine.entries.entry import Group
from ...engine.entries.policy import TierPolicy
from ...engine.level2.announcement import Announcement
from ...engine.memory.load_limits import check_loader, takes_any
from ...engine.operations.around_change import Invalidating, Target
from ...engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, BatchFunction, KeywordBatchLoader
from ...engine.operations.explain import Explanation
from ...engine.operations.invalidate import GroupEntries
from ...errors import UsageError
from ...indexes.names import index_of
from ...ttl import Ttl, check_ttl
from ..keys.key import ToolKey, is_unchanged
from ..tier import Tier
from .entry import encode_tool
from .key import ABSENT, ToolKeyLookup, check_tool, shifted
from .policies import ToolPolicies, ToolPolicy
from .result import ToolResult

__all__ = ["ToolTier"]


class ToolTier(Tier[ToolKey, ToolResult]):
    """``cache.tool``. Every method raises UsageError for a bad argument, having stored nothing, and on a closed cache;
    WrongLoopError from another event loop.

    Args named ``tool`` are names: not empty, without ``:``. Args named ``args`` are JSON: a mapping of keyword
    arguments, None for none. A key made by ``key`` is taken in the place of both.
    """

    tier = "tool"
    result = ToolResult

    def __init__(self, engine: Engine, policy: TierPolicy, policies: ToolPolicies, name: str) -> None:
        super().__init__(engine, policy, name, f"{name}:tool:")
        self._policies = policies
        self._lookup = ToolKeyLookup(self._prefix, policy, engine.l1)
        self._prepared = self._lookup.of

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
        key = self._prepared(tool, args)
        return self._hit("check", key) or self._result(key, await self._find("check", key))

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
        args, loader = shifted(tool, args, loader, "loader")
        key = self._prepared(tool, args)
        check_loader(loader)
        if ttl is not None or tags or mode != "use":
            self._check_options(ttl, tags, mode)
        if cost is not None:
            _check_cost(cost)
        if mode == "use" and (hit := self._hit("get_or_load", key)) is not None:
            return hit
        return await self._load_through(key, loader, (tool, args, cost), ttl, tags, mode)

    def _loading(self, prepared: ToolKey, source: tuple[str | ToolKey, Any, float | None], loader: Any) -> LoadFunction:
        tool, args, cost = source

        async def load() -> Loaded:
            # From a key they are decoded for each call: the loader's own.
            value = loader(**_keywords(loader, json.loads(prepared._args) if args is ABSENT else args))
            if inspect.isawaitable(value):
                value = await value
            store = self._is_still(prepared, tool, args) and self._is_wanted(value)
            return self._loaded_value(prepared, value, cost)._replace(store=store)

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
        key = self._prepared(tool, args)
        if ttl is not None:
            check_ttl(ttl)
        if cost is not None:
            _check_cost(cost)
        return await self._store("store", key, self._loaded_value(key, response, cost), ttl, tags, "response")

    @overload
    async def invalidate(self, tool: ToolKey, /) -> bool: ...

    @overload
    async def invalidate(self, tool: str, args: Any) -> bool: ...

    async def invalidate(self, tool: str | ToolKey, args: Any = ABSENT) -> bool:
        """Remove the result of a call; return whether there was one. Promise and errors as for the llm tier's."""
        prepared = self._prepared(tool, args)
        return await self._remove("invalidate", prepared.key, tool_name=prepared.tool)

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

        def target(at: Any) -> Target:
            key = self._prepared(tool, at)
            return Target((key.key,), lambda: self.invalidate(key))

        return self._around_change(args, target)

    @overload
    async def explain(self, tool: ToolKey, /) -> Explanation: ...

    @overload
    async def explain(self, tool: str, args: Any) -> Explanation: ...

    async def explain(self, tool: str | ToolKey, args: Any = ABSENT) -> Explanation:
        """Return where the result of a call is, and how ``check`` would be answered. Counts and changes nothing.

        Raises:
            L2CommandError: Valkey refused the read.
        """
        return await self._explain(self._prepared(tool, args))

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
            entries = GroupEntries(group, f"{self._prefix}{name}:", group_index=index_of(self._name, group))
            count = await self._invalidations.group(entries, sweep=sweep)
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
            await self._policies.set(runtime.l2.level2, str.__str__(tool), policy)
            runtime.l2.announce(Announcement(settings=True))

    def get_policy(self, tool: str) -> ToolPolicy | None:
        """Return the policy of ``tool`` as this process knows it, None for none."""
        check_tool(tool)
        return self._policies.get(tool)

    async def refresh_policies(self) -> bool:
        """Read the policies of all tools now; return False, and keep those known, if Valkey does not give them."""
        runtime = await self._engine.open()
        with self._engine.operation("tool.refresh_policies"):
            level2 = runtime.l2.level2
            return level2 is None or await self._policies.refresh(level2)

    async def _ready(self) -> None:
        await self._engine.open()  # Which reads the policies: the first call already knows them.

    def _is_still(self, prepared: ToolKey, tool: str | ToolKey, args: Any) -> bool:
        """Return whether ``args`` are still those of ``prepared``: a result for others must not be stored there."""
        warning = "The args of a tool call were changed while it was made: its result is not stored"
        return is_unchanged(prepared.key, lambda: self._prepared(tool, args).key, self._engine.log.warn_once, warning)

    def _call(self, key: ToolKey, ttl: Ttl | None = None, tags: Sequence[str] = ()) -> Call:
        if ttl is None and (policy := self._policies.get(key.tool)) is not None:
            ttl = policy.ttl
        return super()._call(key, ttl, tags)

    def _loaded_value(self, prepared: ToolKey, value: object, cost: float | None) -> Loaded:
        now_ms = int(self._engine.wall() * 1000)
        entry, data = encode_tool(
            value=value, tool=prepared.tool, args_json=prepared._args, stored_at_ms=now_ms, cost=cost
        )
        return Loaded(entry, data)


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
