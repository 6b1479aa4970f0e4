"""Function tools of OpenAI Agents whose results are entries of the tool tier.

A tool that ``function_tool`` has made turns the exception of its function into an answer for the model. So the cache
stands inside of that tool, around the function: an error is an exception there, and is never stored.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from copy import copy
from functools import wraps
from typing import Any, Final, NamedTuple

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...tiers.keys.canonical_json import compact_json
from ...tiers.tool.key import check_tool
from ...ttl import Ttl, check_ttl
from ..caches import check_cache, log_of
from ..extras import missing_extra
from ..tool_results import ResultForms, tool_result
from ..tool_scopes import check_scope, scope_of

try:
    from agents import FunctionTool, RunContextWrapper
    from agents.tool import ToolOutputFileContent, ToolOutputImage, ToolOutputText
    from agents.tool_context import ToolContext
    from pydantic import TypeAdapter
except ImportError as error:
    raise missing_extra("openai-agents", error) from error

__all__ = ["cache_tools"]

_FIELD: Final = "openai_agents"
_OUTPUTS: Final = (ToolOutputText, ToolOutputImage, ToolOutputFileContent)
# The attribute of a tool of ``function_tool`` with the call of its function, in which exceptions are not yet answers.
_FUNCTION_CALL: Final = "_invoke_tool_impl"

Invoke = Callable[[Any, str], Awaitable[Any]]


def cache_tools(
    cache: AgentCache,
    tools: Iterable[FunctionTool],
    *,
    ttl: Ttl | None = None,
    tags: Sequence[str] = (),
    scope: Callable[[RunContextWrapper[Any]], str] | None = None,
    classes: Iterable[type[Any]] = (),
) -> list[FunctionTool]:
    """Return copies of function tools that run each call once: an equal call gets its result from the tool tier.

    Calls are equal if the name of the tool, the arguments and the scope are. Equal calls at the same time, of any
    process, run the function once. The copies keep the approvals, guardrails, timeouts and error functions of the
    tools, which apply to every call. Errors are not stored, and neither is a result that JSON does not restore as it
    is. While Valkey is unavailable, the functions run. They also run, and one warning is logged, if the cache is
    closed, has no such face, or belongs to another event loop.

    Args:
        cache: The cache.
        tools: The tools, made by ``function_tool`` or as a ``FunctionTool``. Each must depend on its arguments alone,
            or the call needs a ``scope``.
        ttl: Lifetime of the results. None takes that of the tool's policy, then the tool tier's, then the cache's.
        tags: Names by which the results can be invalidated together with other entries.
        scope: Returns for the context of a call a name that joins the key, so that calls with different names share
            no result. Required for a tool whose function takes the context of the run, and for a ``FunctionTool`` that
            ``function_tool`` has not made.
        classes: Classes of results to restore, such as pydantic models: an allow-list.

    Raises:
        UsageError: An argument is wrong; also a tool that the provider runs, an agent as a tool, and a tool that needs
            a ``scope``.
    """
    check_cache(cache)
    if ttl is not None:
        check_ttl(ttl)
    tag_groups(tags)
    check_scope(scope)
    given: object = tools
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"tools must be function tools, not {type(tools).__name__}")
    kinds: list[type[Any]] = [*_OUTPUTS, *classes]
    adapters = {kind: TypeAdapter[Any](kind) for kind in kinds}
    rules = _Rules(cache, ttl, tuple(tags), scope, ResultForms(_FIELD, adapters))
    return [_cached(tool, rules) for tool in tools]


class _Rules(NamedTuple):
    """The rules by which results are cached."""

    cache: AgentCache
    ttl: Ttl | None
    tags: tuple[str, ...]
    scope: Callable[[RunContextWrapper[Any]], str] | None
    forms: ResultForms


def _cached(tool: object, rules: _Rules) -> FunctionTool:
    """Return a copy of ``tool`` whose results are cached."""
    if not isinstance(tool, FunctionTool):
        raise UsageError(
            f"tools must be FunctionTool objects, not {type(tool).__name__}: a tool that the provider runs has no "
            "result that this process could keep"
        )
    name: str = getattr(tool, "qualified_name", tool.name)
    check_tool(name)
    if getattr(tool, "_is_agent_tool", False) or getattr(tool, "_is_codex_tool", False):
        raise UsageError(f"the tool {name!r} is an agent: wrap the client of its model by cache.wrap instead")
    if rules.scope is None and _takes_context(tool):
        raise UsageError(
            f"the tool {name!r} gets the context of the run, so that its result may differ between users: pass a scope"
        )
    copied = copy(tool)
    invoker: Any = copied.on_invoke_tool
    if not hasattr(invoker, "__agents_bind_function_tool__"):
        copied.on_invoke_tool = _caching(name, invoker, rules)
        return copied
    function_call = getattr(invoker, _FUNCTION_CALL, None)
    if function_call is None:
        raise UsageError(f"the tool {name!r} cannot be cached: this version of openai-agents is not known")
    # A copy of the tool has an invoker of its own, whose error function is that of the copy.
    setattr(invoker, _FUNCTION_CALL, _caching(name, function_call, rules))
    return copied


def _caching(name: str, invoke: Invoke, rules: _Rules) -> Invoke:
    """Return ``invoke`` behind the cache, with the signature and the attributes of ``invoke``."""
    options: dict[str, Any] = {"ttl": rules.ttl, "tags": rules.tags}

    @wraps(invoke)
    async def invoke_cached(context: Any, arguments: str) -> Any:
        args = _key_args(name, context, arguments, rules)
        if args is None:
            return await invoke(context, arguments)
        call = (name, args)
        call = (name, args)
        return await tool_result(rules.cache, call, lambda: invoke(context, arguments), rules.forms, **options)

    return invoke_cached


def _key_args(name: str, context: Any, arguments: str, rules: _Rules) -> dict[str, Any] | None:
    """Return the arguments that make the key of a call, or None if its result is not cached."""
    try:
        args = {"args": json.loads(arguments) if arguments else {}}
    except (ValueError, RecursionError):
        return None  # The tool has an answer of its own for it.
    if rules.scope is not None:
        args["scope"] = scope_of(rules.scope, context)
    try:
        compact_json(args, "args")
    except UsageError as error:
        log_of(rules.cache).warn_once("a call of the tool %r has no key, and is not cached: %s", name, error)
        return None
    # A caller of ``tool.get_or_load`` stores values of another form: the entries must not meet.
    return {**args, _FIELD: True}


def _takes_context(tool: FunctionTool) -> bool:
    """Return whether the function of a tool takes the context of the run; True if in doubt."""
    try:
        parameters = list(inspect.signature(tool.__wrapped__, eval_str=True).parameters.values())
    # Only a tool of ``function_tool`` has a function; a function may have annotations that cannot be evaluated.
    except Exception:
        return True
    return bool(parameters) and _is_context(parameters[0].annotation)


def _is_context(annotation: Any) -> bool:
    kind = getattr(annotation, "__origin__", annotation)
    return isinstance(kind, type) and issubclass(kind, RunContextWrapper | ToolContext)
