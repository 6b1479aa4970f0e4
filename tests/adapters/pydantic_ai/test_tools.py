"""TierCacheTools in real agents: which calls run a tool, and which results come back as they were."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("pydantic_ai")

from pydantic import BaseModel, Field
from pydantic_ai import Agent, BinaryContent, ImageUrl, ModelRetry, RunContext, ToolReturn
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.messages import BinaryImage
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults
from pydantic_ai.toolsets import FunctionToolset

from tests.adapters.mortal_server import MortalServer
from tests.adapters.pydantic_ai.models import calling, results, run
from tests.requests import turns
from tests.support import MakeCache, entry_keys, until
from tiercache import AgentCache, ResilienceOptions, UsageError
from tiercache.adapters.pydantic_ai import TierCacheTools


class Counter:
    """Makes agents with a tool named search, and counts the runs of the tool."""

    def __init__(self) -> None:
        self.count = 0

    def search(self, query: str, limit: int = 3) -> str:
        """Search for a text."""
        self.count += 1
        return f"result {self.count} for {query}"

    def agent(self, cache: AgentCache, **options: Any) -> Agent[Any, Any]:
        """Return an agent with the tool, and a capability that caches it."""
        return Agent(tools=[self.search], capabilities=[TierCacheTools(cache, tools=["search"], **options)])


class City(BaseModel):
    name: str


class Secret(BaseModel):
    """A class whose JSON lacks a field."""

    secret: str = Field(exclude=True, default="")


@dataclass
class Unknown:
    name: str


def answers_to(result: Any) -> list[Any]:
    """Return the answers to calls of tools in the messages of a run: results, and retries."""
    kinds = ("tool-return", "retry-prompt")
    return [part for message in result.all_messages() for part in message.parts if part.part_kind in kinds]


async def test_second_equal_call_gets_the_result_of_the_first(cache: AgentCache) -> None:
    counter = Counter()
    agent = counter.agent(cache)
    for _ in range(2):
        assert await run(agent, ("search", {"query": "a"})) == ["result 1 for a"]
    assert counter.count == 1
    assert (await cache.stats()).tool.hits == 1


async def test_streamed_run_gets_the_result_too(memory: AgentCache) -> None:
    counter = Counter()
    agent = counter.agent(memory)
    for _ in range(2):
        async with agent.run_stream("Hi", model=calling(("search", {"query": "a"}))) as streamed:
            await streamed.get_output()
        assert results(streamed) == ["result 1 for a"]


async def test_another_process_gets_the_result_too(make_cache: MakeCache) -> None:
    counter = Counter()
    for _ in range(2):
        async with make_cache(name="shared") as cache:
            assert await run(counter.agent(cache), ("search", {"query": "a"})) == ["result 1 for a"]


async def test_tool_that_is_not_named_runs_for_each_call(memory: AgentCache) -> None:
    counter = Counter()
    agent: Agent[Any, Any] = Agent(tools=[counter.search], capabilities=[TierCacheTools(memory, tools=["other"])])
    assert [await run(agent, ("search", {"query": "a"})) for _ in range(2)] == [["result 1 for a"], ["result 2 for a"]]


def find(query: str) -> str:
    """Find a text."""
    return f"found {query}"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("search", {"query": "a"}), ("search", {"query": "b"})),
        (("search", {"query": "a"}), ("search", {"query": "a", "limit": 4})),
        (("search", {"query": "a"}), ("search", {"query": "A"})),
        (("search", {"query": "a"}), ("find", {"query": "a"})),
    ],
)
async def test_different_calls_share_no_result(memory: AgentCache, first: Any, second: Any) -> None:
    counter = Counter()
    agent: Agent[Any, Any] = Agent(
        tools=[counter.search, find], capabilities=[TierCacheTools(memory, tools=["search", "find"])]
    )
    one, other = await run(agent, first), await run(agent, second)
    assert one != other
    assert [await run(agent, first), await run(agent, second)] == [one, other]


async def test_arguments_that_are_objects_make_keys_by_their_content(cache: AgentCache, plain: valkey.Valkey) -> None:
    seen: list[Any] = []

    def forecast(city: City, day: date, places: set[str]) -> str:
        """Return the forecast."""
        seen.append((city, day))
        return f"{city.name} {day}"

    agent: Agent[Any, Any] = Agent(tools=[forecast], capabilities=[TierCacheTools(cache, tools=["forecast"])])
    calls = [
        {"city": {"name": name}, "day": day, "places": places}
        for name, day, places in (
            ("Vienna", "2026-01-01", ["a", "b"]),
            ("Vienna", "2026-01-01", ["b", "a"]),
            ("Graz", "2026-01-01", ["a", "b"]),
            ("Vienna", "2026-01-02", ["a", "b"]),
        )
    ]
    found = [await run(agent, ("forecast", arguments)) for arguments in calls]
    assert found == [["Vienna 2026-01-01"]] * 2 + [["Graz 2026-01-01"], ["Vienna 2026-01-02"]]
    assert len(seen) == 3
    await cache.flush_writes()
    assert len(entry_keys(plain)) == 3


async def test_scopes_share_no_result(memory: AgentCache) -> None:
    users: list[str] = []

    def orders(ctx: RunContext[str]) -> str:
        """List the orders."""
        users.append(ctx.deps)
        return f"orders of {ctx.deps}"

    capability = TierCacheTools(memory, tools=["orders"], scope=lambda ctx: ctx.deps)
    agent = Agent(deps_type=str, tools=[orders], capabilities=[capability])
    for user in ("a", "b", "a"):
        assert await run(agent, ("orders", {}), deps=user) == [f"orders of {user}"]
    assert users == ["a", "b"]


async def test_tool_that_takes_the_context_is_not_cached_without_a_scope(
    memory: AgentCache, caplog: pytest.LogCaptureFixture
) -> None:
    count = 0

    def orders(ctx: RunContext[str]) -> str:
        """List the orders."""
        nonlocal count
        count += 1
        return f"orders of {ctx.deps}"

    plain = TierCacheTools(memory, tools=["orders"])
    # The tools of several toolsets are wrapped.
    first = Agent(deps_type=str, tools=[orders], capabilities=[plain])
    second = Agent(deps_type=str, toolsets=[FunctionToolset([orders]).prefixed("my")], capabilities=[plain])
    for user in ("a", "b", "a"):
        assert await run(first, ("orders", {}), deps=user) == [f"orders of {user}"]
    await run(second, ("my_orders", {}), deps="a")
    assert count == 4
    assert [record.message for record in caplog.records if "has no scope" in record.message] != []


async def test_plain_tool_of_a_toolset_is_cached(memory: AgentCache) -> None:
    counter = Counter()
    toolsets = [FunctionToolset([counter.search]).prefixed("my"), FunctionToolset([find])]
    agent: Agent[Any, Any] = Agent(toolsets=toolsets, capabilities=[TierCacheTools(memory, tools=["my_search"])])
    assert [await run(agent, ("my_search", {"query": "a"})) for _ in range(2)] == [["result 1 for a"]] * 2


async def test_equal_calls_at_the_same_time_run_the_tool_once(cache: AgentCache) -> None:
    begun, release, count = asyncio.Event(), asyncio.Event(), 0

    async def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        begun.set()
        await release.wait()
        return "found"

    agent: Agent[Any, Any] = Agent(tools=[search], capabilities=[TierCacheTools(cache, tools=["search"])])
    runs = [asyncio.create_task(run(agent, ("search", {"query": "a"}))) for _ in range(5)]
    await begun.wait()
    await turns(200)
    release.set()
    assert await asyncio.gather(*runs) == [["found"]] * 5
    assert count == 1


@pytest.mark.parametrize(
    "result",
    [
        "text",
        "",
        None,
        7,
        {"a": [1, 2.5, True, None], "kind": "binary"},
        {"kind": "image-url", "url": "https://example.org/a.png"},
        ["a", {"b": 1}],
        BinaryContent(b"\x00\xff", media_type="application/pdf"),
        BinaryImage(b"\x00\xff", media_type="image/png", identifier="1"),
        ["a", ImageUrl("https://example.org/a.png", vendor_metadata={"detail": "low"})],
        {"picture": BinaryContent(b"a", media_type="audio/wav"), "text": "a"},
        City(name="Vienna"),
        [City(name="Vienna"), City(name="Graz")],
        ToolReturn("value", content=["see", ImageUrl("https://example.org/a.png")], metadata={"rows": [1, 2]}),
        ToolReturn(City(name="Vienna"), metadata=City(name="Graz")),
    ],
    ids=str,
)
async def test_result_comes_back_as_it_was(cache: AgentCache, result: Any) -> None:
    count = 0

    def search(query: str) -> Any:
        """Search for a text."""
        nonlocal count
        count += 1
        return result

    uncached: Agent[Any, Any] = Agent(tools=[search])
    expected = (await uncached.run("Hi", model=calling(("search", {"query": "a"})))).all_messages()
    agent: Agent[Any, Any] = Agent(
        tools=[search], capabilities=[TierCacheTools(cache, tools=["search"], classes=[City])]
    )
    for _ in range(2):
        messages = (await agent.run("Hi", model=calling(("search", {"query": "a"})))).all_messages()
        for message, other in zip(messages, expected, strict=True):
            for part, same in zip(message.parts, other.parts, strict=True):
                names = ("content", "metadata", "outcome", "part_kind")
                found = [(getattr(part, name, None), type(getattr(part, name, None))) for name in names]
                assert found == [(getattr(same, name, None), type(getattr(same, name, None))) for name in names]
    assert count == 2


@pytest.mark.parametrize(
    "result",
    [City(name="Vienna"), Secret(secret="a"), Unknown("Vienna"), ("a", 1), {1: "a"}, ToolReturn("a", metadata=object)],
    ids=str,
)
async def test_result_that_is_not_restored_reaches_the_agent_and_is_not_stored(
    cache: AgentCache, plain: valkey.Valkey, result: Any
) -> None:
    count = 0

    def search(query: str) -> Any:
        """Search for a text."""
        nonlocal count
        count += 1
        return result

    expected = result.return_value if isinstance(result, ToolReturn) else result
    agent: Agent[Any, Any] = Agent(
        tools=[search], capabilities=[TierCacheTools(cache, tools=["search"], classes=[Secret])]
    )
    assert [await run(agent, ("search", {"query": "a"})) for _ in range(2)] == [[expected]] * 2
    await cache.flush_writes()
    assert (count, entry_keys(plain)) == (2, [])


async def test_retry_of_a_tool_is_not_stored(cache: AgentCache, plain: valkey.Valkey) -> None:
    count = 0

    def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        if count == 1:
            raise ModelRetry("once more")
        return "found"

    agent: Agent[Any, Any] = Agent(tools=[search], capabilities=[TierCacheTools(cache, tools=["search"])])
    failed = await agent.run("Hi", model=calling(("search", {"query": "a"})))
    assert [part.content for part in answers_to(failed)] == ["once more"]
    await cache.flush_writes()
    assert entry_keys(plain) == []
    assert [await run(agent, ("search", {"query": "a"})) for _ in range(2)] == [["found"]] * 2
    assert count == 2


async def test_retries_of_equal_calls_at_the_same_time_are_answered_for_each(memory: AgentCache) -> None:
    def search(query: str) -> str:
        """Search for a text."""
        raise ModelRetry("once more")

    agent: Agent[Any, Any] = Agent(tools=[search], capabilities=[TierCacheTools(memory, tools=["search"])])
    call = ("search", {"query": "a"})
    failed = await agent.run("Hi", model=calling(call, call))
    assert len({part.tool_call_id for part in answers_to(failed) if part.content == "once more"}) == 2


async def test_call_that_was_approved_is_not_cached(cache: AgentCache, plain: valkey.Valkey) -> None:
    ran: list[str] = []

    def delete(ctx: RunContext[None], path: str) -> str:
        """Delete a file."""
        if not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"path": path})
        ran.append(path)
        return "deleted"

    capability = TierCacheTools(cache, tools=["delete"], scope=lambda ctx: "all")
    agent: Agent[Any, Any] = Agent(tools=[delete], output_type=[str, DeferredToolRequests], capabilities=[capability])
    for number in (1, 2):
        model = calling(("delete", {"path": "a"}))
        paused = await agent.run("Hi", model=model)
        assert isinstance(paused.output, DeferredToolRequests)
        (question,) = paused.output.approvals
        answers = DeferredToolResults(approvals={question.tool_call_id: True})
        done = await agent.run(message_history=paused.all_messages(), deferred_tool_results=answers, model=model)
        assert (done.output, len(ran)) == ("done", number)
    await cache.flush_writes()
    assert entry_keys(plain) == []


async def test_equal_calls_that_are_deferred_at_the_same_time_are_deferred_each(memory: AgentCache) -> None:
    count = 0

    async def ask(query: str) -> str:
        """Ask a person."""
        nonlocal count
        count += 1
        await turns(20)
        raise CallDeferred(metadata={"number": count})

    agent: Agent[Any, Any] = Agent(
        tools=[ask], output_type=[str, DeferredToolRequests], capabilities=[TierCacheTools(memory, tools=["ask"])]
    )
    call = ("ask", {"query": "a"})
    paused = await agent.run("Hi", model=calling(call, call))
    assert len(paused.output.calls) == count == 2


class Hooks(AbstractCapability[Any]):
    """A capability that refuses some calls, and changes results."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        self.seen.append("before")
        if ctx.deps == "guest":
            raise ModelRetry("not for guests")
        return args

    async def after_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, result: Any) -> Any:
        self.seen.append("after")
        return f"{result} for {ctx.deps}"


