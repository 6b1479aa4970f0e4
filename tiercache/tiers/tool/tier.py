"""The tool tier: results of tool calls, by the name of the tool and its arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, overload

from ...agents.run import PLACE, answer_in_run
from ...agents.run_scopes import tags_in_run
from ...engine.call import Call, Loaded, LoadFunction, Mode
from ...engine.engine import Engine
from ...engine.entries.entry import Group
from ...engine.entries.rules import TierRules
from ...engine.level2.announcement import Announcement
from ...engine.memory.loaders import awaitable_loader
from ...engine.operations.around_change import Invalidating, Target
from ...engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, BatchFunction, KeywordBatchLoader
from ...engine.operations.explain import Explanation
from ...engine.operations.invalidate import GroupEntries
from ...errors import UsageError
from ...indexes.names import index_of
from ...ttl import Ttl
from ..entries import Entry, Names
from ..keys.key import ToolKey, is_unchanged
from ..runtime_settings import SettingsTable
from ..values.json_types import Storable
from .cached import check_cost
from .key import ABSENT, check_tool, shifted
from .loader import T, ToolLoader, keywords_for
from .policies import ToolPolicies, ToolPolicy
from .result import ToolResult
from .warm import WarmingTier

__all__ = ["ToolTier"]

# The request of a load: the tool or its key, the args, the cost.
_Request: TypeAlias = tuple[str | ToolKey, Any, float | None]


class ToolTier(WarmingTier):
    """``cache.tool``: results of tool calls, by the name of the tool and its arguments.

    ``tool`` is the name of a tool: not empty, without ``:``. ``args`` are the keyword arguments of the call: a JSON
    mapping, or None for a call without arguments. Every method that takes both also takes their key instead, made by
    ``key``.

    Every method raises UsageError for a wrong argument, and has then stored nothing. Every async method also raises
    UsageError on a closed cache, and WrongLoopError from another event loop.
    """

    tier = "tool"
    result = ToolResult

    def __init__(
        self, engine: Engine, rules: TierRules, policies: ToolPolicies, settings: SettingsTable, name: str
    ) -> None:
        super().__init__(engine, rules, settings, name)
        self._policies = policies

    def key(self, tool: str, args: Any) -> ToolKey:
        """Return the key of a call with ``args`` as they are now. Later changes of ``args`` have no effect.

        For callers that make the same call many times: with the key instead of ``tool`` and ``args``, a lookup costs
        the same at any length of the arguments.
        """
        return self._lookup.of(tool, args)

    @overload
    async def check(self, tool: ToolKey, /) -> ToolResult[Any]: ...

    @overload
    async def check(self, tool: str, args: Any) -> ToolResult[Any]: ...

    async def check(self, tool: str | ToolKey, args: Any = ABSENT) -> ToolResult[Any]:
        """Look up the result of a call, without making the call.

        Returns:
            The result, or a miss. Does not wait for a load in progress. A miss while Valkey is unavailable, or
            refuses the read, is marked ``degraded``.
        """
        key = self._lookup.of(tool, args)
        return self._hit("check", key) or self._result(key, await self._find("check", key))

    @overload
    async def get_or_load(
        self, tool: ToolKey, loader: ToolLoader[T], /, *, mode: Literal["only_cached"]
    ) -> ToolResult[T | None]: ...

    @overload
    async def get_or_load(
        self, tool: str, args: Any, loader: ToolLoader[T], *, mode: Literal["only_cached"]
    ) -> ToolResult[T | None]: ...

    @overload
    async def get_or_load(
        self,
        tool: ToolKey,
        loader: ToolLoader[T],
        /,
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> ToolResult[T]: ...

    @overload
    async def get_or_load(
        self,
        tool: str,
        args: Any,
        loader: ToolLoader[T],
        *,
        ttl: Ttl | None = None,
        cost: float | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
        per_run: bool = False,
    ) -> ToolResult[T]: ...

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
        per_run: bool = False,
    ) -> ToolResult[Any]:
        """Return the result of a call; on a miss, make the call at most once at a time among all processes.

        Args:
            tool: The name of the tool, or a key made by ``key``; after a key comes ``loader``.
            args: The keyword arguments of the call, or None.
            loader: The tool: called with ``args`` as keywords if it takes any argument, otherwise without arguments;
                async or plain. Returns any JSON value. May be a loader made by ``batch_loader``, or an awaitable, as
                for ``KvTier.get_or_load``. For a key, the loader gets the ``args`` as JSON holds them: a tuple as a
                list.
            ttl: Lifetime of a loaded result: seconds, a string such as ``"90s"``, a timedelta, or ``NO_EXPIRY``. None
                takes that of the tool's settings, then its policy's, then the tier's, then the cache's.
            cost: Dollars that the call costs; each later hit counts them as saved.
            tags: Names by which a loaded result can be invalidated together with other entries.
            mode: As for ``LlmTier.get_or_load``.
            per_run: Whether the entry belongs to the present run of ``AgentCache.agent`` alone, and ends with it.

        Returns:
            The result, as soon as the loader has returned. The cache writes a loaded result to Valkey in the
            background, in order. A miss only with mode "only_cached".

        Raises:
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.
            AgentLoopError: A run of ``AgentCache.agent`` has found a loop. The call has not run.

        Exceptions of the loader, changes during the load, and cancellation are as for ``LlmTier.get_or_load``, except
        that the load is cancelled when its last caller has gone, unless ``TierOptions.on_abandon`` is "finish".
        """
        args, loader = shifted(tool, args, loader, "loader")
        key = self._run_key(tool, args) if per_run else self._lookup.of(tool, args)
        if cost is not None:
            check_cost(cost)
        if per_run:
            tags = tags_in_run(tags, self._engine.log)
        if (place := PLACE.get()) is not None:
            # Closes the awaitable of a call that does not run.
            loader = loader if callable(loader) else awaitable_loader(loader)
            answer = partial(self._answer, key, loader, (tool, args, cost), ttl, tags, mode)
            return await answer_in_run(place, key.tool, key.key, answer)
        hit = self._hit_for_load(key, loader, ttl, tags, mode)
        if hit is not None:
            return hit
        return await self._load(key, loader, (tool, args, cost), ttl, tags, mode)

    async def _answer(
        self, key: ToolKey, loader: Any, request: _Request, ttl: Ttl | None, tags: Sequence[str], mode: Mode
    ) -> ToolResult[Any]:
        hit = self._hit_for_load(key, loader, ttl, tags, mode)
        return await self._load(key, loader, request, ttl, tags, mode) if hit is None else hit

    def _load_function(self, key: ToolKey, request: _Request, loader: Any) -> LoadFunction:
        tool, args, cost = request

        async def load() -> Loaded:
            # The arguments of a key are decoded for each call: the loader may change them.
            keywords = keywords_for(loader, json.loads(key._args) if args is ABSENT else args)
            value: Any = await self._loaders.call(loader, **keywords)
            loaded = self._loaded(key, value, cost)
            return loaded if self._is_unchanged(key, tool, args) else loaded._replace(store=False)

        return load

    def batch_loader(
        self,
        fn: BatchFunction[dict[str, Any], T],
        *,
        window: float = BATCH_WINDOW,
        max_size: int = BATCH_SIZE,
    ) -> KeywordBatchLoader[T]:
        """Return a loader for ``get_or_load`` that collects loads and answers them by one call of ``fn``.

        Args:
            fn: Called with a list of the args of several calls, each a new dict, in the order in which their loads
                began; async or plain. Returns a list of the results, of the same length and order. An exception at a
                position of the list is raised for that call alone. An exception that ``fn`` raises reaches all of them.
            window: Seconds, 0 to a day, that the first load waits for others; 0 waits for the loads of the same turn
                of the event loop.
            max_size: Most loads that one call of ``fn`` answers. A full batch is sent at once.

        Raises:
            UsageError: An argument is wrong. ``get_or_load`` raises it if ``fn`` returns no such list.

        ``ResilienceOptions.max_loads`` and ``load_timeout`` apply to the calls of ``fn``. Cancelling one caller leaves
        the others waiting; when no caller of a batch waits any more, ``fn`` is cancelled, unless
        ``TierOptions.on_abandon`` is "finish". ``fn`` may call the cache, for any key.
        """
        return KeywordBatchLoader(
            self._engine, self._loaders, fn, window=window, max_size=max_size, scopes=self._rules.scopes
        )

    @overload
    async def store(
        self,
        tool: ToolKey,
        response: Storable,
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
        response: Storable,
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
        """Store the result of a call; return its key once Valkey has acknowledged the write.

        With ``WriteOptions(mode="behind")`` the call returns once the write is queued. A write that then fails is
        counted as ``write_errors``, and not raised.

        Args:
            response: The result: a str, or any other JSON value.

        The other arguments are those of ``get_or_load``. Errors and cancellation are those of ``LlmTier.store``.
        """
        args, response = shifted(tool, args, response, "response")
        key = self._lookup.of(tool, args)
        if cost is not None:
            check_cost(cost)
        return await self._store("store", key, self._encode(key, response, cost), ttl, tags, "response")

    @overload
    async def invalidate(self, tool: ToolKey, /) -> bool: ...

    @overload
    async def invalidate(self, tool: str, args: Any) -> bool: ...

    async def invalidate(self, tool: str | ToolKey, args: Any = ABSENT) -> bool:
        """Remove the result of a call from both levels; return whether either level had it.

        Promise, errors and cancellation as for ``LlmTier.invalidate``.
        """
        key = self._lookup.of(tool, args)
        return await self._remove("invalidate", key.key, tool_name=key.tool)

    @overload
    def invalidates(self, tool: ToolKey, /) -> Invalidating: ...

    @overload
    def invalidates(self, tool: str, args: Any) -> Invalidating: ...

    def invalidates(self, tool: str | ToolKey, args: Any = ABSENT) -> Invalidating:
        """Return a guard for a change of the source of a result: ``async with``, or a decorator.

        The guard removes the result before the change and again after it. During the change this process stores no
        result of the call. Promise and errors as for ``invalidate``.

        Args:
            args: The keyword arguments of the tool. For a decorator also a function of the decorated call's arguments
                that returns them.
        """

        def target(args: Any) -> Target:
            key = self._lookup.of(tool, args)
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
        return await self._explain(self._lookup.of(tool, args))

    @overload
    async def inspect(self, tool: ToolKey, /) -> Entry: ...

    @overload
    async def inspect(self, tool: str, args: Any) -> Entry: ...

    async def inspect(self, tool: str | ToolKey, args: Any = ABSENT) -> Entry:
        """Return the entry of a call, from a look at both levels. Result and errors as for ``LlmTier.inspect``."""
        return await self._inspect(self._lookup.of(tool, args))

    def _names_of(self, key: str, value: Any) -> Names:
        return Names(group=key[len(self._prefix) :].partition(":")[0])

    async def invalidate_by_tool(self, tool: str, *, sweep: bool = False) -> int:
        """Remove every result of ``tool`` from both levels; return how many. Errors and cancellation as for ``clear``.

        The cost grows with the number of results to remove. Where the index of the tool may be incomplete, the call
        also scans all keys of the server.

        Args:
            tool: The name of the tool.
            sweep: Whether to scan in any case. The scan finds the entries of software that writes without registering
                itself.
        """
        check_tool(tool)
        name = str.__str__(tool)
        group = Group("tool", name)
        entries = GroupEntries(group, (f"{self._prefix}{name}:",), group_index=index_of(self._name, group))
        return await self._remove_group("invalidate_by_tool", entries, sweep=sweep, tool_name=tool)

    async def set_policy(self, tool: str, policy: ToolPolicy) -> None:
        """Give the results of ``tool`` a lifetime of their own, in every process.

        The policy applies to results that are stored from now on.

        Raises:
            L2UnavailableError: The policy may or may not have been written. This process does not use it until a
                refresh finds it.
            L2CommandError: Valkey refused the write. This process does not use the policy.
        """
        check_tool(tool)
        if not isinstance(policy, ToolPolicy):
            raise UsageError(f"policy must be a ToolPolicy, not {type(policy).__name__}")
        runtime = await self._engine.open()
        with self._engine.operation("tool.set_policy", tool_name=tool):
            await self._policies.set(runtime.l2.level2, str.__str__(tool), policy)
            runtime.l2.announce(Announcement(policies=True))

    def get_policy(self, tool: str) -> ToolPolicy | None:
        """Return the policy of ``tool`` as this process knows it, or None if there is no policy."""
        check_tool(tool)
        return self._policies.get(tool)

    async def refresh_policies(self) -> bool:
        """Read the policies of all tools from Valkey; return whether Valkey returned them.

        If not, this process keeps the policies that it knows. A cache without Valkey returns True.
        """
        runtime = await self._engine.open()
        with self._engine.operation("tool.refresh_policies"):
            level2 = runtime.l2.level2
            return level2 is None or await self._policies.refresh(level2)

    def _is_unchanged(self, key: ToolKey, tool: str | ToolKey, args: Any) -> bool:
        """Return whether ``args`` still make ``key``: the result of another call must not be stored under it."""
        warning = "The args of a tool call were changed during the call: its result is not stored"
        now = self._lookup.within
        return is_unchanged(key.key, lambda: now(tool, args, key._components).key, self._engine.log.warn_once, warning)

    def _make_call(self, key: ToolKey, ttl: Ttl | None = None, tags: Sequence[str] = ()) -> Call:
        if ttl is None:
            ttl = self._settings.tool_ttl(key.tool)
            if ttl is None and (policy := self._policies.get(key.tool)) is not None:
                ttl = policy.ttl
        return super()._make_call(key, ttl, tags)
