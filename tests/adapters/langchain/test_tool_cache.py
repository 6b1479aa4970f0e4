"""TierCacheToolMiddleware in real agents: which calls run a tool, and what of a result comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("langchain", "langgraph")

from langchain.agents import create_agent
from langchain.agents.middleware.types import ToolCallRequest
from langchain.tools import InjectedState, ToolRuntime
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from tests.support import entry_keys, until
from tiercache import AgentCache, TierOptions, UsageError
from tiercache.adapters.langchain import TierCacheToolMiddleware

READ_ONLY = {"readOnlyHint": True, "idempotentHint": True}


class Model(FakeMessagesListChatModel):
    """A chat model that calls given tools, and answers when it has their results."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def calling(*calls: tuple[str, dict[str, Any]], first_id: int = 1) -> Model:
    """Return a model that makes ``calls`` at the same time, and then answers."""
    numbered = enumerate(calls, start=first_id)
    tool_calls = [{"name": name, "args": args, "id": f"call-{number}"} for number, (name, args) in numbered]
    return Model(responses=[AIMessage("", tool_calls=tool_calls), AIMessage("done")])


def results(state: dict[str, Any]) -> list[ToolMessage]:
    """Return the results of tools in the state of an agent."""
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


def agent_of(middleware: TierCacheToolMiddleware, model: Model, *tools: BaseTool, **options: Any) -> Any:
    return create_agent(model, tools=list(tools), middleware=[middleware], **options)


async def run(
    middleware: TierCacheToolMiddleware, tool_of_agent: BaseTool, args: dict[str, Any], **options: Any
) -> list[ToolMessage]:
    """Run an agent that calls a tool once; return the results of its tools."""
    agent = agent_of(middleware, calling((tool_of_agent.name, args)), tool_of_agent, **options)
    return results(await agent.ainvoke({"messages": [HumanMessage("Hi")]}))


class Runs:
    """Counts the runs of a tool."""

    def __init__(self) -> None:
        self.count = 0

    def tool(self, **options: Any) -> StructuredTool:
        """Return a tool named search that returns the number of the run."""

        def search(query: str) -> str:
            """Search for a text."""
            self.count += 1
            return f"result {self.count} for {query}"

        return StructuredTool.from_function(search, **options)


@pytest.fixture
def runs() -> Runs:
    return Runs()


async def test_equal_tool_call_gets_the_result_with_its_own_id(cache: AgentCache, runs: Runs) -> None:
    middleware = TierCacheToolMiddleware(cache, tools=["search"])
    for number in (1, 2):
        cache.clear_l1()
        model = calling(("search", {"query": "a"}), first_id=number)
        state = await agent_of(middleware, model, runs.tool()).ainvoke({"messages": [HumanMessage("Hi")]})
        (message,) = results(state)
        assert (message.content, message.name, message.status) == ("result 1 for a", "search", "success")
        assert message.tool_call_id == f"call-{number}"
    assert runs.count == 1


def test_equal_tool_call_of_plain_code_gets_the_result(plain_cache: AgentCache, runs: Runs) -> None:
    middleware = TierCacheToolMiddleware(plain_cache, tools=["search"])
    for number in (1, 2):
        model = calling(("search", {"query": "a"}), first_id=number)
        state = agent_of(middleware, model, runs.tool()).invoke({"messages": [HumanMessage("Hi")]})
        assert [message.tool_call_id for message in results(state)] == [f"call-{number}"]
    assert runs.count == 1


async def test_tool_call_with_other_arguments_runs_the_tool(cache: AgentCache, runs: Runs) -> None:
    middleware = TierCacheToolMiddleware(cache, tools=["search"])
    for query in ("a", "b", "a"):
        await run(middleware, runs.tool(), {"query": query})
    assert runs.count == 2


