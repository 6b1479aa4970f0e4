"""The cache behind clients of MCP servers: results of tools in the tool tier, and a store for a client's own responses.

The value of an entry of the tool tier is ``{"mcp": <the CallToolResult in MCP's JSON>}``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from hashlib import sha256
from time import time
from typing import Any, Final, TypeVar

from ..agent_cache import AgentCache
from ..engine.call import Mode
from ..errors import UsageError
from ..indexes.names import tag_groups
from ..text import check_text, encode_id, shown
from ..tiers.keys.canonical_json import compact_json
from ..tiers.tool.key import check_tool
from ..ttl import Ttl, check_ttl
from .caches import check_cache, log_of
from .extras import missing_extra
from .tool_lifetimes import lifetimes_of

try:
    from mcp import Client, ClientSession, types
    from mcp.client import CacheEntry, CacheKey
    from pydantic import BaseModel, ValidationError
except ImportError as error:
    raise missing_extra("mcp", error) from error

__all__ = ["TierCacheResponseStore", "TierCacheTools"]

_Response = TypeVar("_Response", bound=BaseModel)
_FIELD: Final = "mcp"
# Most pages of a list of tools that are read: a server may never end its list.
_MOST_PAGES: Final = 100
# The responses that a client keeps, by the method of their request. Others are not stored.
_RESPONSES: Final[dict[str, type[Any]]] = {
    "prompts/list": types.ListPromptsResult,
    "resources/list": types.ListResourcesResult,
    "resources/read": types.ReadResourceResult,
    "resources/templates/list": types.ListResourceTemplatesResult,
    "tools/list": types.ListToolsResult,
}


class TierCacheTools:
    """Calls the tools of one MCP server, each read-only tool once for equal arguments: later calls get its result.

    Call ``call_tool`` of this object, and not the client's. Equal calls at the same time, of any process, call
    the server once. Results are entries of ``cache.tool``, whose statistics name each tool as ``tier_name`` does. Each
    caller gets a result of its own. Results with ``is_error``, and those for which a server of the newest protocol asks
    for input, are not stored. While Valkey is unavailable, the server
    is called.

    Args:
        cache: The cache.
        client: A connected ``Client`` or ``ClientSession`` of the package ``mcp``.
        server: A name of the server, the same in every process: clients that give the same name share results. Without
            ``:`` and ``/``.
        tools: The names of the tools whose results are stored. A mapping also gives each tool its lifetime, or None.
            None: the tools that the server lists with ``readOnlyHint``. A read-only tool changes nothing, so that a
            call less does no harm: MCP gives ``idempotentHint`` a meaning for other tools alone. A server that denies
            it all the same says that equal calls differ, and the tool is not cached. The list is read once, and again
            for a name that it lacks. Hints are claims of the server: name the tools of a server that you do not trust.
        ttl: Lifetime of the results. None takes that of the tool's policy, then the tool tier's, then the cache's.
        tags: Names by which the results can be invalidated together with other entries.
        scope: A name that joins the key, such as the id of the user whose rights the client has: clients with
            different scopes share no result.

    Raises:
        UsageError: An argument is wrong.
    """

    def __init__(
        self,
        cache: AgentCache,
        client: Client | ClientSession,
        *,
        server: str,
        tools: Iterable[str] | Mapping[str, Ttl | None] | None = None,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        scope: str | None = None,
    ) -> None:
        self._cache = check_cache(cache)
        if not isinstance(client, Client | ClientSession):
            raise UsageError(f"client must be a Client or a ClientSession of mcp, not {type(client).__name__}")
        check_text(server, "server")
        if not server or ":" in server or "/" in server:
            raise UsageError(f"server must be a name that is not empty and has no ':' and no '/', not {shown(server)}")
        if ttl is not None:
            check_ttl(ttl)
        tag_groups(tags)
        self._client: Any = client
        self._server = server
        self._ttls = None if tools is None else lifetimes_of(tools, partial(check_text, name="the name of a tool"))
        self._ttl = ttl
        self._tags = tuple(tags)
        self._scope = None if scope is None else check_text(scope, "scope")
        self._read_only: dict[str, bool] = {}
        self._listing = asyncio.Lock()

    def tier_name(self, tool: str) -> str:
        """Return the name of a tool in the tool tier: the argument of ``cache.tool.invalidate_by_tool``.

        It is ``<server>/<tool>``, with ``%25`` and ``%3A`` for ``%`` and ``:`` in the name of the tool.
        """
        return f"{self._server}/{encode_id(check_text(tool, 'tool'))}"

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None,
        progress_callback: Any = None,
        *,
        mode: Mode = "use",
        **options: Any,
    ) -> types.CallToolResult:
        """Return the result of a tool call from the cache, or else call the server.

        The timeout and the progress of a call that waits for an equal call are those of the equal call.

        Args:
            name: The name of the tool.
            arguments: The arguments of the tool, or None.
            read_timeout_seconds: Seconds to wait for the server.
            progress_callback: Called by the client with the progress of the tool.
            mode: "use"; "refresh" calls the server, and stores the result; "bypass" neither looks nor stores.
            options: Other options of the client's ``call_tool``. A call with one of them passes by the cache.

        Raises:
            UsageError: ``mode`` is another one, or the cache is closed.
            WrongLoopError: The cache belongs to another event loop.
            TimeoutError: The call took longer than ``ResilienceOptions.load_timeout``.

        Exceptions of the client pass through.
        """
        if mode not in ("use", "refresh", "bypass"):
            raise UsageError(f"mode must be 'use', 'refresh' or 'bypass', not {shown(mode)}")

        async def call() -> types.CallToolResult:
            result: types.CallToolResult = await self._client.call_tool(
                name, arguments, read_timeout_seconds, progress_callback, **options
            )
            return result

        if options or mode == "bypass" or not await self._is_chosen(name):
            return await call()
        args = self._key_args(name, arguments)
        if args is None:
            return await call()

        async def ask() -> Any:
            return await self._ask(name, arguments, read_timeout_seconds, progress_callback)

        return await self._result(_Call(call, ask), name, args, mode)

    async def _ask(self, name: str, arguments: Any, timeout: float | None, progress: Any) -> Any:
        """Call the server, and answer none of its questions: a result made from answers is that of one user."""
        # A subclass may do more in its own call_tool.
        if not isinstance(self._client, Client) or type(self._client).call_tool is not Client.call_tool:
            return await self._client.call_tool(name, arguments, timeout, progress)
        return await self._client.session.call_tool(
            name, arguments, timeout, progress, allow_input_required=True, allow_claimed=True
        )

    async def _result(self, call: _Call, name: str, args: dict[str, Any], mode: Mode) -> types.CallToolResult:
        ttl = (self._ttls or {}).get(name)
        options: dict[str, Any] = {"ttl": self._ttl if ttl is None else ttl, "tags": self._tags}
        tool, get_or_load = self.tier_name(name), self._cache.tool.get_or_load
        try:
            result = call.result_of((await get_or_load(tool, args, call.load, mode=mode, **options)).value)
            if result is None:  # Another program has written the entry.
                result = call.result_of((await get_or_load(tool, args, call.load, mode="refresh", **options)).value)
        except (UsageError, TimeoutError):
            raise
        # Of Valkey, or of the client that makes the call: it may be another client, whose connection has ended.
        except Exception as error:
            result = call.result_after(error)
        return await call.send() if result is None else result

    def _key_args(self, name: str, arguments: object) -> dict[str, Any] | None:
        """Return the arguments that make the key of a call, or None if the call has no key."""
        # The version of the protocol decides about the fields of a result.
        args = {"arguments": arguments, "protocol": self._client.protocol_version}
        if self._scope is not None:
            args["scope"] = self._scope
        try:
            check_tool(self.tier_name(name))
            compact_json(args, "arguments")
        except UsageError as error:
            self._warn("a call of the tool %r has no key, and is not cached: %s", name, error)
            return None
        # A caller of ``tool.get_or_load`` stores values of another form: the entries must not meet.
        return {**args, _FIELD: True}

    async def _is_chosen(self, name: str) -> bool:
        if self._ttls is not None:
            return name in self._ttls
        if name not in self._read_only:
            async with self._listing:
                if name not in self._read_only:
                    await self._list()
        return self._read_only.get(name, False)

    async def _list(self) -> None:
        """Read from the server which of its tools are read-only."""
        cursor: str | None = None
        mode = "refresh" if self._read_only else "use"
        try:
            for _ in range(_MOST_PAGES):
                page = await self._page(cursor, mode)
                self._read_only.update({tool.name: _is_read_only(tool) for tool in page.tools})
                cursor = page.next_cursor
                if cursor is None:
                    return
        # The call of the tool must not fail because its result cannot be cached.
        except Exception as error:
            self._warn("the server %r does not list its tools: no result is cached: %s", self._server, error)

    async def _page(self, cursor: str | None, mode: Any) -> Any:
        if isinstance(self._client, Client):
            # The list that the client keeps may be older than a tool that this object does not know yet.
            return await self._client.list_tools(cursor=cursor, cache_mode=mode)
        return await self._client.list_tools(params=types.PaginatedRequestParams(cursor=cursor))

    def _warn(self, message: str, *details: object) -> None:
        log_of(self._cache).warn_once(message, *details)


class TierCacheResponseStore:
    """A store of the package ``mcp`` for responses, on a kv tier: a client keeps there lists and resources.

    Pass it as ``CacheConfig(store=..., partition=..., target_id=...)`` of a ``Client``. The client keeps the lists of
    tools, prompts and resources, and the contents of resources, for the lifetimes that the server sets. A value that is
    no such response is a miss. While Valkey is unavailable, a lookup is a miss, and the client goes on without the
    store when one of the other methods raises.

    Every method raises:
        UsageError: The cache is closed.
        L2UnavailableError: Valkey did not answer a change. The change may or may not have happened.
        L2CommandError: Valkey refused a change.

    Args:
        cache: The cache.
        tier: The name of the kv tier, which has no other user. ``cache.tier(name, TierOptions(...))`` gives it options.

    Raises:
        UsageError: ``cache`` is no AgentCache, or ``tier`` is no name of a tier.
    """

    def __init__(self, cache: AgentCache, tier: str = "mcp") -> None:
        self._tier = check_cache(cache).tier(tier)

    async def get(self, key: CacheKey) -> CacheEntry | None:
        """Return the entry of ``key``, or None."""
        stored, model = await self._tier.get(_name(key)), _RESPONSES.get(key.method)
        if model is None or not isinstance(stored, dict):
            return None
        value, scope, end = _restored(stored.get(_FIELD), model), stored.get("scope"), stored.get("expires_at")
        if value is None or scope not in ("public", "private") or not isinstance(end, int | float):
            return None
        return CacheEntry(value=value, scope=scope, expires_at=float(end))

    async def set(self, key: CacheKey, entry: CacheEntry) -> None:
        """Store an entry until it expires, or remove that of ``key`` if it cannot be kept."""
        model = _RESPONSES.get(key.method)
        seconds = 0.0 if entry.expires_at is None else entry.expires_at - time()
        data = _json_of(entry.value, model) if model is not None and seconds > 0 else None
        if data is None:
            await self.delete(key)
            return
        value = {_FIELD: data, "scope": entry.scope, "expires_at": entry.expires_at}
        await self._tier.set(_name(key), value, ttl=max(seconds, 0.001))

    async def delete(self, key: CacheKey) -> None:
        """Remove the entry of ``key``."""
        await self._tier.delete(_name(key))

    async def clear(self) -> None:
        """Remove all entries."""
        await self._tier.clear()


class _NotStoredError(Exception):
    """The server has answered, and the answer is not stored. Every call that waited for the answer gets this error.

    Attributes:
        result: The answer, or None if the server has a question, which each call must answer itself.
    """

    def __init__(self, result: types.CallToolResult | None) -> None:
        super().__init__("the result of the tool is not stored")
        self.result = result


class _Call:
    """One call of a tool.

    Args:
        send: Calls the server, and answers its questions.
        ask: Calls the server, and returns its question if it has one.
    """

    def __init__(self, send: Callable[[], Awaitable[types.CallToolResult]], ask: Callable[[], Awaitable[Any]]) -> None:
        self.send = send
        self._ask = ask
        self._own: types.CallToolResult | None = None
        self._has_begun = False

    async def load(self) -> dict[str, Any]:
        """Call the server; return the value to store."""
        self._has_begun = True
        result = await self._ask()
        if not isinstance(result, types.CallToolResult):
            raise _NotStoredError(None)
        self._own = result
        # An error may be gone at the next call.
        data = None if getattr(result, "is_error", True) else _json_of(result, types.CallToolResult)
        if data is None:
            # The caller of this call may change its result before the others copy it.
            raise _NotStoredError(deepcopy(result))
        return {_FIELD: data}

    def result_of(self, value: object) -> types.CallToolResult | None:
        """Return the result of this call, or None if ``value``, which the cache has returned, is no result."""
        if self._own is not None:
            return self._own
        return _restored(value.get(_FIELD), types.CallToolResult) if isinstance(value, dict) else None

    def result_after(self, error: Exception) -> types.CallToolResult | None:
        """Return the result of this call after ``error``, or None if the call must be made without the cache.

        Raises:
            Exception: ``error``, if the call's own request has raised it.
        """
        if self._own is not None:
            return self._own
        if isinstance(error, _NotStoredError):
            return deepcopy(error.result)
        if self._has_begun:
            raise error
        return None


def _is_read_only(tool: types.Tool) -> bool:
    hints = tool.annotations
    return hints is not None and hints.read_only_hint is True and hints.idempotent_hint is not False


def _json_of(value: Any, model: type[Any]) -> dict[str, Any] | None:
    """Return the JSON of a response, or None if the JSON does not restore it as it is.

    Raises:
        ValueError: The response has an object that JSON does not have.
    """
    if type(value) is not model:
        return None
    # Without the fields that are not set the JSON is short, but a block that a program has made may lack its type.
    for exclude_unset in (True, False):
        data: dict[str, Any] = value.model_dump(mode="json", by_alias=True, exclude_unset=exclude_unset)
        if _restored(data, model) == value:
            return data
    return None


def _restored(data: object, model: type[_Response]) -> _Response | None:
    """Return the response that ``data`` describes, or None."""
    try:
        restored = model.model_validate(data)
    except ValidationError:
        return None
    return restored


def _name(key: CacheKey) -> str:
    """Return the key in the kv tier. A JSON array keeps the fields apart."""
    return sha256(json.dumps([key.method, key.params_key, key.partition]).encode()).hexdigest()
