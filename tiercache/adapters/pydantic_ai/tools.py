"""A capability of Pydantic AI that takes the results of tools from the tool tier.

The capability wraps the toolset of the agent, below the hooks of other capabilities: these see each call and each
result, whether the tool runs or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from ..tool_results import ResultForms, is_plain_json, tool_result
from ..tool_scopes import check_scope, scope_of

try:
    from pydantic import TypeAdapter
    from pydantic_ai import RunContext, ToolReturn, messages
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, UsageLimitExceeded
    from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

    from ..object_digest import object_digest
except ImportError as error:
    raise missing_extra("pydantic-ai", error) from error

__all__ = ["TierCacheTools"]

_FIELD: Final = "pydantic_ai"
_CONTENTS: Final[tuple[type[Any], ...]] = (
    messages.AudioUrl,
    messages.BinaryContent,
    messages.BinaryImage,
    messages.CachePoint,
    messages.DocumentUrl,
    messages.ImageUrl,
    messages.TextContent,
    messages.UploadedFile,
    messages.VideoUrl,
)
# Errors of a run that an equal call of another run must not get: a question about that run, and the end of its budget.
_OWN_ERRORS: Final = (ApprovalRequired, CallDeferred, UsageLimitExceeded)


class _Rules(NamedTuple):
    """The rules by which results are cached."""

    cache: AgentCache
    ttls: Mapping[str, Ttl | None]
    ttl: Ttl | None
    tags: tuple[str, ...]
    scope: Callable[[RunContext[Any]], str] | None
    forms: ResultForms


class TierCacheTools(AbstractCapability[Any]):
    """A capability that runs each call of the named tools once: an equal call gets its result from the tool tier.

    Calls are equal if the name of the tool, the validated arguments and the scope are. Equal calls at the same time, of
    any process, run the tool once. Retries, approvals and other exceptions are not stored, and neither is a result that
    JSON does not restore as it is. While Valkey is unavailable, the tools run. They also run, and one warning is
    logged, if the cache is closed, has no such face, or belongs to another event loop.

    Args:
        cache: The cache.
        tools: The names of the tools whose results are stored. A mapping also gives each tool its lifetime, or None.
        ttl: Lifetime of the results. None takes that of the tool's policy, then the tool tier's, then the cache's.
        tags: Names by which the results can be invalidated together with other entries.
        scope: Returns for the context of a call a name that joins the key, so that calls with different names share
            no result. Without a scope, only function tools that do not take the context are cached.
        classes: Classes of results to restore, such as pydantic models: an allow-list.

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
        scope: Callable[[RunContext[Any]], str] | None = None,
        classes: Iterable[type[Any]] = (),
    ) -> None:
        ttls = lifetimes_of(tools, check_tool)
        if ttl is not None:
            check_ttl(ttl)
        check_scope(scope)
        tag_groups(tags)
        adapters = {kind: TypeAdapter[Any](kind) for kind in (*_CONTENTS, *classes)}
        forms = ResultForms(_FIELD, adapters, (ToolReturn,))
        self._rules = _Rules(check_cache(cache), ttls, ttl, tuple(tags), scope, forms)

    @classmethod
    def get_serialization_name(cls) -> str | None:
        """Return None: a specification in a file names no cache."""
        return None

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Return the toolset of the agent behind the cache. Pydantic AI calls this for each run."""
        return _CachedToolset(toolset, self._rules)


@dataclass
class _CachedToolset(WrapperToolset[Any]):
    """A toolset behind the cache."""

    rules: _Rules

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Return the result of a tool call from the cache, or else run the tool."""

        async def run() -> Any:
            return await self.wrapped.call_tool(name, tool_args, ctx, tool)

        args = _key_args(name, tool_args, ctx, tool, self.rules)
        if args is None:
            return await run()
        ttl = self.rules.ttls[name]
        options: dict[str, Any] = {"ttl": self.rules.ttl if ttl is None else ttl, "tags": self.rules.tags}
        cache, forms = self.rules.cache, self.rules.forms
        return await tool_result(cache, (name, args), run, forms, own_errors=_OWN_ERRORS, **options)


def _key_args(
    name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any], rules: _Rules
) -> dict[str, Any] | None:
    """Return the arguments that make the key of a call, or None if its result is not cached."""
    # The result of a call that was approved is for that call: the next one must be approved too.
    if name not in rules.ttls or tool.tool_def.kind != "function" or ctx.tool_call_approved:
        return None
    log = log_of(rules.cache)
    args: dict[str, Any] = {}
    if rules.scope is not None:
        args["scope"] = scope_of(rules.scope, ctx)
    elif _takes_context(tool):
        log.warn_once("the tool %r may take more than its arguments, and has no scope: it is not cached", name)
        return None
    try:
        if is_plain_json(tool_args):
            args["args"] = tool_args
        else:
            args["digest"] = object_digest(tool_args, "the arguments").hex()
        compact_json(args, "args")
    except UsageError as error:
        log.warn_once("a call of the tool %r has no key, and is not cached: %s", name, error)
        return None
    # A caller of ``tool.get_or_load`` stores values of another form: the entries must not meet.
    return {**args, _FIELD: True}


def _takes_context(tool: Any) -> bool:
    """Return whether a tool takes the context of the run; True for a tool that is no plain function."""
    # A toolset that combines others wraps their tools.
    while (source := getattr(tool, "source_tool", None)) is not None:
        tool = source
    schema = getattr(getattr(tool, "call_func", None), "__self__", None)
    return getattr(schema, "takes_ctx", True) is not False
