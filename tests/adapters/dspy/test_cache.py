"""TierCacheDSPy under DSPy's models, programs and embedders: hits, whole answers, faults."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("dspy")

import dspy
from dspy.clients.cache import Cache, request_cache

from tests.adapters.dspy.conftest import Install
from tests.adapters.mortal_server import MortalServer
from tests.providers import ProviderServer, Script, ToolCall
from tiercache import AgentCache, Answer, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.adapters.dspy import TierCacheDSPy

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

MakeLm = Callable[..., Any]
# The drain at the end does not wait for a server that is gone.
SOON = ResilienceOptions(drain_timeout=0.5)
ENGINES = pytest.mark.parametrize("engine", ["auto", "litellm"])
TOOLS = [
    {
        "type": "function",
        "function": {"name": "search", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}},
    }
]


async def end(lm: Any) -> None:
    """Close a model, and stop the task with which LiteLLM writes its log."""
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    await lm.aclose()
    await GLOBAL_LOGGING_WORKER.stop()


# Models


@ENGINES
@pytest.mark.parametrize("model_type", ["chat", "responses"])
def test_second_equal_call_of_a_model_is_not_sent(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer, engine: str, model_type: str
) -> None:
    install(plain_cache)
    first, second = (make_lm(engine=engine, model_type=model_type) for _ in range(2))
    outputs = first("Hi")
    assert second("Hi") == outputs
    assert provider.call_count == 1
    miss, hit = first.history[0], second.history[0]
    assert miss["usage"]["completion_tokens" if "completion_tokens" in miss["usage"] else "output_tokens"] == 5
    assert (hit["usage"], hit["outputs"], hit["response_model"]) == ({}, miss["outputs"], miss["response_model"])
    assert hit["cost"] == miss["cost"]


@ENGINES
async def test_coroutines_and_plain_code_share_an_answer(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer, engine: str
) -> None:
    install(plain_cache)
    lm = make_lm(engine=engine)
    outputs = await lm.acall("Hi")
    # Plain code inside a running loop, and on another thread.
    assert lm("Hi") == await asyncio.to_thread(lm, "Hi") == await lm.acall("Hi") == outputs
    assert provider.call_count == 1
    await end(lm)


@ENGINES
def test_processes_share_an_answer(
    url: str, install: Install, make_lm: MakeLm, provider: ProviderServer, engine: str
) -> None:
    caches = [AgentCache.from_url(url, name="test") for _ in range(2)]
    outputs = []
    for cache in caches:
        install(cache)
        outputs.append(make_lm(engine=engine)("Hi"))
    assert outputs[0] == outputs[1]
    assert provider.call_count == 1
    for cache in caches:
        cache.sync.close()


def test_cache_works_in_memory(
    plain_memory: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer
) -> None:
    install(plain_memory)
    assert make_lm()("Hi") == make_lm()("Hi")
    assert provider.call_count == 1


@ENGINES
def test_several_answers_and_tool_calls_survive(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer, engine: str
) -> None:
    install(plain_cache)
    provider.enqueue(*[Script(parts=(f"text {i}",)) for i in range(3)])
    outputs = make_lm(engine=engine, n=3, temperature=0.5)("Hi")
    count = provider.call_count
    assert len(outputs) == 3
    assert make_lm(engine=engine, n=3, temperature=0.5)("Hi") == outputs
    assert provider.call_count == count
    provider.choose = lambda request: Script(tool_calls=(ToolCall(name="search", arguments={"q": "é"}),))
    (called,) = make_lm(engine=engine, tools=TOOLS)("Find")
    (again,) = make_lm(engine=engine, tools=TOOLS)("Find")
    assert again == called
    assert json.loads(again["tool_calls"][0].function.arguments) == {"q": "é"}
    assert again["tool_calls"][0].function.name == "search"
    assert provider.call_count == count + 1


class Answered(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


FIELDS = Script(parts=("[[ ## answer ## ]]\nThe Danube\n\n[[ ## completed ## ]]",))


def test_second_run_of_a_program_sends_nothing(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer
) -> None:
    install(plain_cache)
    provider.choose = lambda request: FIELDS
    for _ in range(2):
        with dspy.context(lm=make_lm()):
            assert dspy.Predict(Answered)(question="Which river?").answer == "The Danube"
    assert provider.call_count == 1
    with dspy.context(lm=make_lm()):
        dspy.Predict(Answered.with_instructions("Answer briefly."))(question="Which river?")
        dspy.Predict(Answered)(question="Which other river?")
    assert provider.call_count == 3


async def test_second_run_of_a_streamed_program_sends_nothing(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer
) -> None:
    install(plain_cache)
    provider.choose = lambda request: FIELDS
    for _ in range(2):
        with dspy.context(lm=make_lm()):
            program = dspy.streamify(dspy.Predict(Answered))
            *_, last = [item async for item in program(question="Which river?")]
        assert last.answer == "The Danube"
    assert provider.call_count == 1


@ENGINES
@pytest.mark.parametrize("finish", ["length", "content_filter", "refusal"])
def test_answer_that_is_not_complete_is_not_stored(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer, engine: str, finish: str
) -> None:
    install(plain_cache)
    provider.enqueue(Script(finish=finish, parts=("half",)))
    make_lm(engine=engine)("Hi")
    assert make_lm(engine=engine)("Hi") == make_lm(engine=engine)("Hi") == ["Answer 2: part 1 part 2 part 3 part 4"]
    assert provider.call_count == 2


@ENGINES
@pytest.mark.parametrize("finish", ["length", "refusal"])
def test_answer_that_is_not_complete_survives_if_the_caller_keeps_it(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer, engine: str, finish: str
) -> None:
    seen: list[Answer] = []

    def store_when(answer: Answer) -> bool:
        seen.append(answer)
        return True

    install(plain_cache, store_when=store_when)
    provider.enqueue(Script(finish=finish, parts=("half",)))
    outputs = make_lm(engine=engine)("Hi")
    assert make_lm(engine=engine)("Hi") == outputs
    assert provider.call_count == 1
    (answer,) = seen
    assert answer.is_complete is False
    assert answer.tokens is not None
    assert answer.tokens["output"] > 0


def test_answers_count_under_the_name_of_their_model(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer
) -> None:
    install(plain_cache)
    for _ in range(2):
        make_lm()("Hi")
    stats = plain_cache.sync.stats()
    assert (stats.llm.hits, stats.llm.misses) == (1, 1)
    assert stats.cost_saved_micros > 0
    assert plain_cache.sync.llm.invalidate_by_model("gpt-4o-mini") == 1
    make_lm()("Hi")
    assert provider.call_count == 2


def test_each_hit_is_an_object_of_its_own(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer
) -> None:
    cache = install(plain_cache)
    request = {"_fn_identifier": "f", "a": 1}
    cache.put(request, {"list": [1]})
    cache.get(request)["list"].append(2)
    assert cache.get(request) == {"list": [1]}
    lm = make_lm(engine="litellm")
    lm("Hi")
    lm("Hi")
    lm.history[-1]["response"].choices.clear()
    assert lm("Hi") == ["Answer 1: part 1 part 2 part 3 part 4"]
    assert lm.history[-1]["response"].cache_hit is True


def test_call_with_an_explicit_request_is_cached_only_if_the_caller_says_so(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer
) -> None:
    lm15 = pytest.importorskip("dspy.lm15")
    request = lm15.Request(model="openai/gpt-4o-mini", messages=(lm15.Message.user("Hi"),))
    for expected, options in ((2, {}), (3, {"explicit_requests": True})):
        install(plain_cache, **options)
        texts = {make_lm()(request).text for _ in range(2)}
        assert provider.call_count == expected
    assert len(texts) == 1


# Embedders and other functions


@pytest.mark.parametrize("inputs", [["a", "b"], "a"])
async def test_second_embedding_of_a_text_is_not_sent(
    plain_cache: AgentCache, install: Install, provider: ProviderServer, inputs: Any
) -> None:
    pytest.importorskip("numpy")
    install(plain_cache)

    def embedder(**options: Any) -> Any:
        fields = {"model": "openai/text-embedding-3-small", "api_base": provider.openai_url, "api_key": "none"}
        return dspy.Embedder(**{**fields, **options})

    first, second = [await asyncio.to_thread(embedder(), inputs) for _ in range(2)]
    assert (first == second).all()
    assert (await embedder().acall(inputs) == first).all()
    assert provider.call_count == 1
    for options in ({"dimensions": 2}, {"model": "openai/text-embedding-3-large"}, {"batch_size": 1}):
        count = provider.call_count
        await asyncio.to_thread(embedder(**options), inputs)
        assert provider.call_count > count or (options == {"batch_size": 1} and inputs == "a")


def test_embedder_with_a_function_is_not_cached(
    plain_cache: AgentCache, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    numpy = pytest.importorskip("numpy")
    install(plain_cache)

    def embedder(number: float) -> Any:
        return dspy.Embedder(lambda texts: numpy.full((len(texts), 2), number))

    # Both functions have the same source, by which DSPy's own cache takes one for the other.
    assert embedder(1.0)(["a"]).tolist() == [[1.0, 1.0]]
    assert embedder(2.0)(["a"]).tolist() == [[2.0, 2.0]]
    assert "has an object of type function, which cannot be part of a key" in caplog.text


def test_functions_of_the_caller_are_cached(plain_cache: AgentCache, install: Install) -> None:
    install(plain_cache)
    calls: list[Any] = []

    @request_cache()
    def search(url: str, query: str, k: int = 1) -> list[dict[str, Any]]:
        calls.append(query)
        return [{"text": query, "score": 0.5}] * k

    for _ in range(2):
        assert search("u", "a") == [{"text": "a", "score": 0.5}]
    assert search("u", "a", k=2) == [{"text": "a", "score": 0.5}] * 2
    search("v", "a")
    search("u", "b")
    assert calls == ["a", "a", "a", "b"]


def test_value_that_json_does_not_restore_is_not_stored(
    plain_cache: AgentCache, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    cache = install(plain_cache)
    for value in ((1, 2), {1: 2}, object(), {"a": {1}}, b"x", None):
        cache.put({"_fn_identifier": "f"}, value)
        assert cache.get({"_fn_identifier": "f"}) is None
    assert "cannot be restored from JSON" in caplog.text


# The methods of the object


def test_cache_has_the_methods_of_dspys_own(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer
) -> None:
    cache = install(plain_cache)
    assert isinstance(cache, Cache)
    make_lm()("Hi")
    cache.put({"_fn_identifier": "f"}, [1])
    cache.reset_memory_cache()
    make_lm()("Hi")
    assert provider.call_count == 1
    plain_cache.sync.kv.set("other", 1)
    assert cache.clear() == 2
    make_lm()("Hi")
    assert (provider.call_count, cache.get({"_fn_identifier": "f"})) == (2, None)
    assert plain_cache.sync.kv.get("other") == 1
    for call in (
        lambda: cache.save_memory_cache("cache.pkl"),
        lambda: cache.load_memory_cache("cache.pkl", allow_pickle=True),
    ):
        with pytest.raises(UsageError, match="no pickle"):
            call()
    with pytest.raises(UsageError, match="call get with the request"):
        _ = "key" in cache
    assert copy.deepcopy(cache) is cache
    with pytest.raises(TypeError, match="cannot pickle a TierCacheDSPy"):
        pickle.dumps(cache)


def test_tags_and_lifetimes_hold(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, plain: valkey.Valkey
) -> None:
    cache = install(plain_cache, tags=["release"], ttl="1h")
    make_lm()("Hi")
    cache.put({"_fn_identifier": "f"}, [1])
    plain_cache.sync.flush_writes()
    entries = [*plain.keys("test:llm:*"), *plain.keys("test:__tc:kv:dspy:*")]
    assert len(entries) == 2
    assert all(0 < plain.pttl(key) <= 3_600_000 for key in entries)
    assert plain_cache.sync.invalidate_tag("release") == 2


def test_subclass_may_make_other_keys(
    plain_cache: AgentCache, monkeypatch: pytest.MonkeyPatch, make_lm: MakeLm, provider: ProviderServer
) -> None:
    class Last(TierCacheDSPy):
        def cache_key(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> str:
            return json.dumps(request["messages"][-1:])

    monkeypatch.setattr(dspy, "cache", Last(plain_cache), raising=False)
    assert make_lm(temperature=0.1)("Hi") == make_lm(temperature=0.2)("Hi")
    assert provider.call_count == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 0}, "ttl must be"),
        ({"tags": "a"}, "tags"),
        ({"scope": 1}, "scope must be"),
        ({"store_when": True}, "store_when must be callable, not bool"),
    ],
)
def test_wrong_arguments_are_refused(memory: AgentCache, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TierCacheDSPy(memory, **options)
    with pytest.raises(UsageError, match="cache must be an AgentCache, not dict"):
        TierCacheDSPy({})  # type: ignore[arg-type]


def test_lookup_of_a_closed_cache_is_refused(plain_cache: AgentCache, install: Install) -> None:
    cache = install(plain_cache)
    plain_cache.sync.close()
    with pytest.raises(UsageError, match="closed"):
        cache.get({"_fn_identifier": "f"})
    # An answer that is paid for reaches its caller.
    cache.put({"_fn_identifier": "f"}, [1])


# Faults


@ENGINES
async def test_answer_reaches_the_caller_if_valkey_is_killed_during_the_call(
    mortal_server: MortalServer, install: Install, make_lm: MakeLm, provider: ProviderServer, engine: str
) -> None:
    cache = AgentCache.from_url(mortal_server.url, resilience=SOON)

    def kill(request: Any) -> None:
        mortal_server.kill()

    provider.choose = kill
    adapter = install(cache)
    lm = make_lm(engine=engine)
    assert await lm.acall("Hi") == ["Answer 1: part 1 part 2 part 3 part 4"]
    assert lm("Ho") == ["Answer 2: part 1 part 2 part 3 part 4"]
    adapter.put({"_fn_identifier": "f"}, [1])
    with pytest.raises(L2UnavailableError):
        adapter.clear()
    await end(lm)
    await asyncio.to_thread(cache.sync.close)


def test_failure_of_store_when_loses_no_answer(
    plain_cache: AgentCache,
    install: Install,
    make_lm: MakeLm,
    provider: ProviderServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def store_when(answer: Answer) -> bool:
        raise ValueError("broken")

    install(plain_cache, store_when=store_when)
    assert make_lm()("Hi") == ["Answer 1: part 1 part 2 part 3 part 4"]
    assert "store_when has failed" in caplog.text


def test_error_of_a_model_is_not_stored(
    plain_cache: AgentCache, install: Install, make_lm: MakeLm, provider: ProviderServer
) -> None:
    install(plain_cache)
    provider.enqueue(Script(status=400))
    with pytest.raises(Exception, match="answers with an error"):
        make_lm()("Hi")
    assert make_lm()("Hi") == ["Answer 2: part 1 part 2 part 3 part 4"]
