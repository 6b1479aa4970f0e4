"""TierCacheTools with a client and a server of MCP: which calls reach the server, and how a result comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("mcp")

from mcp import Client, ClientSession, types
from mcp.server.mcpserver import Elicit, Resolve
from pydantic import BaseModel

from tests.adapters.mcp.servers import READ_ONLY, CountingServer
from tests.adapters.mortal_server import MortalServer
from tests.support import Pair, entry_keys, until
from tiercache import AgentCache, ResilienceOptions, UsageError
from tiercache.adapters.mcp import TierCacheTools

# The drain at the end does not wait for a server that is gone.
SOON = ResilienceOptions(drain_timeout=0.5)
QUERY = {"query": "a"}


@pytest.fixture
def upstream() -> CountingServer:
    return CountingServer()


@pytest.fixture
async def client(upstream: CountingServer) -> AsyncIterator[Client]:
    """Return a client, which a task of its own opens and closes: the scopes of anyio belong to one task."""
    opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def hold() -> None:
        async with Client(upstream) as client:
            opened.set_result(client)
            await done.wait()

    task = asyncio.create_task(hold())
    yield await opened
    done.set()
    await task


def text_of(result: types.CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    return block.text


async def test_equal_call_gets_the_result_of_the_first(cache: AgentCache, client: Client, upstream: Any) -> None:
    tools = TierCacheTools(cache, client, server="s")
    first = await tools.call_tool("search", QUERY)
    for _ in range(2):
        assert await tools.call_tool("search", QUERY) == first
        await cache.flush_writes()
        cache.clear_l1()
    assert text_of(first) == "result 1 for a"
    assert upstream.counts["search"] == 1
    assert upstream.counts["list"] == 1


async def test_processes_share_a_result(replicas: Pair, client: Client, upstream: Any) -> None:
    for cache in replicas:
        assert text_of(await TierCacheTools(cache, client, server="s").call_tool("search", QUERY)) == "result 1 for a"
        await cache.flush_writes()
    assert upstream.counts["search"] == 1


async def test_session_of_a_client_is_a_client(memory: AgentCache, client: Client, upstream: Any) -> None:
    assert isinstance(client.session, ClientSession)
    tools = TierCacheTools(memory, client.session, server="s")
    for _ in range(2):
        assert text_of(await tools.call_tool("search", QUERY)) == "result 1 for a"
    assert upstream.counts["search"] == 1


async def test_call_with_other_arguments_server_or_scope_has_a_result_of_its_own(
    memory: AgentCache, client: Client, upstream: Any
) -> None:
    of_s, of_t = (TierCacheTools(memory, client, server=name) for name in "st")
    of_ada, of_bob = (TierCacheTools(memory, client, server="s", scope=scope) for scope in ("ada", "bob"))
    for _ in range(2):
        texts = [text_of(await tools.call_tool("search", QUERY)) for tools in (of_s, of_t, of_ada, of_bob)]
        texts.append(text_of(await of_s.call_tool("search", {"query": "b"})))
        assert texts == [*(f"result {number} for a" for number in range(1, 5)), "result 5 for b"]
    assert upstream.counts["search"] == 5


@pytest.mark.parametrize(
    ("hints", "count"),
    [
        (READ_ONLY, 1),
        (types.ToolAnnotations(read_only_hint=True, idempotent_hint=True), 1),
        (types.ToolAnnotations(read_only_hint=True, idempotent_hint=False), 2),
        (types.ToolAnnotations(read_only_hint=False, idempotent_hint=True), 2),
        (types.ToolAnnotations(idempotent_hint=True), 2),
        (None, 2),
    ],
)
async def test_tools_are_cached_by_the_hints_of_the_server(
    memory: AgentCache, client: Client, upstream: Any, hints: types.ToolAnnotations | None, count: int
) -> None:
    upstream.add_tool(upstream.search, name="find", annotations=hints)
    tools = TierCacheTools(memory, client, server="s")
    for _ in range(2):
        await tools.call_tool("find", QUERY)
    assert upstream.counts["search"] == count


@pytest.mark.parametrize("named", [["find"], {"find": "1h"}, {"find": None}])
async def test_named_tools_alone_are_cached_if_any_are_named(
    memory: AgentCache, client: Client, upstream: Any, named: Any
) -> None:
    upstream.add_tool(upstream.search, name="find")
    tools = TierCacheTools(memory, client, server="s", tools=named)
    for _ in range(2):
        await tools.call_tool("find", QUERY)
        await tools.call_tool("search", QUERY)
    assert upstream.counts["search"] == 3


async def test_lifetime_of_a_tool_is_that_of_its_result(
    cache: AgentCache, client: Client, plain: valkey.Valkey
) -> None:
    tools = TierCacheTools(cache, client, server="s", tools={"search": "1h"}, ttl="1d")
    await tools.call_tool("search", QUERY)
    await cache.flush_writes()
    (key,) = entry_keys(plain)
    assert 3000 < plain.ttl(key) <= 3600


async def test_tool_that_the_server_adds_later_is_cached(memory: AgentCache, client: Client, upstream: Any) -> None:
    tools = TierCacheTools(memory, client, server="s")
    await tools.call_tool("search", QUERY)
    upstream.add_tool(upstream.search, name="find", annotations=READ_ONLY)
    for _ in range(2):
        assert text_of(await tools.call_tool("find", QUERY)) == "result 2 for a"


async def test_call_does_not_need_the_list_of_tools(memory: AgentCache, upstream: Any) -> None:
    class WithoutList(Client):
        async def list_tools(self, **_: Any) -> Any:
            raise ValueError("no list")

    async with WithoutList(upstream) as client:
        tools = TierCacheTools(memory, client, server="s")
        for number in (1, 2):
            assert text_of(await tools.call_tool("search", QUERY)) == f"result {number} for a"


async def test_list_of_tools_without_an_end_is_left(memory: AgentCache, upstream: Any) -> None:
    class WithoutEnd(Client):
        async def list_tools(self, **options: Any) -> Any:
            return (await super().list_tools()).model_copy(update={"next_cursor": "more"})

    async with WithoutEnd(upstream) as client:
        tools = TierCacheTools(memory, client, server="s")
        for _ in range(2):
            assert text_of(await tools.call_tool("search", QUERY)) == "result 1 for a"


async def test_equal_calls_at_the_same_time_call_the_server_once(
    memory: AgentCache, client: Client, upstream: Any
) -> None:
    tools = TierCacheTools(memory, client, server="s")
    await tools.call_tool("search", QUERY)
    calls = [asyncio.create_task(tools.call_tool("wait")) for _ in range(5)]
    await until(lambda: upstream.counts["wait"] == 1)
    upstream.release.set()
    results = await asyncio.gather(*calls)
    assert upstream.counts["wait"] == 1
    for result in results:
        assert result.structured_content == {"a": [1]}
        # The result is the caller's own.
        result.structured_content["a"].append(2)
        result.content.clear()
    assert (await tools.call_tool("wait")).structured_content == {"a": [1]}


async def test_error_of_a_tool_reaches_every_equal_call_of_the_time_and_is_not_stored(
    memory: AgentCache, client: Client, upstream: Any
) -> None:
    tools = TierCacheTools(memory, client, server="s")

    async def call() -> str:
        result = await tools.call_tool("wait", {"result": "error"})
        assert result.is_error
        text = text_of(result)
        result.content.clear()
        return text

    await tools.call_tool("search", QUERY)
    calls = [asyncio.create_task(call()) for _ in range(3)]
    await until(lambda: upstream.counts["wait"] == 1)
    upstream.release.set()
    assert await asyncio.gather(*calls) == ["error 1"] * 3
    assert await call() == "error 2"


async def test_call_whose_connection_ends_does_not_fail_an_equal_call_of_another_client(
    memory: AgentCache, client: Client, upstream: Any
) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    class Dying(Client):
        async def call_tool(self, *_: Any, **__: Any) -> Any:
            upstream.counts["dying"] += 1
            begun.set()
            await end.wait()
            raise ConnectionError("the connection has ended")

    async with Dying(upstream) as dying:
        first, second = (TierCacheTools(memory, each, server="s", tools=["wait"]) for each in (dying, client))
        leader = asyncio.create_task(first.call_tool("wait"))
        await begun.wait()
        follower = asyncio.create_task(second.call_tool("wait"))
        await asyncio.sleep(0.05)
        assert upstream.counts["wait"] == 0
        upstream.release.set()
        end.set()
        with pytest.raises(ConnectionError):
            await leader
        assert text_of(await follower) == "found 1"
    assert upstream.counts["dying"] == 1


FULL = types.CallToolResult(
    content=[
        types.TextContent(type="text", text="é 🌊", annotations=types.Annotations(audience=["user"], priority=0.5)),
        types.ImageContent(type="image", data="AAAA", mime_type="image/png", _meta={"a": {"b": [1, None]}}),
        types.AudioContent(type="audio", data="AAAA", mime_type="audio/wav"),
        types.ResourceLink(type="resource_link", uri="file:///a", name="a", size=3),
        types.EmbeddedResource(
            type="resource", resource=types.TextResourceContents(uri="file:///a", mime_type="text/plain", text="a")
        ),
        types.EmbeddedResource(
            type="resource", resource=types.BlobResourceContents(uri="file:///b", mime_type="image/png", blob="AAAA")
        ),
    ],
    structured_content={"a": [1, 2.5, None, True, {"snake_case": "camelCase"}], "": 10**20},
    _meta={"example.com/x": [1]},
)


async def test_whole_result_comes_back(cache: AgentCache, client: Client, upstream: Any) -> None:
    upstream.add_tool(lambda: FULL, name="full", annotations=READ_ONLY, structured_output=False)
    tools = TierCacheTools(cache, client, server="s")
    first = await tools.call_tool("full")
    await cache.flush_writes()
    cache.clear_l1()
    second = await tools.call_tool("full")
    assert (await cache.stats()).tool.hits == 1
    assert second == first
    assert second.model_dump_json(exclude_unset=True) == first.model_dump_json(exclude_unset=True)
    assert second.content == FULL.content
    assert second.structured_content == FULL.structured_content


MADE = types.CallToolResult(content=[types.AudioContent(data="AAAA", mime_type="audio/wav")])
ODD = types.CallToolResult(content=[], structured_content={1: (2,)})
UNDUMPED = types.CallToolResult(content=[], structured_content=object())


@pytest.mark.parametrize(("made", "count"), [(MADE, 1), (ODD, 2), (UNDUMPED, 2)])
async def test_result_that_json_does_not_restore_is_not_stored(
    cache: AgentCache, upstream: Any, made: types.CallToolResult, count: int
) -> None:
    calls = []

    class Maker(Client):
        async def call_tool(self, *_: Any, **__: Any) -> Any:
            calls.append(made)
            return made

    async with Maker(upstream) as client:
        tools = TierCacheTools(cache, client, server="s", tools=["make"])
        for _ in range(2):
            assert await tools.call_tool("make") == made
            await cache.flush_writes()
            cache.clear_l1()
    assert len(calls) == count


async def test_clients_of_other_versions_of_the_protocol_share_no_result(memory: AgentCache, upstream: Any) -> None:
    for mode in ("auto", "legacy", "auto", "legacy"):
        async with Client(upstream, mode=mode) as client:
            await TierCacheTools(memory, client, server="s").call_tool("search", QUERY)
    assert upstream.counts["search"] == 2


async def test_results_of_a_client_and_of_the_tier_do_not_meet(memory: AgentCache, client: Client) -> None:
    args = {"arguments": QUERY, "protocol": client.protocol_version}
    await memory.tool.store("s/search", args, "mine")
    tools = TierCacheTools(memory, client, server="s")
    assert text_of(await tools.call_tool("search", QUERY)) == "result 1 for a"
    assert (await memory.tool.check("s/search", args)).value == "mine"


async def test_calls_at_the_same_time_read_the_list_of_tools_once(
    memory: AgentCache, client: Client, upstream: Any
) -> None:
    tools = TierCacheTools(memory, client, server="s")
    await asyncio.gather(*(tools.call_tool("search", {"query": query}) for query in "abcde"))
    assert upstream.counts["list"] == 1


@pytest.mark.parametrize(("tool", "name"), [("a:b", "s/a%3Ab"), ("a%3Ab", "s/a%253Ab"), ("search", "s/search")])
async def test_results_of_a_tool_can_be_invalidated_and_counted_by_its_name_in_the_tier(
    cache: AgentCache, client: Client, upstream: Any, tool: str, name: str
) -> None:
    if tool != "search":
        upstream.add_tool(upstream.search, name=tool)
    tools = TierCacheTools(cache, client, server="s", tools=[tool])
    assert tools.tier_name(tool) == name
    for _ in range(2):
        assert text_of(await tools.call_tool(tool, QUERY)) == "result 1 for a"
    assert [each.tool for each in await cache.tool_effectiveness()] == [name]
    assert await cache.tool.invalidate_by_tool(name) == 1
    assert text_of(await tools.call_tool(tool, QUERY)) == "result 2 for a"


@pytest.mark.parametrize(("name", "query"), [("long" * 200, "a"), ("find", date(2026, 1, 2))])
async def test_call_without_a_key_reaches_the_server(
    memory: AgentCache, client: Client, upstream: Any, name: str, query: Any
) -> None:
    upstream.add_tool(upstream.search, name=name)
    tools = TierCacheTools(memory, client, server="s", tools=[name])
    for number in (1, 2):
        assert text_of(await tools.call_tool(name, {"query": query})) == f"result {number} for {query}"


async def test_call_with_other_options_passes_by_the_cache(memory: AgentCache, client: Client, upstream: Any) -> None:
    tools = TierCacheTools(memory, client, server="s")
    for number in (1, 2):
        assert text_of(await tools.call_tool("search", QUERY, meta={"a": 1})) == f"result {number} for a"
    assert memory.local_stats().tiers["tool"].misses == 0


async def test_mode_of_a_call_refreshes_or_bypasses(memory: AgentCache, client: Client) -> None:
    tools = TierCacheTools(memory, client, server="s")
    modes: tuple[Any, ...] = ("use", "bypass", "use", "refresh", "use")
    texts = [text_of(await tools.call_tool("search", QUERY, mode=mode)) for mode in modes]
    assert texts == [f"result {number} for a" for number in (1, 2, 1, 3, 3)]


@pytest.mark.parametrize("foreign", ["text", {"mcp": {"content": 1}}, {"mcp": "x"}, {"other": 1}, [1], None])
async def test_entry_that_is_no_result_is_a_miss_and_is_replaced(
    memory: AgentCache, client: Client, upstream: Any, foreign: Any
) -> None:
    tools = TierCacheTools(memory, client, server="s")
    args = {"arguments": QUERY, "protocol": client.protocol_version, "mcp": True}
    await memory.tool.store("s/search", args, foreign)
    for _ in range(2):
        assert text_of(await tools.call_tool("search", QUERY)) == "result 1 for a"
    assert upstream.counts["search"] == 1


async def test_tools_are_called_without_valkey(mortal_server: MortalServer, client: Client, upstream: Any) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=SOON) as cache:
        tools = TierCacheTools(cache, client, server="s")
        call = asyncio.create_task(tools.call_tool("wait"))
        await until(lambda: upstream.counts["wait"] == 1)
        mortal_server.kill()
        upstream.release.set()
        assert text_of(await call) == "found 1"
        cache.clear_l1()
        assert text_of(await tools.call_tool("search", QUERY)) == "result 1 for a"


async def test_tools_are_called_where_valkey_refuses_the_credentials(url: str, client: Client) -> None:
    cache = AgentCache.from_url(url.replace("unix://", "unix://nobody:wrong@"), resilience=SOON)
    try:
        tools = TierCacheTools(cache, client, server="s")
        assert text_of(await tools.call_tool("search", QUERY)) == "result 1 for a"
    finally:
        await cache.aclose()


@pytest.mark.parametrize(
    "options",
    [
        {"server": ""},
        {"server": "a:b"},
        {"server": "a/b"},
        {"server": 1},
        {"server": "s", "tools": "search"},
        {"server": "s", "tools": [1]},
        {"server": "s", "tools": {"search": -1}},
        {"server": "s", "ttl": -1},
        {"server": "s", "tags": "a"},
        {"server": "s", "scope": 1},
    ],
)
async def test_wrong_options_are_refused(memory: AgentCache, client: Client, options: Any) -> None:
    with pytest.raises(UsageError):
        TierCacheTools(memory, client, **options)


async def test_wrong_arguments_are_refused(memory: AgentCache, client: Client) -> None:
    with pytest.raises(UsageError, match="cache must be"):
        TierCacheTools(client, client, server="s")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="client must be"):
        TierCacheTools(memory, object(), server="s")
    with pytest.raises(UsageError, match="mode must be"):
        await TierCacheTools(memory, client, server="s").call_tool("search", QUERY, mode="only_cached")


async def test_closed_cache_refuses_calls(client: Client) -> None:
    async with AgentCache.in_memory() as cache:
        tools = TierCacheTools(cache, client, server="s")
    with pytest.raises(UsageError):
        await tools.call_tool("search", QUERY)


class Name(BaseModel):
    """The answer of a user."""

    name: str


async def question() -> Any:
    """Return a question to the user."""
    return Elicit("Which river?", Name)


async def name_of(name: Annotated[Name, Resolve(question)]) -> str:
    """Return the answer of the user."""
    return name.name


async def test_result_made_from_answers_of_a_user_is_not_stored(memory: AgentCache, upstream: CountingServer) -> None:
    upstream.tool(annotations=READ_ONLY)(name_of)
    answers = iter(["Danube", "Tiber"])

    async def answer(_context: Any, _params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": next(answers)})

    async with Client(upstream, elicitation_callback=answer) as client:
        tools = TierCacheTools(memory, client, server="s")
        results = [await tools.call_tool("name_of", {}) for _ in range(2)]
        assert [text_of(result) for result in results] == ["Danube", "Tiber"]