@pytest.mark.parametrize(
    ("metadata", "count"),
    [
        (READ_ONLY, 1),
        ({"readOnlyHint": True}, 2),
        ({"readOnlyHint": True, "idempotentHint": False}, 2),
        ({"readOnlyHint": "yes", "idempotentHint": "yes"}, 2),
        ({"readOnlyHint": False, "idempotentHint": True}, 2),
        (None, 2),
    ],
)
async def test_tools_that_are_not_named_are_cached_by_their_metadata(
    cache: AgentCache, runs: Runs, metadata: dict[str, Any] | None, count: int
) -> None:
    middleware = TierCacheToolMiddleware(cache)
    for _ in range(2):
        await run(middleware, runs.tool(metadata=metadata), {"query": "a"})
    assert runs.count == count


async def test_tool_that_is_not_named_runs_each_time(cache: AgentCache, runs: Runs) -> None:
    middleware = TierCacheToolMiddleware(cache, tools=["other"])
    for _ in range(2):
        await run(middleware, runs.tool(metadata=READ_ONLY), {"query": "a"})
    assert runs.count == 2


async def test_equal_tool_calls_of_one_step_run_the_tool_once(cache: AgentCache) -> None:
    count = 0
    release = asyncio.Event()

    async def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        await release.wait()
        return "found"

    model = calling(*[("search", {"query": "a"})] * 5)
    middleware = TierCacheToolMiddleware(cache, tools=["search"])
    agent = agent_of(middleware, model, StructuredTool.from_function(coroutine=search))
    task = asyncio.create_task(agent.ainvoke({"messages": [HumanMessage("Hi")]}))
    await until(lambda: count == 1)
    release.set()
    messages = results(await task)
    assert [message.tool_call_id for message in messages] == [f"call-{number}" for number in range(1, 6)]
    assert {message.content for message in messages} == {"found"}
    assert len({message.id for message in messages}) == 5
    assert count == 1


def test_equal_tool_calls_of_threads_run_the_tool_once(plain_cache: AgentCache) -> None:
    count = 0
    began, release = threading.Event(), threading.Event()

    @tool
    def search(query: str) -> str:
        """Search for a text."""
        nonlocal count
        count += 1
        began.set()
        assert release.wait(30)
        return "found"

    middleware = TierCacheToolMiddleware(plain_cache, tools=["search"])
    agent = agent_of(middleware, calling(*[("search", {"query": "a"})] * 5), search)
    states: list[Any] = []
    thread = threading.Thread(target=lambda: states.append(agent.invoke({"messages": [HumanMessage("Hi")]})))
    thread.start()
    assert began.wait(30)
    release.set()
    thread.join(30)
    messages = results(states[0])
    assert [message.tool_call_id for message in messages] == [f"call-{number}" for number in range(1, 6)]
    assert count == 1


@tool(response_format="content_and_artifact")
def report(query: str) -> tuple[list[Any], dict[str, Any]]:
    """Write a report."""
    return [{"type": "text", "text": query}, {"type": "image", "base64": "AAAA", "mime_type": "image/png"}], {"a": [1]}


async def test_content_blocks_and_artifact_of_a_result_come_back(cache: AgentCache) -> None:
    middleware = TierCacheToolMiddleware(cache, tools=["report"])
    (first,) = await run(middleware, report, {"query": "a"})
    cache.clear_l1()
    (second,) = await run(middleware, report, {"query": "a"})
    assert (second.content, second.artifact) == (first.content, first.artifact)
    assert second.artifact == {"a": [1]}
    assert (await cache.stats()).tool.hits == 1


@pytest.mark.parametrize("artifact", [object(), (1, 2), {1: 2}])
async def test_result_with_an_artifact_that_json_does_not_restore_is_not_stored(
    cache: AgentCache, artifact: Any, plain: valkey.Valkey
) -> None:
    count = 0

    @tool(response_format="content_and_artifact")
    def search(query: str) -> tuple[str, Any]:
        """Search for a text."""
        nonlocal count
        count += 1
        return "found", artifact

    middleware = TierCacheToolMiddleware(cache, tools=["search"])
    for _ in range(2):
        (message,) = await run(middleware, search, {"query": "a"})
        assert message.artifact is artifact
    assert count == 2
    await cache.flush_writes()
    assert entry_keys(plain) == []