@pytest.mark.parametrize("is_first", [True, False])
async def test_hooks_of_other_capabilities_apply_to_hits_too(memory: AgentCache, is_first: bool) -> None:
    counter, hooks = Counter(), Hooks()
    capabilities = [TierCacheTools(memory, tools=["search"]), hooks]
    agent = Agent(deps_type=str, tools=[counter.search], capabilities=capabilities if is_first else capabilities[::-1])
    assert await run(agent, ("search", {"query": "a"}), deps="ann") == ["result 1 for a for ann"]
    assert await run(agent, ("search", {"query": "a"}), deps="guest") in ([], ["not for guests"])
    assert await run(agent, ("search", {"query": "a"}), deps="bob") == ["result 1 for a for bob"]
    assert (counter.count, hooks.seen) == (1, ["before", "after", "before", "before", "after"])


async def test_entry_of_another_program_is_replaced(cache: AgentCache) -> None:
    counter = Counter()
    agent = counter.agent(cache)
    await run(agent, ("search", {"query": "a", "limit": 3}))
    key = {"args": {"query": "a", "limit": 3}, "pydantic_ai": True}
    assert (await cache.tool.check("search", key)).hit
    for value in ("text", {"pydantic_ai": {"node": ["os.system", "ls"]}}, {"pydantic_ai": 7}):
        await cache.tool.store("search", key, value)
        assert await run(agent, ("search", {"query": "a", "limit": 3})) == [f"result {counter.count} for a"]
    assert counter.count == 4


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tools": "search"}, "tools must be names"),
        ({"tools": ["a:b"]}, "no ':'"),
        ({"tools": {"a": -1}}, "lifetime of 'a'"),
        ({"tools": ["a"], "ttl": -1}, "ttl"),
        ({"tools": ["a"], "scope": "user"}, "scope must be a function"),
    ],
)
def test_wrong_argument_is_refused(memory: AgentCache, options: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        TierCacheTools(memory, **options)
    with pytest.raises(UsageError, match="cache must be an AgentCache"):
        TierCacheTools(object(), tools=["a"])  # type: ignore[arg-type]


async def test_scope_that_is_no_text_is_an_error(memory: AgentCache) -> None:
    agent = Counter().agent(memory, scope=lambda ctx: 7)
    with pytest.raises(UsageError, match="scope must return a str"):
        await run(agent, ("search", {"query": "a"}))


async def test_lifetimes_are_those_of_the_tools(cache: AgentCache, plain: valkey.Valkey) -> None:
    capability = TierCacheTools(cache, tools={"search": 1000, "find": None}, ttl=10)
    agent: Agent[Any, Any] = Agent(tools=[Counter().search, find], capabilities=[capability])
    await run(agent, ("search", {"query": "a"}), ("find", {"query": "a"}))
    await until(lambda: len(entry_keys(plain)) == 2)
    ttls = {key.split(":")[2]: plain.pttl(key) for key in entry_keys(plain)}
    assert 10_000 < ttls["search"] <= 1_000_000
    assert 0 < ttls["find"] <= 10_000


async def test_tool_runs_without_a_cache_that_is_closed(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    counter, cache = Counter(), make_cache(name="closed")
    await cache.aclose()
    agent = counter.agent(cache)
    for number in (1, 2):
        assert await run(agent, ("search", {"query": "a"})) == [f"result {number} for a"]
    assert [record.message for record in caplog.records if "runs without the cache" in record.message] != []


async def test_tools_run_without_valkey_and_no_result_is_lost(mortal_server: MortalServer) -> None:
    count = 0

    def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        if count == 2:
            mortal_server.kill()
        return f"found {count}"

    async with AgentCache.from_url(mortal_server.url, resilience=ResilienceOptions(drain_timeout=0.5)) as cache:
        agent: Agent[Any, Any] = Agent(tools=[search], capabilities=[TierCacheTools(cache, tools=["search"])])
        for query, found in (("a", "found 1"), ("a", "found 1"), ("b", "found 2")):
            assert await run(agent, ("search", {"query": query})) == [found]
        cache.clear_l1()
        assert await run(agent, ("search", {"query": "a"})) == ["found 3"]


PROGRAM = """
import sys
from pydantic_ai import Agent
from tests.adapters.pydantic_ai.models import calling, results
from tiercache import AgentCache
from tiercache.adapters.pydantic_ai import TierCacheTools

def search(query: str) -> str:
    print("The tool runs.")
    return "found"

cache = AgentCache.from_url(sys.argv[1], name="plain")
capability = TierCacheTools(cache, tools=["search"])
agent = Agent(calling(("search", {"query": "a"})), tools=[search], capabilities=[capability])
for number in range(2):
    print(*results(agent.run_sync("Hi")))
"""


def test_plain_code_runs_an_agent_twice(url: str) -> None:
    command = [sys.executable, "-c", PROGRAM, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout.split("\n"), done.stderr) == (["The tool runs.", "found", "found", ""], "")
