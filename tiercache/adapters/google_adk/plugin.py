"""A plugin of Google ADK that takes the results of tools from the tool tier.

The plugin replaces each named tool by a cached tool before the model is asked. So callbacks,
confirmations and errors of tools work as without the plugin, and equal calls at the same time run the tool once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...tiers.keys.canonical_json import compact_json
from ...tiers.tool.key import check_tool
from ...ttl import Ttl, check_ttl
from ..caches import check_cache, log_of
from ..extras import missing_extra
from ..tool_lifetimes import lifetimes_of
from ..tool_results import ResultForms, tool_result
from ..tool_scopes import check_scope, scope_of

try:
    from google.adk.agents.callback_context import CallbackContext
    from google.adk.models.llm_request import LlmRequest
    from google.adk.plugins import BasePlugin
    from google.adk.tools.base_tool import BaseTool
    from google.adk.tools.function_tool import FunctionTool
    from google.adk.tools.tool_context import ToolContext
except ImportError as error:
    raise missing_extra("google-adk", error) from error

__all__ = ["TierCachePlugin"]

_FIELD: Final = "google_adk"


class TierCachePlugin(BasePlugin):
    """A plugin for the apps and runners of ADK that runs each tool call once: an equal call gets the stored result.

    Calls are equal if the name of the tool, its function, the arguments and the scope are. Equal calls at the same
    time, of any process, run the tool once. Not stored are results that JSON does not restore, results with an
    ``error``, and those of calls that change the state, save an artifact, ask for a credential, or have any other
    action. Tools that run long, and those that need a confirmation, are not cached. While Valkey is unavailable, the
    tools run.

    Args:
        cache: The cache.
        tools: The names of the tools whose results are stored: tools that only read. A mapping also gives each tool
            its lifetime, or None.
        ttl: Lifetime of the results. None takes that of the tool's policy, then the tool tier's, then the cache's.
        tags: Names by which the results can be invalidated together with other entries.
        scope: Returns for the context of a tool a name that joins the key, so that calls with different names share no
            result. Without a scope, the plugin caches only functions that do not take the context.
        name: The name of the plugin.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(
        self,
        cache: AgentCache,
        *,
        tools: Iterable[str] | Mapping[str, Ttl | None],
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        scope: Callable[[ToolContext], str] | None = None,
        name: str = "tiercache",
    ) -> None:
        super().__init__(name)
        check_cache(cache)
        ttls = lifetimes_of(tools, check_tool)
        if ttl is not None:
            check_ttl(ttl)
        tag_groups(tags)
        check_scope(scope)
        self._rules = _Rules(
            cache, {tool: ttl if own is None else own for tool, own in ttls.items()}, tuple(tags), scope
        )

    async def before_model_callback(self, *, callback_context: CallbackContext, llm_request: LlmRequest) -> None:
        """Replace the named tools of a request by cached tools. ADK calls this."""
        for name, tool in llm_request.tools_dict.items():
            if name in self._rules.ttls and not isinstance(tool, _CachedTool):
                if reason := self._rules.refusal(tool):
                    log_of(self._rules.cache).warn_once("the tool %r is not cached: %s", name, reason)
                else:
                    llm_request.tools_dict[name] = _CachedTool(tool, self._rules)


class _Rules(NamedTuple):
    """The rules by which results are cached."""

    cache: AgentCache
    ttls: dict[str, Ttl | None]
    tags: tuple[str, ...]
    scope: Callable[[ToolContext], str] | None

    def refusal(self, tool: BaseTool) -> str | None:
        """Return the reason why a tool is not cached, or None."""
        if tool.is_long_running or getattr(tool, "_defers_response", False):
            return "it answers later"
        if getattr(tool, "_require_confirmation", False):
            return "it needs a confirmation"
        if self.scope is None and _takes_context(tool):
            return "its result may depend on the context, and the plugin has no scope"
        return None

    def key_args(self, tool: BaseTool, args: dict[str, Any], context: ToolContext) -> dict[str, Any] | None:
        """Return the arguments that make the key of a call, or None if its result is not cached."""
        key: dict[str, Any] = {"args": args, "tool": _code_of(tool)}
        if self.scope is not None:
            key["scope"] = scope_of(self.scope, context)
        try:
            compact_json(key, "args")
        except UsageError as error:
            log_of(self.cache).warn_once("a call of the tool %r has no key, and is not cached: %s", tool.name, error)
            return None
        # A caller of ``tool.get_or_load`` stores values of another form: the entries must not meet.
        return {**key, _FIELD: True}


class _CachedTool(BaseTool):
    """A tool whose results are cached. It has the attributes of the tool for which it stands."""

    def __init__(self, tool: BaseTool, rules: _Rules) -> None:
        super().__init__(name=tool.name, description=tool.description)
        for attribute, value in vars(tool).items():
            setattr(self, attribute, value)
        self._tool = tool
        self._rules = rules

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_tool"], name)

    def _get_declaration(self) -> Any:
        return self._tool._get_declaration()

    async def check_require_confirmation(self, args: dict[str, Any], tool_context: ToolContext) -> bool:
        """Return whether the call needs a confirmation. ADK calls this."""
        return bool(await self._tool.check_require_confirmation(args, tool_context))

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """Return the result of a call from the cache, or else run the tool. ADK calls this."""
        rules, tool = self._rules, self._tool
        key = rules.key_args(tool, args, tool_context)
        if key is None:
            return await tool.run_async(args=args, tool_context=tool_context)
        return await tool_result(
            rules.cache,
            (tool.name, key),
            lambda: tool.run_async(args=args, tool_context=tool_context),
            _Forms(tool_context),
            ttl=rules.ttls[tool.name],
            tags=rules.tags,
        )


class _Forms(ResultForms):
    """Converts the results of one call."""

    def __init__(self, context: ToolContext) -> None:
        super().__init__(_FIELD, {})
        self._context = context

    def to_json(self, result: Any) -> dict[str, Any] | None:
        """Return the value to store, or None for a result that belongs to this call alone."""
        actions = self._context.actions
        if _is_error(result) or any(getattr(actions, name) for name in type(actions).model_fields):
            return None
        return super().to_json(result)


def _is_error(result: object) -> bool:
    return isinstance(result, dict) and bool(
        result.get("error") or result.get("isError") or str(result.get("status")).lower() == "error"
    )


def _takes_context(tool: BaseTool) -> bool:
    """Return whether a tool may read the state, the user or a credential; True if in doubt."""
    if type(tool) is not FunctionTool:
        return True
    try:
        parameters = inspect.signature(tool.func).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(each.name == "tool_context" or "Context" in str(each.annotation) for each in parameters)


def _code_of(tool: BaseTool) -> str:
    """Return the name of the function or class of a tool: tools of two agents may have the same name."""
    code = tool.func if isinstance(tool, FunctionTool) else type(tool)
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', type(code).__qualname__)}"