async def test_result_that_is_an_error_is_not_stored(cache: AgentCache, runs: Runs) -> None:
    class Failing(Runs):
        def tool(self, **options: Any) -> StructuredTool:
            def search(query: str) -> str:
                """Search for a text."""
                self.count += 1
                raise ValueError("no result")

            return StructuredTool.from_function(search, handle_tool_error=True, **options)

    failing = Failing()
    middleware = TierCacheToolMiddleware(cache, tools=["search"])
    for _ in range(2):
        with pytest.raises(ValueError, match="no result"):
            await run(middleware, failing.tool(), {"query": "a"})
    assert failing.count == 2
    # Arguments that do not fit: the agent makes a message with an error of them.
    for _ in range(2):
        (message,) = await run(middleware, runs.tool(), {"query": {"no": "text"}})
        assert message.status == "error"
    (message,) = await run(middleware, runs.tool(), {"query": "a"})
    assert message.status == "success"


def request_of(name: str, call_id: str, tool_of_agent: BaseTool) -> ToolCallRequest:
    call: Any = {"name": name, "args": {"query": "a"}, "id": call_id, "type": "tool_call"}
    return ToolCallRequest(tool_call=call, tool=tool_of_agent, state={}, runtime=None)  # type: ignore[arg-type]


async def outcomes(
    cache: AgentCache, runs: Runs, outcome: Callable[[ToolCallRequest], Any]
) -> tuple[list[Any], list[str]]:
    """Return the outcomes of three equal calls at the same time, and the ids of the calls that have run the tool."""
    middleware = TierCacheToolMiddleware(cache, tools=["search"])
    ran: list[str] = []
    release = asyncio.Event()

    async def handler(request: ToolCallRequest) -> Any:
        ran.append(request.tool_call["id"] or "")
        await release.wait()
        result = outcome(request)
        if isinstance(result, Exception):
            raise result
        return result

    requests = [request_of("search", call_id, runs.tool()) for call_id in ("a", "b", "c")]
    calls = [asyncio.create_task(middleware.awrap_tool_call(request, handler)) for request in requests]
    await until(lambda: ran)
    await asyncio.sleep(0)
    release.set()
    return await asyncio.gather(*calls, return_exceptions=True), ran


async def test_error_of_a_tool_reaches_every_equal_call_of_the_time(cache: AgentCache, runs: Runs) -> None:
    def outcome(request: ToolCallRequest) -> Any:
        return ToolMessage("no", tool_call_id=request.tool_call["id"], name="search", status="error", id="m")

    for _ in range(2):  # The error is not stored.
        messages, ran = await outcomes(cache, runs, outcome)
        assert ran == ["a"]
    assert [(message.tool_call_id, message.status) for message in messages] == [(each, "error") for each in "abc"]
    # Two messages of one id would be one message in the state of the agent.
    assert [message.id for message in messages] == ["m", None, None]


async def test_command_of_a_tool_is_run_by_each_call(cache: AgentCache, runs: Runs) -> None:
    commands, ran = await outcomes(cache, runs, lambda request: Command(update={"id": request.tool_call["id"]}))
    assert [command.update["id"] for command in commands] == ["a", "b", "c"]
    assert sorted(ran) == ["a", "b", "c"]


async def test_interrupt_of_a_tool_is_raised_by_each_call(cache: AgentCache, runs: Runs) -> None:
    from langgraph.errors import GraphInterrupt

    raised, ran = await outcomes(cache, runs, lambda request: GraphInterrupt([request.tool_call["id"]]))  # type: ignore[list-item]
    assert [error.args[0] for error in raised] == [["a"], ["b"], ["c"]]
    assert sorted(ran) == ["a", "b", "c"]


