"""An agent middleware of LangChain that takes the results of tools from the tool tier.

An entry's key is made of the name of the tool, its arguments and the scope; its value is
``{"langchain": <the ToolMessage in LangChain's JSON>}``, without the id of the call, which each call sets again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...tiers.keys.canonical_json import compact_json
from ...tiers.tool.key import check_tool
from ...ttl import Ttl, check_ttl
from ..caches import UNAVAILABLE, check_cache, log_of
from ..extras import missing_extra
from ..tool_lifetimes import lifetimes_of
from .tool_call import NotStoredError, ToolCall
from .tool_parameters import ToolParameters

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ToolCallRequest
    from langgraph.errors import GraphBubbleUp
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["TierCacheToolMiddleware"]


class TierCacheToolMiddleware(AgentMiddleware):
    """An agent middleware that runs each tool call once: an equal call gets the result from the tool tier.

    Equal calls at the same time, of any process, run the tool once. Only a ``ToolMessage`` without an error is stored,
    if its JSON restores an equal message. A ``Command``, an interrupt or an exception is not stored. While Valkey is
    unavailable, the tools run.

    Args:
        cache: The cache.
        tools: The names of the tools whose results are stored. A mapping also gives each tool its lifetime, or None.
            None: the tools whose ``metadata`` has both ``readOnlyHint`` and ``idempotentHint`` set to True.
        ttl: Lifetime of the results. None takes that of the tool's policy, then the tool tier's, then the cache's.
        tags: Names by which the results can be invalidated together with other entries.
        scope: Returns for a request a name that joins the key, so that calls with different names share no result.
            Without a scope, the middleware does not cache a tool that takes more than the arguments of the model: the
            state, the store, the runtime or the config.

    Raises:
        UsageError: An argument is wrong. A tool call raises it if the cache is closed, or has no such face.
    """

    def __init__(
        self,
        cache: AgentCache,
        *,
        tools: Iterable[str] | Mapping[str, Ttl | None] | None = None,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        scope: Callable[[ToolCallRequest], str] | None = None,
    ) -> None:
        super().__init__()
        self._cache = check_cache(cache)
        self._ttls = None if tools is None else lifetimes_of(tools, check_tool)
        if ttl is not None:
            check_ttl(ttl)
        if scope is not None and not callable(scope):
            raise UsageError(f"scope must be a function of a request, not {type(scope).__name__}")
        tag_groups(tags)
        self._ttl = ttl
        self._tags = tuple(tags)
        self._scope = scope
        self._parameters = ToolParameters()

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """Return the result of a tool call from the cache, or else run the tool. LangChain calls this."""
        args = self._key_args(request)
        if args is None:
            return handler(request)
        call = ToolCall(request)
        get_or_load, name, options = (
            self._cache.sync.tool.get_or_load,
            request.tool_call["name"],
            self._options(request),
        )

        def load() -> Any:
            call.has_begun = True
            return call.value_of(handler(request))

        try:
            result = call.result_of(get_or_load(name, args, load, **options).value)
            if result is None:  # Another program has written the entry.
                result = call.result_of(get_or_load(name, args, load, mode="refresh", **options).value)
        except (NotStoredError, GraphBubbleUp, *UNAVAILABLE) as error:
            result = call.result_after(error)
        return handler(request) if result is None else result

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """Return the result of a tool call from the cache, or else run the tool. LangChain calls this."""
        args = self._key_args(request)
        if args is None:
            return await handler(request)
        call = ToolCall(request)
        name, options = request.tool_call["name"], self._options(request)
        get_or_load = self._cache.tool.get_or_load

        async def load() -> Any:
            call.has_begun = True
            return call.value_of(await handler(request))

        try:
            result = call.result_of((await get_or_load(name, args, load, **options)).value)
            if result is None:  # Another program has written the entry.
                result = call.result_of((await get_or_load(name, args, load, mode="refresh", **options)).value)
        except (NotStoredError, GraphBubbleUp, *UNAVAILABLE) as error:
            result = call.result_after(error)
        return await handler(request) if result is None else result

    def _key_args(self, request: ToolCallRequest) -> dict[str, Any] | None:
        """Return the arguments that make the key of a call, or None if its result is not cached."""
        name, tool = request.tool_call["name"], request.tool
        if tool is None or not self._is_chosen(name, tool):
            return None
        if self._scope is None:
            if self._parameters.are_hidden(tool):
                log_of(self._cache).warn_once(
                    "the tool %r takes more than the arguments of the model, and has no scope: it is not cached", name
                )
                return None
            args: dict[str, Any] = {"args": request.tool_call["args"]}
        else:
            scope = self._scope(request)
            if not isinstance(scope, str):
                raise UsageError(f"scope must return a str, not {type(scope).__name__}")
            args = {"args": request.tool_call["args"], "scope": scope}
        try:
            check_tool(name)
            compact_json(args, "args")
        except UsageError as error:
            log_of(self._cache).warn_once("a call of the tool %r has no key, and is not cached: %s", name, error)
            return None
        # A caller of ``tool.get_or_load`` stores values of another form: the entries must not meet.
        return {**args, "langchain": True}

    def _is_chosen(self, name: str, tool: Any) -> bool:
        if self._ttls is not None:
            return name in self._ttls
        metadata = tool.metadata or {}
        return metadata.get("readOnlyHint") is True and metadata.get("idempotentHint") is True

    def _options(self, request: ToolCallRequest) -> dict[str, Any]:
        ttl = (self._ttls or {}).get(request.tool_call["name"])
        return {"ttl": self._ttl if ttl is None else ttl, "tags": self._tags}
