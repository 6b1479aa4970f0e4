"""TierCacheLLMCache: which requests share an answer, what of an answer comes back, and what is stored."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("langchain", "langchain_openai")

from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from tests.adapters.langchain.models import GivenModel, chat_openai
from tests.providers import ProviderServer, Script, ToolCall
from tests.requests import Loader, load_llm
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, ResilienceOptions, TierOptions, UsageError
from tiercache.adapters.langchain import TierCacheLLMCache

# Of some versions of langchain-openai, for an answer that they have parsed.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

USAGE = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}


@tool
def weather(city: str) -> str:
    """Return the weather in a city."""
    return city


@tool("weather")
def weather_of_a_day(city: str, day: str) -> str:
    """Return the weather in a city."""
    return city + day


class Answer(BaseModel):
    """A schema of answers."""

    a: str


class OtherAnswer(BaseModel):
    """Another schema of answers."""

    b: str


def new_schema(field: str) -> type[BaseModel]:
    """Return a new class of the name Renamed with one field."""
    return type("Renamed", (BaseModel,), {"__annotations__": {field: str}, "__module__": __name__})


# Ways to call a model. The answers to any two of them differ, or may differ.
CALLS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda model: model.invoke("Hi"),
    "another prompt": lambda model: model.invoke("Ho"),
    "system prompt": lambda model: model.invoke([SystemMessage("Be brief."), HumanMessage("Hi")]),
    "another system prompt": lambda model: model.invoke([SystemMessage("Be kind."), HumanMessage("Hi")]),
    "role": lambda model: model.invoke([AIMessage("Hi")]),
    "name": lambda model: model.invoke([HumanMessage("Hi", name="Ada")]),
    "image": lambda model: model.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "http://a/b"}}])]),
    "stop": lambda model: model.invoke("Hi", stop=["END"]),
    "another stop": lambda model: model.invoke("Hi", stop=["STOP"]),
    "temperature": lambda model: model.bind(temperature=0.5).invoke("Hi"),
    "another temperature": lambda model: model.bind(temperature=0.6).invoke("Hi"),
    "model": lambda model: model.bind(model="gpt-4o").invoke("Hi"),
    "tools": lambda model: model.bind_tools([weather]).invoke("Hi"),
    "other arguments of a tool": lambda model: model.bind_tools([weather_of_a_day]).invoke("Hi"),
    "tool choice": lambda model: model.bind_tools([weather], tool_choice="any").invoke("Hi"),
    "json": lambda model: model.bind(response_format={"type": "json_object"}).invoke("Hi"),
    "schema": lambda model: model.with_structured_output(Answer, include_raw=True).invoke("Hi"),
    "other schema": lambda model: model.with_structured_output(OtherAnswer, include_raw=True).invoke("Hi"),
    "schema as a tool": lambda model: model.with_structured_output(
        Answer, include_raw=True, method="function_calling"
    ).invoke("Hi"),
    "max_tokens": lambda model: model.bind(max_tokens=5).invoke("Hi"),
    "seed": lambda model: model.bind(seed=5).invoke("Hi"),
}
# Settings of a model.
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.1},
    "model": {"model": "gpt-4o"},
    "max_tokens": {"max_tokens": 7},
    "reasoning": {"reasoning_effort": "low"},
    "model_kwargs": {"model_kwargs": {"prediction": "none"}},
}


def whole(message: Any) -> dict[str, Any]:
    """Return the fields of a message, without the cost, which LangChain sets to 0 for a hit."""
    fields: dict[str, Any] = message.model_dump()
    usage = dict(fields["usage_metadata"] or {})
    usage.pop("total_cost", None)
    fields["usage_metadata"] = usage or None
    return fields


def test_calls_that_differ_share_no_answer(plain_cache: AgentCache) -> None:
    with ProviderServer(Script(parts=('{"a": "1", "b": "2"}',))) as provider:
        model = chat_openai(provider, TierCacheLLMCache(plain_cache))
        for count, (name, call) in enumerate(CALLS.items(), start=1):
            call(model)
            assert provider.call_count == count, name
        for call in CALLS.values():
            call(model)
        assert provider.call_count == len(CALLS)


def test_models_that_differ_in_settings_share_no_answer(plain_cache: AgentCache, provider: ProviderServer) -> None:
    for settings in [{}, *SETTINGS.values()] * 2:
        chat_openai(provider, TierCacheLLMCache(plain_cache), **settings).invoke("Hi")
    assert provider.call_count == 1 + len(SETTINGS)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (Script(), {}),
        (Script(tool_calls=(ToolCall(name="weather", arguments={"city": "Oslo", "days": [1, 2]}),)), {}),
        (Script(finish="refusal"), {}),
        (Script(finish="length"), {}),
        (Script(), {"use_responses_api": True}),
        (Script(tool_calls=(ToolCall(name="weather", arguments={}),)), {"use_responses_api": True}),
        (Script(finish="refusal"), {"use_responses_api": True}),
    ],
    ids=["text", "tool call", "refusal", "length", "responses", "responses tool call", "responses refusal"],
)
async def test_answer_comes_back_whole(cache: AgentCache, script: Script, options: dict[str, Any]) -> None:
    with ProviderServer(script) as provider:
        model = chat_openai(provider, TierCacheLLMCache(cache), **options)
        first = await model.ainvoke("Hi")
        cache.clear_l1()
        second = await model.ainvoke("Hi")
    assert provider.call_count == 1
    assert whole(second) == whole(first)
    assert second.tool_calls == first.tool_calls
    assert second.content_blocks == first.content_blocks


async def test_answer_of_several_generations_comes_back_and_its_usage_counts_once(
    cache: AgentCache, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    model = chat_openai(provider, TierCacheLLMCache(cache), n=3)
    first = (await model.agenerate([[HumanMessage("Hi")]])).generations[0]
    second = (await model.agenerate([[HumanMessage("Hi")]])).generations[0]
    assert [whole(each.message) for each in second] == [whole(each.message) for each in first]
    assert len(second) == 3
    await cache.flush_writes()
    (key,) = entry_keys(plain)
    entry = json.loads(plain.get(key) or b"")
    usage = first[0].message.usage_metadata
    assert entry["tokens"] == {"input": usage["input_tokens"], "output": usage["output_tokens"]}


@pytest.mark.parametrize(
    "message",
    [
        AIMessage([{"type": "text", "text": "A"}, {"type": "image", "base64": "AAAA", "mime_type": "image/png"}]),
        AIMessage([{"type": "reasoning", "reasoning": "..."}, "plain text", {"type": "audio", "url": "http://a/b"}]),
        AIMessage("", additional_kwargs={"lc": 1, "nested": {"lc": 1, "type": "secret", "id": ["HOME"]}}),
        AIMessage("Hi", response_metadata={"logprobs": None, "nested": [1.5, {"a": True}]}, id="run-1", name="Ada"),
        AIMessage("", invalid_tool_calls=[{"name": "a", "args": "{", "id": "1", "error": "no JSON"}]),
        AIMessage("", tool_calls=[{"name": "a", "args": {"b": [None, "\u2028é"]}, "id": "1"}], usage_metadata=USAGE),
    ],
    ids=["image", "reasoning and audio", "like LangChain's own JSON", "metadata", "invalid tool call", "tool call"],
)
async def test_message_of_any_kind_comes_back_whole(cache: AgentCache, message: AIMessage) -> None:
    model = GivenModel(answers=[message], cache=TierCacheLLMCache(cache))
    first = await model.ainvoke("Hi")
    cache.clear_l1()
    assert whole(await model.ainvoke("Hi")) == whole(first)
    assert len(model.calls) == 1


class Birthday(BaseModel):
    """A birthday."""

    full_name: str = Field(alias="fullName")
    day: date


def test_parsed_answer_is_parsed_again_on_a_hit(plain_cache: AgentCache) -> None:
    with ProviderServer(Script(parts=('{"fullName": "Ada", "day": "1815-12-10"}',))) as provider:
        model = chat_openai(provider, TierCacheLLMCache(plain_cache)).with_structured_output(Birthday)
        first, second = model.invoke("When?"), model.invoke("When?")
    assert first == second == Birthday(fullName="Ada", day=date(1815, 12, 10))
    assert provider.call_count == 1


def test_schema_of_the_same_name_with_other_fields_shares_no_answer(plain_cache: AgentCache) -> None:
    with ProviderServer(Script(parts=('{"a": "1", "b": "2"}',))) as provider:
        model = chat_openai(provider, TierCacheLLMCache(plain_cache))
        for count, field in enumerate(("a", "b", "a", "b"), start=1):
            # The class of an earlier version of a program is gone when the next version runs.
            model.with_structured_output(new_schema(field), include_raw=True).invoke("Hi")
            gc.collect()
            assert provider.call_count == min(count, 2)


def test_schemas_of_one_name_at_the_same_time_are_not_cached(plain_cache: AgentCache) -> None:
    schemas = [new_schema("a"), new_schema("b")]
    with ProviderServer(Script(parts=('{"a": "1", "b": "2"}',))) as provider:
        model = chat_openai(provider, TierCacheLLMCache(plain_cache))
        for schema in [*schemas, *schemas]:
            model.with_structured_output(schema, include_raw=True).invoke("Hi")
        assert provider.call_count == 4


def test_model_for_texts_uses_the_cache(plain_cache: AgentCache) -> None:
    model = FakeListLLM(responses=["one", "two"], cache=TierCacheLLMCache(plain_cache))
    assert [model.invoke("Hi"), model.invoke("Hi"), model.invoke("Ho")] == ["one", "one", "two"]


@pytest.mark.parametrize("usage", [USAGE, None])
def test_answer_from_the_cache_makes_the_prompt_of_the_original(plain_cache: AgentCache, usage: Any) -> None:
    answer = AIMessage("Hello \u2028é", usage_metadata=usage, response_metadata={"cost": 1.10, "total_cost": 0})
    model = GivenModel(answers=[answer], cache=TierCacheLLMCache(plain_cache))
    for _ in range(3):
        first = model.invoke("Hi")
        model.invoke([HumanMessage("Hi"), first, HumanMessage("Go on")])
    assert len(model.calls) == 2


@pytest.mark.parametrize(
    "prompt",
    [
        '"total_cost": 0',
        '{"total_cost": 0}',
        '[5, {"kwargs": 5}, {"total_cost": 0}]',
        '[{"kwargs": {"usage_metadata": {"total_cost": 0}}}]',
    ],
)
async def test_prompt_of_any_text_has_an_entry_of_its_own(cache: AgentCache, prompt: str) -> None:
    adapter = TierCacheLLMCache(cache)
    await adapter.aupdate(prompt, "m", [Generation(text="a")])
    assert await adapter.alookup(prompt, "m") == [Generation(text="a")]
    for other in (prompt.replace("0", "1"), prompt.replace('"total_cost": 0', "")):
        assert await adapter.alookup(other, "m") is None


def test_cache_for_the_whole_process_is_used(plain_cache: AgentCache) -> None:
    set_llm_cache(TierCacheLLMCache(plain_cache))
    try:
        model = GivenModel(answers=[AIMessage("Hello")])
        assert [model.invoke("Hi").content for _ in range(2)] == ["Hello", "Hello"]
    finally:
        set_llm_cache(None)
    assert len(model.calls) == 1


async def test_entry_is_one_that_other_readers_of_the_tier_show(
    cache: AgentCache, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    model = chat_openai(provider, TierCacheLLMCache(cache, ttl=60))
    message = await model.ainvoke("Hi")
    await cache.flush_writes()
    (key,) = entry_keys(plain)
    entry = json.loads(plain.get(key) or b"")
    assert key.startswith("test:llm:")
    assert 0 < plain.pttl(key) <= 60_000
    assert entry["response"] == message.content
    assert entry["model"] == "gpt-4o-mini"
    assert entry["tokens"]["output"] == message.usage_metadata["output_tokens"]
    assert entry["cost"] > 0
    await model.ainvoke("Hi")
    stats = (await cache.stats()).llm
    assert (stats.hits, stats.misses) == (1, 1)


async def test_ttl_of_the_tier_is_used_where_the_adapter_has_none(url: str, plain: valkey.Valkey) -> None:
    async with AgentCache.from_url(url, name="test", llm=TierOptions(ttl=30)) as cache:
        await TierCacheLLMCache(cache).aupdate("p", "m", [Generation(text="a")])
        await cache.flush_writes()
        (key,) = entry_keys(plain)
        assert 0 < plain.pttl(key) <= 30_000


async def test_clear_removes_answers_of_langchain_alone(cache: AgentCache) -> None:
    params = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    await cache.llm.store(params, "kept")
    adapter = TierCacheLLMCache(cache)
    await adapter.aupdate("p", "m", [Generation(text="a")])
    await TierCacheLLMCache(cache).aclear()
    assert await adapter.alookup("p", "m") is None
    assert (await cache.llm.check(params)).hit


async def with_blocks(cache: AgentCache, plain: valkey.Valkey, blocks: list[dict[str, Any]]) -> TierCacheLLMCache:
    """Return an adapter whose entry for the prompt "p" and the model "m" another program has changed."""
    adapter = TierCacheLLMCache(cache)
    await adapter.aupdate("p", "m", [Generation(text="a")])
    await cache.flush_writes()
    (key,) = entry_keys(plain)
    entry = json.loads(plain.get(key) or b"") | {"contentBlocks": blocks}
    plain.set(key, json.dumps(entry, separators=(",", ":")))
    cache.clear_l1()
    assert (await cache.llm.explain(key)).source == "l2"
    return adapter


def foreign(generation: Any) -> list[dict[str, Any]]:
    return [{"type": "langchain", "generation": generation}]


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [{"type": "text", "text": "a"}],
        foreign(None),
        foreign("text"),
        foreign({"lc": 1, "type": "constructor", "id": ["langchain", "schema", "HumanMessage"], "kwargs": {}}),
        # A message, and no generation.
        foreign(
            {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "AIMessage"], "kwargs": {"content": ""}}
        ),
        # A class of a partner package, which would send requests to an address of the entry's.
        foreign(
            {
                "lc": 1,
                "type": "constructor",
                "id": ["langchain", "chat_models", "openai", "ChatOpenAI"],
                "kwargs": {"model_name": "a", "openai_api_base": "http://127.0.0.1:1", "openai_api_key": "k"},
            }
        ),
        foreign({"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "true"}}),
    ],
)
async def test_entry_that_langchain_cannot_restore_is_a_miss_and_is_replaced(
    cache: AgentCache, plain: valkey.Valkey, blocks: list[dict[str, Any]]
) -> None:
    adapter = await with_blocks(cache, plain, blocks)
    assert await adapter.alookup("p", "m") is None
    await adapter.aupdate("p", "m", [Generation(text="a")])
    assert await adapter.alookup("p", "m") == [Generation(text="a")]


async def test_entry_gets_no_secret_of_the_environment(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIERCACHE_TEST_SECRET", "secret")
    generation = {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", "output", "Generation"],
        "kwargs": {"text": "a", "generation_info": {"k": {"lc": 1, "type": "secret", "id": ["TIERCACHE_TEST_SECRET"]}}},
    }
    adapter = await with_blocks(cache, plain, foreign(generation))
    assert "secret" not in repr(await adapter.alookup("p", "m"))


@pytest.mark.parametrize(
    "llm_string",
    [
        "[('callback', <function f at 0x7f3c5d2e1a60>), ('stop', None)]",
        "[('response_format', <class 'app.Answer'>), ('stop', None)]",
    ],
)
async def test_request_that_names_an_object_by_its_address_or_class_is_not_cached(
    cache: AgentCache, llm_string: str, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = TierCacheLLMCache(cache)
    await adapter.aupdate("p", llm_string, [Generation(text="a")])
    assert await adapter.alookup("p", llm_string) is None
    assert "its answer is not cached" in caplog.text


class Opaque:
    """An object that JSON does not have."""

    def __repr__(self) -> str:
        return "<opaque>"


def test_prompt_with_an_object_that_json_does_not_have_is_not_cached(plain_cache: AgentCache) -> None:
    model = GivenModel(answers=[AIMessage("Hello")], cache=TierCacheLLMCache(plain_cache))
    for _ in range(2):
        model.invoke([HumanMessage("Hi", additional_kwargs={"file": Opaque()})])
    assert len(model.calls) == 2


@pytest.mark.parametrize("value", [Opaque(), (1, 2), {1: 2}, b"bytes"])
async def test_answer_that_json_does_not_restore_is_not_stored(
    cache: AgentCache, value: Any, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    message = AIMessage("Hello", additional_kwargs={"value": value})
    model = GivenModel(answers=[message], cache=TierCacheLLMCache(cache))
    for _ in range(2):
        assert (await model.ainvoke("Hi")).additional_kwargs == {"value": value}
    assert len(model.calls) == 2
    await cache.flush_writes()
    assert entry_keys(plain) == []
    assert "an answer of LangChain cannot be written as JSON" in caplog.text


@pytest.mark.parametrize(
    ("llm_string", "model"),
    [
        ('{"kwargs": {"model_name": "gpt-4o"}}---[(\'stop\', None)]', "gpt-4o"),
        ('{"kwargs": {"model": "claude"}}---[(\'stop\', None)]', "claude"),
        ("{\"kwargs\": {\"model_name\": \"gpt-4o\"}}---[('model', 'gpt-5'), ('stop', None)]", "gpt-5"),
        ('{"kwargs": {"model_name": "gpt-4o"}}---[(\'a\', ' + repr(Answer) + ")]", "gpt-4o"),
        ("[('_type', 'fake'), ('model_name', 'own'), ('stop', None)]", "own"),
        ("[('_type', 'fake'), ('stop', None)]", "langchain"),
        ("Sample LLM string configuration.", "langchain"),
        (f"[('model', '{'m' * 600}')]", "langchain"),
        ("[('model', 5)]", "langchain"),
        ("", "langchain"),
    ],
)
async def test_model_of_an_answer_is_the_model_that_answered(
    cache: AgentCache, plain: valkey.Valkey, llm_string: str, model: str
) -> None:
    await TierCacheLLMCache(cache).aupdate("p", llm_string, [Generation(text="a")])
    await cache.flush_writes()
    (key,) = entry_keys(plain)
    assert json.loads(plain.get(key) or b"")["model"] == model


async def test_sync_methods_work_within_a_running_loop(plain_cache: AgentCache) -> None:
    model = GivenModel(answers=[AIMessage("Hello")], cache=TierCacheLLMCache(plain_cache))
    assert [model.invoke("Hi").content for _ in range(2)] == ["Hello", "Hello"]
    assert len(model.calls) == 1


async def test_both_faces_share_answers_of_langchain(cache: AgentCache) -> None:
    adapter = TierCacheLLMCache(cache)
    await adapter.aupdate("p", "m", [Generation(text="a")])
    await cache.flush_writes()
    assert adapter.lookup("p", "m") == [Generation(text="a")]


async def test_llm_cache_in_memory_refuses_the_other_face(memory: AgentCache) -> None:
    adapter = TierCacheLLMCache(memory)
    await adapter.aupdate("p", "m", [Generation(text="a")])
    with pytest.raises(UsageError, match="memory"):
        adapter.lookup("p", "m")


def test_llm_cache_refuses_wrong_arguments(plain_cache: AgentCache) -> None:
    with pytest.raises(UsageError, match="cache must be an AgentCache, not SyncCache"):
        TierCacheLLMCache(plain_cache.sync)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ttl"):
        TierCacheLLMCache(plain_cache, ttl=-1)


async def test_answer_reaches_the_caller_of_a_cache_that_is_closed_meanwhile(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    adapter = TierCacheLLMCache(cache)
    assert await adapter.alookup("p", "m") is None
    await cache.aclose()
    await adapter.aupdate("p", "m", [Generation(text="a")])
    with pytest.raises(UsageError, match="closed"):
        await adapter.alookup("p", "m")


async def test_answer_waits_for_no_slot_of_a_load(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    loader = Loader(held=True)
    load = load_llm(cache, loader)
    await loader.started.wait()
    adapter = TierCacheLLMCache(cache)
    await adapter.aupdate("p", "m", [Generation(text="a")])
    assert await adapter.alookup("p", "m") == [Generation(text="a")]
    loader.release()
    await load


def test_message_of_a_hit_belongs_to_its_caller(plain_cache: AgentCache) -> None:
    adapter = TierCacheLLMCache(plain_cache)
    adapter.update("p", "m", [ChatGeneration(message=AIMessage("Hello", additional_kwargs={"a": [1]}))])
    first = adapter.lookup("p", "m")
    assert first is not None
    first[0].message.additional_kwargs["a"].append(2)  # type: ignore[attr-defined]
    second = adapter.lookup("p", "m")
    assert second is not None
    assert second[0].message.additional_kwargs == {"a": [1]}  # type: ignore[attr-defined]


def test_llm_cache_keeps_what_langchain_keeps_in_memory(provider: ProviderServer, plain_cache: AgentCache) -> None:
    messages = []
    for llm_cache in (InMemoryCache(), TierCacheLLMCache(plain_cache)):
        model = chat_openai(provider, llm_cache)
        first, second = model.invoke("Hi"), model.invoke("Hi")
        messages.append({name for name in whole(second) if whole(second)[name] == whole(first)[name]})
    assert messages[0] == messages[1]
