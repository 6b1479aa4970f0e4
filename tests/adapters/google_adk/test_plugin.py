"""TierCachePlugin: which calls of tools share a result, which results are stored, callbacks, Valkey away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.adapters.installed import needs

needs("google.adk", tox_env="frameworks-adk")

from google.adk.plugins import BasePlugin
from google.adk.tools import BaseTool, FunctionTool, LongRunningFunctionTool, ToolContext

from tests.adapters.google_adk.models import call, run
from tests.adapters.mortal_server import MortalServer
from tiercache import AgentCache, ResilienceOptions, UsageError
from tiercache.adapters.google_adk import TierCachePlugin

QUICK = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.05)
# ADK warns of features that are experiments.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class Tools:
    """Tools that count their runs.

    Attributes:
        runs: The names and the arguments of the runs.
    """

    def __init__(self, result: Callable[[], Any] = lambda: {"found": ["é", 1.5, None]}) -> None:
        self.runs: list[Any] = []
        runs = self.runs

        async def search(query: str, count: int = 3) -> Any:
            """Search."""
            runs.append(("search", query, count))
            await asyncio.sleep(0)
            return result()

        def look(query: str) -> Any:
            """Look."""
            runs.append(("look", query))
            return result()

        async def of_user(query: str, tool_context: ToolContext) -> Any:
            """Search in the data of the user."""
            runs.append(("of_user", query))
            return {"user": tool_context.user_id}

        self.search, self.look, self.of_user = search, look, of_user

    @property
    def all(self) -> list[Callable[..., Any]]:
        """The functions."""
        return [self.search, self.look, self.of_user]


def plugin(cache: AgentCache, *tools: str, **options: Any) -> TierCachePlugin:
    return TierCachePlugin(cache, tools=tools or ("search", "look", "of_user"), **options)


@pytest.fixture(params=["valkey", "memory"])
def any_cache(request: pytest.FixtureRequest) -> AgentCache:
    """Return a cache on Valkey, and one in process memory."""
    cache: AgentCache = request.getfixturevalue("cache" if request.param == "valkey" else "memory")
    return cache


async def test_equal_call_runs_its_tool_once(any_cache: AgentCache) -> None:
    tools = Tools()
    for name in ("search", "look"):
        results = [await run([plugin(any_cache)], tools.all, call(name, query="a")) for _ in range(3)]
        assert results == [[{"found": ["é", 1.5, None]}]] * 3
    assert tools.runs == [("search", "a", 3), ("look", "a")]


async def test_equal_calls_at_the_same_time_run_their_tool_once(replicas: tuple[AgentCache, AgentCache]) -> None:
    tools = Tools()
    same = call("search", query="a")
    results = await asyncio.gather(*[run([plugin(cache)], tools.all, same, same) for cache in replicas])
    assert results == [[{"found": ["é", 1.5, None]}] * 2] * 2
    assert len(tools.runs) == 1


@pytest.mark.parametrize(
    "other",
    [
        call("search", query="b"),
        call("search", query="a", count=4),
        call("search", query="a", count="3"),
        call("look", query="a"),
    ],
    ids=str,
)
async def test_different_calls_share_no_result(cache: AgentCache, other: Any) -> None:
    tools = Tools()
    for each in (call("search", query="a"), other):
        for _ in range(2):
            await run([plugin(cache)], tools.all, each)
    assert len(tools.runs) == 2


async def test_functions_of_one_name_share_no_result(cache: AgentCache) -> None:
    def other() -> Callable[..., Any]:
        def search(query: str) -> dict[str, Any]:
            """Search."""
            return {"other": query}

        return search

    tools = Tools()
    assert await run([plugin(cache)], tools.all, call("search", query="a")) == [{"found": ["é", 1.5, None]}]
    assert await run([plugin(cache)], [other()], call("search", query="a")) == [{"other": "a"}]


async def test_only_named_tools_are_cached(cache: AgentCache) -> None:
    tools = Tools()
    for _ in range(2):
        await run([plugin(cache, "look")], tools.all, call("search", query="a"), call("look", query="a"))
    assert [name for name, *_ in tools.runs].count("search") == 2
    assert [name for name, *_ in tools.runs].count("look") == 1


async def test_tool_that_takes_the_context_is_cached_with_a_scope_alone(
    cache: AgentCache, caplog: pytest.LogCaptureFixture
) -> None:
    tools = Tools()
    for user in ("ann", "bob", "ann", "bob"):
        assert await run([plugin(cache)], tools.all, call("of_user", query="a"), user=user) == [{"user": user}]
    assert len(tools.runs) == 4
    assert "the tool 'of_user' is not cached" in caplog.text
    scoped = plugin(cache, scope=lambda context: context.user_id)
    for user in ("ann", "bob", "ann", "bob"):
        assert await run([scoped], tools.all, call("of_user", query="a"), user=user) == [{"user": user}]
    assert len(tools.runs) == 6


@pytest.mark.parametrize(
    "result",
    [{"error": "down"}, {"isError": True, "content": []}, {"status": "ERROR"}, {"status": "error", "message": "x"}],
    ids=str,
)
async def test_error_is_not_stored(cache: AgentCache, result: dict[str, Any]) -> None:
    results = iter([result, {"found": 1}])
    tools = Tools(lambda: next(results))
    assert await run([plugin(cache)], tools.all, call("search", query="a")) == [result]
    for _ in range(2):
        assert await run([plugin(cache)], tools.all, call("search", query="a")) == [{"found": 1}]


@pytest.mark.parametrize("result", [{"a": (1, 2)}, {"a": {1: 2}}, {"a": {1, 2}}], ids=str)
async def test_result_that_json_does_not_restore_is_not_stored(cache: AgentCache, result: dict[str, Any]) -> None:
    tools = Tools(lambda: result)
    for _ in range(2):
        await run([plugin(cache)], tools.all, call("search", query="a"))
    assert len(tools.runs) == 2


async def test_exception_of_a_tool_reaches_the_agent_and_is_not_stored(cache: AgentCache) -> None:
    fails = iter([True, False])

    def result() -> dict[str, Any]:
        if next(fails):
            raise RuntimeError("down")
        return {"found": 1}

    tools = Tools(result)
    with pytest.raises(RuntimeError, match="down"):
        await run([plugin(cache)], tools.all, call("search", query="a"))
    assert await run([plugin(cache)], tools.all, call("search", query="a")) == [{"found": 1}]


class Handler(BasePlugin):
    """A plugin that answers the error of a tool."""

    async def on_tool_error_callback(self, **_: Any) -> dict[str, Any]:
        return {"handled": True}


async def test_answer_of_another_plugin_to_an_error_is_not_stored(cache: AgentCache) -> None:
    def result() -> dict[str, Any]:
        raise RuntimeError("down")

    tools = Tools(result)
    for plugins in ([Handler("h"), plugin(cache)], [plugin(cache), Handler("h")]):
        assert await run(plugins, tools.all, call("search", query="a")) == [{"handled": True}]
    assert len(tools.runs) == 2


def changing(act: Callable[[ToolContext], Any], runs: list[None]) -> Callable[..., Any]:
    async def change(tool_context: ToolContext) -> dict[str, Any]:
        """Change."""
        runs.append(None)
        act(tool_context)
        return {"ok": True}

    return change


@pytest.mark.parametrize(
    "act",
    [
        lambda context: context.state.update({"a": 1}),
        lambda context: context.state.__setitem__("user:a", None),
        lambda context: context.actions.artifact_delta.update(file=1),
        lambda context: setattr(context.actions, "skip_summarization", True),
    ],
    ids=["state", "state of the user", "artifact", "action"],
)
async def test_result_of_a_call_with_actions_is_not_stored(
    cache: AgentCache, act: Callable[[ToolContext], Any]
) -> None:
    runs: list[None] = []
    for _ in range(2):
        await run([plugin(cache, "change", scope=lambda _: "")], [changing(act, runs)], call("change"))
    assert len(runs) == 2


async def test_tools_that_answer_later_or_need_a_confirmation_are_not_cached(cache: AgentCache) -> None:
    tools = Tools()
    for tool in (
        LongRunningFunctionTool(tools.search),
        FunctionTool(tools.search, require_confirmation=True),
        FunctionTool(tools.search, require_confirmation=lambda query: False),
    ):
        tools.runs.clear()
        for _ in range(2):
            await run([plugin(cache, scope=lambda _: "")], [tool], call("search", query="a"))
        assert len(tools.runs) != 1


async def test_callbacks_of_the_agent_run_for_every_call(cache: AgentCache) -> None:
    tools = Tools()
    seen: list[str] = []

    def before(tool: BaseTool, args: dict[str, Any], tool_context: ToolContext) -> dict[str, Any] | None:
        seen.append(tool.name)
        return {"refused": True} if args["query"] == "secret" else None

    for query in ("a", "a", "secret"):
        last = await run([plugin(cache)], tools.all, call("search", query=query), before_tool_callback=before)
    assert last == [{"refused": True}]
    assert (len(seen), len(tools.runs)) == (3, 1)


async def test_each_caller_gets_a_result_of_its_own(cache: AgentCache) -> None:
    tools = Tools()
    for _ in range(2):
        (result,) = await run([plugin(cache)], tools.all, call("search", query="a"))
        assert result == {"found": ["é", 1.5, None]}
        result["found"].clear()


async def test_entry_of_another_program_is_replaced(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Tools()
    await run([plugin(cache)], tools.all, call("search", query="a"))
    args = {"args": {"query": "a"}, "tool": f"{__name__}.Tools.__init__.<locals>.search", "google_adk": True}
    assert (await cache.tool.check("search", args)).hit
    await cache.tool.store("search", args, {"other": 1})
    for _ in range(2):
        assert await run([plugin(cache)], tools.all, call("search", query="a")) == [{"found": ["é", 1.5, None]}]
    assert len(tools.runs) == 2


async def test_lifetimes_and_tags(cache: AgentCache, plain: Any) -> None:
    tools = Tools()
    cached = TierCachePlugin(cache, tools={"search": 60, "look": None}, ttl=600, tags=["docs"])
    await run([cached], tools.all, call("search", query="a"), call("look", query="a"))
    lives = {key.split(b":")[2]: plain.pttl(key) for key in plain.keys("test:tool:*")}
    assert 0 < lives[b"search"] <= 60_000 < lives[b"look"] <= 600_000
    assert await cache.invalidate_tag("docs") == 2


async def test_tools_run_once_valkey_is_killed(mortal_server: MortalServer) -> None:
    tools = Tools()
    async with AgentCache.from_url(mortal_server.url, name="test", resilience=QUICK) as cache:
        await run([plugin(cache)], tools.all, call("search", query="a"))
        mortal_server.kill()
        for query in ("b", "c"):
            assert await run([plugin(cache)], tools.all, call("search", query=query)) == [{"found": ["é", 1.5, None]}]
    assert len(tools.runs) == 3


@pytest.mark.parametrize(
    "argument",
    [
        {"cache": 1},
        {"tools": "search"},
        {"tools": [""]},
        {"tools": {"a": 0}},
        {"ttl": 0},
        {"tags": "a"},
        {"scope": "a"},
    ],
    ids=str,
)
async def test_wrong_argument_is_refused(memory: AgentCache, argument: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TierCachePlugin(**{"cache": memory, "tools": ["search"], **argument})
