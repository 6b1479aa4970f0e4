"""cache_tools in real runs of agents: which calls run a function, and which results come back as they were."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("agents")

from agents import (
    Agent,
    FunctionTool,
    RunContextWrapper,
    Runner,
    ToolGuardrailFunctionOutput,
    ToolOutputImage,
    ToolOutputText,
    WebSearchTool,
    function_tool,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.tool import ToolOutputFileContent
from agents.tool_context import ToolContext
from pydantic import BaseModel, Field

from tests.adapters.mortal_server import MortalServer
from tests.adapters.openai_agents.models import QUIET, CallingModel, agent_of, outputs, run
from tests.requests import turns
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, TierCacheError, UsageError
from tiercache.adapters.openai_agents import cache_tools


class Counter:
    """Makes a tool named search, and counts its runs."""

    def __init__(self) -> None:
        self.count = 0

    def tool(self, **options: Any) -> FunctionTool:
        """Return the tool, which returns the number of the run."""

        def search(query: str, limit: int = 3) -> str:
            """Search for a text."""
            self.count += 1
            return f"result {self.count} for {query}"

        return function_tool(search, **options)


def cached(cache: AgentCache, tool: FunctionTool, **options: Any) -> FunctionTool:
    (copied,) = cache_tools(cache, [tool], **options)
    return copied


class City(BaseModel):
    name: str


@pytest.mark.parametrize("streamed", [False, True])
async def test_second_equal_call_gets_the_result_of_the_first(cache: AgentCache, streamed: bool) -> None:
    counter = Counter()
    tool = cached(cache, counter.tool())
    for _ in range(2):
        assert await run(tool, {"query": "a", "limit": 3}, streamed=streamed) == ["result 1 for a"]
    assert counter.count == 1
    assert (await cache.stats()).tool.hits == 1


async def test_another_process_gets_the_result_too(make_cache: MakeCache) -> None:
    counter = Counter()
    for _ in range(2):
        async with make_cache(name="shared") as cache:
            assert await run(cached(cache, counter.tool()), {"query": "a", "limit": 1}) == ["result 1 for a"]
    assert counter.count == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"query": "a", "limit": 3}, {"query": "b", "limit": 3}),
        ({"query": "a", "limit": 3}, {"query": "a", "limit": 4}),
        ({"query": "1", "limit": 3}, {"query": "1 ", "limit": 3}),
        ({"query": "a", "limit": 3}, {"query": "A", "limit": 3}),
    ],
)
async def test_calls_with_different_arguments_share_no_result(
    memory: AgentCache, first: dict[str, Any], second: dict[str, Any]
) -> None:
    counter = Counter()
    tool = cached(memory, counter.tool())
    assert await run(tool, first) != await run(tool, second)
    assert counter.count == 2


async def test_tools_of_different_names_share_no_result(memory: AgentCache) -> None:
    counter = Counter()
    arguments = {"query": "a", "limit": 3}
    first, second = cache_tools(memory, [counter.tool(), counter.tool(name_override="find")])
    assert await run(first, arguments) != await run(second, arguments)


async def test_scopes_share_no_result(memory: AgentCache) -> None:
    users: list[Any] = []

    @function_tool
    def orders(context: RunContextWrapper[Any], page: int) -> str:
        """List the orders."""
        users.append(context.context)
        return f"orders of {context.context}"

    tool = cached(memory, orders, scope=lambda context: context.context)
    for user in ("a", "b", "a"):
        assert await run(tool, {"page": 1}, context=user) == [f"orders of {user}"]
    assert users == ["a", "b"]


def test_scope_must_be_given_for_a_tool_that_sees_the_context(memory: AgentCache) -> None:
    @function_tool
    def of_run(context: RunContextWrapper[Any]) -> str:
        """A tool."""
        return ""

    @function_tool
    def of_call(context: ToolContext[str]) -> str:
        """A tool."""
        return ""

    async def invoke(context: ToolContext[Any], arguments: str) -> str:
        return arguments

    by_hand = FunctionTool("by_hand", "A tool.", {"type": "object", "properties": {}}, invoke)
    for tool in (of_run, of_call, by_hand):
        with pytest.raises(UsageError, match="gets the context of the run"):
            cache_tools(memory, [tool])
        cache_tools(memory, [tool], scope=lambda context: "all")


async def test_tool_made_by_hand_is_cached_within_its_scope(memory: AgentCache) -> None:
    calls: list[str] = []

    async def invoke(context: ToolContext[Any], arguments: str) -> str:
        calls.append(arguments)
        return f"call {len(calls)}"

    by_hand = FunctionTool("by_hand", "A tool.", {"type": "object", "properties": {}}, invoke)
    tool = cached(memory, by_hand, scope=lambda context: "all")
    assert [await run(tool, {}) for _ in range(2)] == [["call 1"]] * 2


async def test_equal_calls_at_the_same_time_run_the_function_once(cache: AgentCache) -> None:
    begun, release, count = asyncio.Event(), asyncio.Event(), 0

    @function_tool
    async def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        begun.set()
        await release.wait()
        return "found"

    tool = cached(cache, search)
    runs = [asyncio.create_task(run(tool, {"query": "a"})) for _ in range(5)]
    await begun.wait()
    await turns(200)
    release.set()
    assert await asyncio.gather(*runs) == [["found"]] * 5
    assert count == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_error_of_a_function_is_answered_as_before_and_not_stored(
    cache: AgentCache, plain: valkey.Valkey, streamed: bool
) -> None:
    count = 0

    @function_tool
    def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        if count == 1:
            raise RuntimeError("secret")
        return "found"

    tool = cached(cache, search)
    failed = await run(tool, {"query": "a"}, streamed=streamed)
    assert "error" in failed[0].lower()
    await cache.flush_writes()
    assert entry_keys(plain) == []
    for _ in range(2):
        assert await run(tool, {"query": "a"}, streamed=streamed) == ["found"]
    assert count == 2


@pytest.mark.parametrize("error", [L2UnavailableError, UsageError])
async def test_function_that_raises_an_error_of_the_cache_runs_once(
    memory: AgentCache, error: type[TierCacheError]
) -> None:
    count = 0

    def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        raise error("its own")

    tool = cached(memory, function_tool(search, failure_error_function=lambda _, error: str(error)))
    assert await run(tool, {"query": "a"}) == ["its own"]
    assert count == 1


async def test_error_function_of_a_tool_is_kept(memory: AgentCache) -> None:
    def broken(query: str) -> str:
        """Search for a text."""
        raise RuntimeError("boom")

    with_text = cached(memory, function_tool(broken, failure_error_function=lambda _, error: f"failed: {error}"))
    assert await run(with_text, {"query": "a"}) == ["failed: boom"]
    raising = cached(memory, function_tool(broken, failure_error_function=None))
    with pytest.raises(Exception, match="boom"):
        await run(raising, {"query": "a"})


async def test_arguments_that_are_wrong_are_answered_as_before_and_not_stored(memory: AgentCache) -> None:
    counter = Counter()
    tool = cached(memory, counter.tool())
    expected = await run(counter.tool(), {"limit": "many"})
    assert await run(tool, {"limit": "many"}) == expected
    context = ToolContext(context=None, tool_name="search", tool_call_id="1", tool_arguments="{")
    assert "error" in str(await tool.on_invoke_tool(context, "{")).lower()
    assert counter.count == 0


@pytest.mark.parametrize(
    "result",
    [
        "text",
        "",
        None,
        7,
        {"a": [1, 2.5, True, None], "kind": "image"},
        ["a", {"b": 1}],
        ToolOutputText(text="hello"),
        ToolOutputImage(image_url="https://example.org/a.png", detail="low"),
        [ToolOutputText(text="a"), ToolOutputFileContent(file_data="AAAA", filename="a.txt")],
        {"type": "image", "image_url": "https://example.org/a.png"},
        City(name="Vienna"),
    ],
    ids=str,
)
async def test_result_comes_back_as_it_was(cache: AgentCache, result: Any) -> None:
    count = 0

    @function_tool
    def search(query: str) -> Any:
        """Search for a text."""
        nonlocal count
        count += 1
        return result

    tool = cached(cache, search, classes=[City])
    for _ in range(2):
        (found,) = await run(tool, {"query": "a"})
        assert (found, type(found)) == (result, type(result))
    assert count == 1


@dataclass
class Unknown:
    name: str


class WithSecret(BaseModel):
    """A class whose JSON lacks a field."""

    secret: str = Field(exclude=True, default="")


@dataclass
class WithAside:
    """A class whose equality ignores a field."""

    aside: int = field(compare=False)

    def __post_init__(self) -> None:
        self.aside += 1


@pytest.mark.parametrize(
    "result",
    [City(name="Vienna"), Unknown("Vienna"), WithSecret(secret="a"), WithAside(1), ("a", 1), {1: "a"}, b"a"],
    ids=str,
)
async def test_result_that_is_not_restored_reaches_the_agent_and_is_not_stored(
    cache: AgentCache, plain: valkey.Valkey, result: Any
) -> None:
    count = 0

    @function_tool
    def search(query: str) -> Any:
        """Search for a text."""
        nonlocal count
        count += 1
        return result

    tool = cached(cache, search, classes=[WithSecret, WithAside])
    assert [await run(tool, {"query": "a"}) for _ in range(2)] == [[result]] * 2
    assert count == 2
    await cache.flush_writes()
    assert entry_keys(plain) == []


async def test_entry_of_another_program_is_replaced(cache: AgentCache) -> None:
    counter = Counter()
    tool = cached(cache, counter.tool())
    arguments = {"query": "a", "limit": 3}
    for value in ("text", {"openai_agents": {"node": ["os.system", "ls"]}}, {"openai_agents": 7}):
        await cache.tool.store("search", {"args": arguments, "openai_agents": True}, value)
        (found,) = await run(tool, arguments)
        assert found == f"result {counter.count} for a"
    assert counter.count == 3


async def test_guardrails_apply_to_hits_too(memory: AgentCache) -> None:
    seen: list[str] = []

    @tool_input_guardrail
    def before(data: Any) -> ToolGuardrailFunctionOutput:
        seen.append("before")
        return ToolGuardrailFunctionOutput.allow()

    @tool_output_guardrail
    def after(data: Any) -> ToolGuardrailFunctionOutput:
        seen.append(f"after {data.output}")
        return ToolGuardrailFunctionOutput.allow()

    counter = Counter()
    guarded = counter.tool(tool_input_guardrails=[before], tool_output_guardrails=[after])
    tool = cached(memory, guarded)
    for _ in range(2):
        await run(tool, {"query": "a", "limit": 3})
    assert (seen, counter.count) == (["before", "after result 1 for a"] * 2, 1)


@pytest.mark.parametrize("needs_approval", [True, lambda *_: _approve()], ids=["always", "function"])
async def test_approval_is_asked_for_each_call(memory: AgentCache, needs_approval: Any) -> None:
    counter = Counter()
    tool = cached(memory, counter.tool(needs_approval=needs_approval))
    for _ in range(2):
        agent = agent_of(CallingModel(("search", {"query": "a", "limit": 3})), tool)
        paused = await Runner.run(agent, "Hi", run_config=QUIET)
        (question,) = paused.interruptions
        state = paused.to_state()
        state.approve(question)
        done = await Runner.run(agent, state, run_config=QUIET)
        assert outputs(done) == ["result 1 for a"]
    assert counter.count == 1


async def _approve() -> bool:
    return True


async def test_timeout_of_a_tool_is_kept(memory: AgentCache) -> None:
    release, count = asyncio.Event(), 0

    @function_tool(timeout=0.05)
    async def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        await release.wait()
        return "found"

    tool = cached(memory, search)
    assert "timed out" in (await run(tool, {"query": "a"}))[0]
    release.set()
    assert await run(tool, {"query": "a"}) == ["found"]
    assert count == 2


async def test_original_tool_stays_as_it_is(memory: AgentCache) -> None:
    counter = Counter()
    original = counter.tool()
    tool = cached(memory, original)
    assert (tool.name, tool.description, tool.params_json_schema) == (
        original.name,
        original.description,
        original.params_json_schema,
    )
    for _ in range(2):
        await run(original, {"query": "a", "limit": 3})
    assert counter.count == 2


@pytest.mark.parametrize("what", ["hosted", "agent", "name", "text", "ttl", "scope", "no tools"])
def test_tool_that_cannot_be_cached_is_refused_with_the_reason(memory: AgentCache, what: str) -> None:
    tool = Counter().tool()
    agent: Agent[Any] = agent_of(CallingModel())
    arguments, reason = {
        "hosted": (([WebSearchTool()], {}), "a tool that the provider runs"),
        "agent": (([agent.as_tool("helper", "Helps.")], {}), "wrap the client of its model"),
        "name": (([Counter().tool(name_override="a:b")], {}), "no ':'"),
        "text": (("search", {}), "tools must be function tools"),
        "ttl": (([tool], {"ttl": -1}), "ttl"),
        "scope": (([tool], {"scope": "user"}), "scope must be a function"),
        "no tools": ((tool, {}), "tools must be function tools"),
    }[what]
    tools, options = arguments
    with pytest.raises(UsageError, match=reason):
        cache_tools(memory, tools, **options)  # type: ignore[arg-type]


async def test_scope_that_is_no_text_is_an_error(memory: AgentCache) -> None:
    tool = cached(memory, Counter().tool(failure_error_function=None), scope=lambda context: 7)
    context = ToolContext(context=None, tool_name="search", tool_call_id="1", tool_arguments="{}")
    # Without its error function, the tool raises.
    with pytest.raises(UsageError, match="scope must return a str"):
        await tool.on_invoke_tool(context, '{"query": "a"}')


async def test_tool_runs_without_a_cache_that_is_closed(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    counter, cache = Counter(), make_cache(name="closed")
    await cache.aclose()
    tool = cached(cache, counter.tool())
    for number in (1, 2):
        assert await run(tool, {"query": "a", "limit": 3}) == [f"result {number} for a"]
    assert [record.message for record in caplog.records if "runs without the cache" in record.message] != []


async def test_tools_run_without_valkey_and_no_result_is_lost(mortal_server: MortalServer) -> None:
    count = 0

    @function_tool
    def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        if count == 2:
            mortal_server.kill()
        return f"found {count}"

    async with AgentCache.from_url(mortal_server.url, resilience=ResilienceOptions(drain_timeout=0.5)) as cache:
        tool = cached(cache, search)
        assert [await run(tool, {"query": query}) for query in ("a", "a", "b")] == [
            ["found 1"],
            ["found 1"],
            ["found 2"],
        ]
        cache.clear_l1()
        assert await run(tool, {"query": "a"}) == ["found 3"]


PROGRAM = """
import sys
from agents import Runner, function_tool
from tests.adapters.mortal_server import MortalServer
from tests.adapters.openai_agents.models import CallingModel, agent_of, outputs
from tiercache import AgentCache
from tiercache.adapters.openai_agents import TierCacheSession, cache_tools

@function_tool
def search(query: str) -> str:
    print("The tool runs.")
    return "found"

cache = AgentCache.from_url(sys.argv[1], name="plain")
for number in range(2):
    agent = agent_of(CallingModel(("search", {"query": "a"})), *cache_tools(cache, [search]))
    session = TierCacheSession("chat", cache)
    result = Runner.run_sync(agent, "Hi", session=session if number else None)
    print(*outputs(result))
model = CallingModel()
Runner.run_sync(agent_of(model), "Hi again", session=session)
print(len(model.inputs[0]))
"""


def test_plain_code_runs_agents_one_after_another(url: str) -> None:
    command = [sys.executable, "-c", PROGRAM, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout.split("\n"), done.stderr) == (["The tool runs.", "found", "found", "5", ""], "")