async def test_exception_of_a_tool_reaches_every_equal_call_of_the_time(cache: AgentCache, runs: Runs) -> None:
    raised, ran = await outcomes(cache, runs, lambda _: LookupError("no"))
    assert [type(error) for error in raised] == [LookupError] * 3
    assert ran == ["a"]


async def test_tool_that_updates_the_state_runs_each_time(cache: AgentCache) -> None:
    count = 0

    @tool
    def remember(text: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Remember a text."""
        nonlocal count
        count += 1
        return Command(update={"messages": [ToolMessage("kept", tool_call_id=tool_call_id)]})

    middleware = TierCacheToolMiddleware(cache, tools=["remember"], scope=lambda _: "all")
    for _ in range(2):
        (message,) = await run(middleware, remember, {"text": "a"})
        assert message.content == "kept"
    assert count == 2


async def test_tool_that_asks_a_person_goes_on_with_the_answer(cache: AgentCache) -> None:
    count = 0

    @tool
    def ask(question: str) -> str:
        """Ask a person."""
        nonlocal count
        answer = interrupt(question)
        count += 1
        return str(answer)

    middleware = TierCacheToolMiddleware(cache, tools=["ask"])
    agent = agent_of(middleware, calling(("ask", {"question": "Name?"})), ask, checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    state = await agent.ainvoke({"messages": [HumanMessage("Hi")]}, config)
    assert state["__interrupt__"][0].value == "Name?"
    state = await agent.ainvoke(Command(resume="Ada"), config)
    assert [message.content for message in results(state)] == ["Ada"]
    assert count == 1


async def count_runs_of_two_users(cache: AgentCache, hidden: str, **options: Any) -> list[str]:
    """Return the results of a tool with a hidden parameter, called by the users Ada, Bob and Ada."""

    @tool
    def by_state(query: str, state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Search for a text."""
        return f"{query} of {state['messages'][0].name}"

    @tool
    def by_runtime(query: str, runtime: ToolRuntime) -> str:
        """Search for a text."""
        return f"{query} of {runtime.state['messages'][0].name}"

    @tool
    def by_config(query: str, config: RunnableConfig) -> str:
        """Search for a text."""
        return f"{query} of {config['configurable']['user']}"

    tools = {"state": by_state, "runtime": by_runtime, "config": by_config}
    middleware = TierCacheToolMiddleware(cache, tools=[tools[hidden].name], **options)
    found = []
    for user in ("Ada", "Bob", "Ada"):
        agent = agent_of(middleware, calling((tools[hidden].name, {"query": "files"})), tools[hidden])
        config: RunnableConfig = {"configurable": {"user": user}}
        state = await agent.ainvoke({"messages": [HumanMessage("Hi", name=user)]}, config)
        found += [message.content for message in results(state)]
    return found


@pytest.mark.parametrize("hidden", ["state", "runtime", "config"])
async def test_tool_with_hidden_parameters_is_not_cached_without_a_scope(
    cache: AgentCache, hidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await count_runs_of_two_users(cache, hidden) == ["files of Ada", "files of Bob", "files of Ada"]
    assert (await cache.stats()).tool.hits == 0
    assert "takes more than the arguments of the model" in caplog.text


@pytest.mark.parametrize("hidden", ["state", "runtime"])
async def test_scope_separates_the_results_of_users(cache: AgentCache, hidden: str) -> None:
    found = await count_runs_of_two_users(cache, hidden, scope=lambda request: request.state["messages"][0].name)
    assert found == ["files of Ada", "files of Bob", "files of Ada"]
    assert (await cache.stats()).tool.hits == 1


async def test_scope_that_returns_no_text_is_an_error(cache: AgentCache, runs: Runs) -> None:
    middleware = TierCacheToolMiddleware(cache, tools=["search"], scope=lambda _: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="scope must return a str, not NoneType"):
        await run(middleware, runs.tool(), {"query": "a"})


async def test_tool_with_a_custom_class_is_cached(cache: AgentCache) -> None:
    class Search(BaseTool):
        name: str = "search"
        description: str = "Search for a text."
        runs: int = 0

        def _run(self, query: str, run_manager: Any = None) -> str:
            self.runs += 1
            return query

    search = Search()
    middleware = TierCacheToolMiddleware(cache, tools=["search"])
    for _ in range(2):
        await run(middleware, search, {"query": "a"})
    assert search.runs == 1


async def test_lifetime_of_a_result_is_that_of_the_tool_the_middleware_or_the_tier(
    url: str, runs: Runs, plain: valkey.Valkey
) -> None:
    async with AgentCache.from_url(url, name="test", tool=TierOptions(ttl=30)) as cache:
        for middleware, seconds in (
            (TierCacheToolMiddleware(cache, tools={"search": 10, "other": None}, ttl=20), 10),
            (TierCacheToolMiddleware(cache, tools={"search": None}, ttl=20), 20),
            (TierCacheToolMiddleware(cache, tools=["search"]), 30),
        ):
            await run(middleware, runs.tool(), {"query": "a"})
            await cache.flush_writes()
            (key,) = entry_keys(plain)
            assert (seconds - 10) * 1000 < plain.pttl(key) <= seconds * 1000
            assert await cache.tool.invalidate_by_tool("search") == 1


async def test_results_with_a_tag_are_invalidated_together(cache: AgentCache, runs: Runs) -> None:
    middleware = TierCacheToolMiddleware(cache, tools=["search"], tags=["documents"])
    await run(middleware, runs.tool(), {"query": "a"})
    assert await cache.invalidate_tag("documents") == 1
    await run(middleware, runs.tool(), {"query": "a"})
    assert runs.count == 2


async def test_entry_of_another_program_is_replaced(cache: AgentCache, runs: Runs) -> None:
    middleware = TierCacheToolMiddleware(cache, tools=["search"])
    for value in ("text", {"langchain": {"lc": 1}}, {"langchain": None}):
        await cache.tool.store("search", {"args": {"query": "a"}, "langchain": True}, value)
        (message,) = await run(middleware, runs.tool(), {"query": "a"})
        assert message.content == f"result {runs.count} for a"
        (again,) = await run(middleware, runs.tool(), {"query": "a"})
        assert again.content == message.content
    assert runs.count == 3


async def test_results_of_the_middleware_and_of_the_tier_do_not_meet(cache: AgentCache, runs: Runs) -> None:
    await run(TierCacheToolMiddleware(cache, tools=["search"]), runs.tool(), {"query": "a"})
    assert not (await cache.tool.check("search", {"query": "a"})).hit


async def test_tool_whose_name_no_key_can_have_runs_each_time(cache: AgentCache, runs: Runs) -> None:
    middleware = TierCacheToolMiddleware(cache, scope=lambda _: "all")
    for _ in range(2):
        await run(middleware, runs.tool(name="a:b", metadata=READ_ONLY), {"query": "a"})
    assert runs.count == 2


def test_tool_middleware_refuses_wrong_arguments(plain_cache: AgentCache) -> None:
    for options, text in (
        ({"tools": "search"}, "tools must be names of tools, not str"),
        ({"tools": 5}, "tools must be names of tools, not int"),
        ({"tools": ["a:b"]}, "tool must be a name"),
        ({"tools": {"search": -1}}, "the lifetime of 'search'"),
        ({"ttl": -1}, "ttl"),
        ({"tags": "documents"}, "tags must be a sequence of names"),
        ({"scope": "all"}, "scope must be a function"),
    ):
        with pytest.raises(UsageError, match=text):
            TierCacheToolMiddleware(plain_cache, **options)  # type: ignore[arg-type]
