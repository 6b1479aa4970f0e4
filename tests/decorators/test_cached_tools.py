"""``cache.tool.cached`` and ``cache.llm.cached``: the entries are those of ``get_or_load`` with the arguments."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import MakeCache
from tiercache import AgentCache, LlmResponse, UsageError
from tiercache.tiers.tool.policies import ToolPolicy

MESSAGES = [{"role": "user", "content": "Hello"}]


async def test_tool_has_the_entry_of_get_or_load(cache: AgentCache) -> None:
    calls: list[Any] = []

    @cache.tool.cached
    async def get_weather(city: str, unit: str = "c", **more: Any) -> dict[str, Any]:
        calls.append((city, unit, more))
        return {"city": city, "degrees": 21}

    assert await get_weather("Sofia") == {"city": "Sofia", "degrees": 21}
    assert get_weather.key("Sofia") == cache.tool.key("get_weather", {"city": "Sofia", "unit": "c"}).key
    assert (await cache.tool.check("get_weather", {"unit": "c", "city": "Sofia"})).value["degrees"] == 21
    assert (
        get_weather.key("Sofia", wind=True)
        == cache.tool.key("get_weather", {"city": "Sofia", "unit": "c", "wind": True}).key
    )
    await cache.tool.store("get_weather", {"city": "Varna", "unit": "c"}, {"degrees": 25})
    assert await get_weather(city="Varna") == {"degrees": 25}
    assert calls == [("Sofia", "c", {})]


async def test_hits_of_a_tool_count_its_name_and_cost(cache: AgentCache) -> None:
    @cache.tool.cached("weather", cost=0.25)
    async def get_weather(city: str) -> str:
        return "sunny"

    for _ in range(3):
        assert await get_weather("Sofia") == "sunny"
    tool = (await cache.stats()).per_tool["weather"]
    assert (tool.hits, tool.misses, tool.cost_saved_micros) == (2, 1, 500_000)


async def test_policy_of_the_tool_gives_the_ttl(cache: AgentCache) -> None:
    @cache.tool.cached
    async def get_weather(city: str) -> str:
        return "sunny"

    await cache.tool.set_policy("get_weather", ToolPolicy(ttl=60))
    result = await get_weather.result("Sofia")
    assert 0 < result.ttl <= 60
    assert await get_weather.clear() == 1


async def test_tool_functions_of_one_name_do_not_mix_their_parameters(cache: AgentCache) -> None:
    @cache.tool.cached("search")
    async def by_text(text: str, user: str) -> str:
        return f"{text} of {user}"

    @cache.tool.cached("search")
    async def by_user(user: str, text: str) -> str:
        return f"{text} of {user}"

    assert await by_text("a", "b") == "a of b"
    assert await by_user("a", "b") == "b of a"
    assert by_user.key("b", "a") == by_text.key("a", "b")


async def test_argument_that_comes_twice_is_refused(cache: AgentCache) -> None:
    @cache.tool.cached
    async def search(text: str, /, **more: Any) -> str:
        return text

    with pytest.raises(UsageError, match="the argument 'text' comes twice"):
        await search("a", text="b")
    assert await cache.memoize(search.__wrapped__)("a", text="b") == "a"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a:b", {}, "tool must be a name"),
        ("", {}, "tool must be a name"),
        ("a", {"cost": -1}, "cost must be dollars"),
        ("a", {"key": "{text}"}, "has no option 'key'"),
        ("a", {"instance_key": str}, "has no option 'instance_key'"),
    ],
)
async def test_wrong_decoration_of_a_tool_is_refused(
    memory: AgentCache, name: str, options: dict[str, Any], message: str
) -> None:
    async def search(text: str) -> str:
        return text

    with pytest.raises(UsageError, match=message):
        memory.tool.cached(name, **options)(search)


async def test_model_call_has_the_entry_of_get_or_load(cache: AgentCache) -> None:
    calls: list[Any] = []

    @cache.llm.cached(ttl=60)
    async def ask(model: str, messages: list[dict[str, str]], **options: Any) -> str:
        calls.append(options)
        return f"answer {len(calls)}"

    assert await ask("gpt-4o", MESSAGES) == "answer 1"
    assert await ask(messages=MESSAGES, model="gpt-4o") == "answer 1"
    assert await ask("gpt-4o", MESSAGES, temperature=0.5) == "answer 2"
    params = {"model": "gpt-4o", "messages": MESSAGES, "temperature": 0.5}
    assert ask.key("gpt-4o", MESSAGES, temperature=0.5) == cache.llm.key(params).key
    assert (await cache.llm.check(params)).response == "answer 2"
    await cache.flush_writes()
    assert await cache.llm.invalidate_by_model("gpt-4o") == 2
    assert await ask("gpt-4o", MESSAGES) == "answer 3"
    assert await ask.clear() == 1


async def test_model_call_with_params_takes_them_as_they_are(make_cache: MakeCache) -> None:
    async def ask(params: dict[str, Any]) -> LlmResponse:
        return LlmResponse("Hi", tokens={"input": 5, "output": 1})

    params = {"model": "gpt-4o", "messages": MESSAGES}
    answers = []
    for _ in range(2):
        cache = make_cache(name="test")
        decorated = cache.llm.cached(ask)
        answers.append(await decorated(params))
        assert decorated.key(params) == cache.llm.key(params).key
        await cache.flush_writes()
    assert answers == [LlmResponse("Hi", tokens={"input": 5, "output": 1})] * 2
    assert decorated.metrics().l2_hits == 1


async def test_blocks_of_an_answer_survive(cache: AgentCache) -> None:
    blocks = [{"type": "text", "text": "Hi"}, {"type": "tool_call", "id": "1", "name": "a", "args": {"b": [1]}}]

    @cache.llm.cached
    async def ask(model: str, messages: list[Any]) -> LlmResponse:
        return LlmResponse("Hi", content_blocks=blocks)

    first, second = await ask("m", MESSAGES), await ask("m", MESSAGES)
    assert first == second
    assert second.content_blocks == blocks
    assert ask.metrics().l1_hits == 1


async def test_model_call_without_a_known_return_type_is_refused(memory: AgentCache) -> None:
    async def untyped(model: str, messages: list[Any]):  # type: ignore[no-untyped-def]
        return "a"

    async def number(model: str, messages: list[Any]) -> int:
        return 5

    async def unknown(model: str, messages: list[Any]) -> "Missing":  # type: ignore[name-defined]  # noqa: F821, UP037
        return 5

    for function in (untyped, number, unknown):
        with pytest.raises(UsageError, match="must be annotated with what it returns: str or LlmResponse"):
            memory.llm.cached(function)  # type: ignore[type-var]


async def test_model_call_that_returns_something_else_is_an_error(cache: AgentCache) -> None:
    @cache.llm.cached
    async def ask(model: str, messages: list[Any]) -> str:
        return 5  # type: ignore[return-value]

    with pytest.raises(UsageError, match="must return a str or an LlmResponse"):
        await ask("m", MESSAGES)
    with pytest.raises(UsageError):
        await ask.set(LlmResponse("a", tokens={"input": -1}), "m", MESSAGES)  # type: ignore[arg-type]
