"""Which calls of DSPy share an answer, and which are not cached."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from tests.adapters.installed import needs

needs("dspy")

from pydantic import BaseModel, create_model

from tests.adapters.dspy.conftest import Install
from tests.providers import ProviderServer
from tiercache import AgentCache, UsageError
from tiercache.adapters.dspy import TierCacheDSPy

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

CHAT = "dspy.clients.lm.litellm_completion"
QUESTION = [{"role": "user", "content": "Hi"}]


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": fields}}}


def schema(**fields: Any) -> type[BaseModel]:
    return create_model("Schema", **{name: (kind, ...) for name, kind in fields.items()})


# Calls of a model that must never share an answer: the options of the model, and its messages.
CALLS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "plain": ({}, QUESTION),
    "temperature": ({"temperature": 0.5}, QUESTION),
    "other temperature": ({"temperature": 0.7}, QUESTION),
    "max_tokens": ({"max_tokens": 10}, QUESTION),
    "top_p": ({"top_p": 0.5}, QUESTION),
    "seed": ({"seed": 1}, QUESTION),
    "stop": ({"stop": ["x"]}, QUESTION),
    "n": ({"n": 2, "temperature": 0.9}, QUESTION),
    "logprobs": ({"logprobs": True}, QUESTION),
    "tools": ({"tools": [tool("search", q={"type": "string"})]}, QUESTION),
    "other tool": ({"tools": [tool("find", q={"type": "string"})]}, QUESTION),
    "other parameters of a tool": ({"tools": [tool("search", q={"type": "integer"})]}, QUESTION),
    "tool choice": ({"tools": [tool("search", q={"type": "string"})], "tool_choice": "required"}, QUESTION),
    "output schema": ({"response_format": schema(a=str)}, QUESTION),
    "output schema of the same name": ({"response_format": schema(a=str, b=str)}, QUESTION),
    "order of an output schema": ({"response_format": schema(b=str, a=str)}, QUESTION),
    "JSON mode": ({"response_format": {"type": "json_object"}}, QUESTION),
    "model": ({"model": "openai/gpt-4o"}, QUESTION),
    "rollout": ({"rollout_id": 1, "temperature": 1.0}, QUESTION),
    "other rollout": ({"rollout_id": 2, "temperature": 1.0}, QUESTION),
    "system prompt": ({}, [{"role": "system", "content": "Be brief."}, *QUESTION]),
    "other system prompt": ({}, [{"role": "system", "content": "Be long."}, *QUESTION]),
    "other question": ({}, [{"role": "user", "content": "hi"}]),
    "conversation": ({}, [*QUESTION, {"role": "assistant", "content": "Ho"}, *QUESTION]),
    "role": ({}, [{"role": "assistant", "content": "Hi"}, *QUESTION]),
    "parts": ({}, [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]),
    "Responses API": ({"model_type": "responses"}, QUESTION),
}


def test_calls_that_differ_share_no_answer(
    plain_cache: AgentCache,
    install: Install,
    make_lm: Callable[..., Any],
    provider: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(plain_cache)
    counts = []
    for options, messages in CALLS.values():
        make_lm(engine="litellm", **options)(messages=messages)
        counts.append(provider.call_count)
    assert counts == list(range(1, len(CALLS) + 1))
    for options, messages in CALLS.values():
        make_lm(engine="litellm", **options)(messages=messages)
    assert provider.call_count == len(CALLS)
    # Another address, another scope.
    make_lm(engine="litellm", api_base=provider.openai_url.replace("127.0.0.1", "localhost"))("Hi")
    install(plain_cache, scope="tenant")
    make_lm(engine="litellm")("Hi")
    assert provider.call_count == len(CALLS) + 2


# Requests that must have keys of their own.
REQUESTS: list[dict[str, Any]] = [
    {},
    {"model": "m"},
    {"model": "m", "api_base": "http://a"},
    {"model": "m", "base_url": "http://a"},
    {"model": "m", "api_base": "http://b"},
    {"model": "m", "_fn_identifier": CHAT},
    {"model": "m", "_fn_identifier": "dspy.clients.lm.litellm_text_completion"},
    *({"a": value} for value in (None, 0, 0.0, False, "", "0", [], {}, [[]], "None")),
    *({"a": value} for value in (1, 1.0, True, "1", [1], ["1"], {"1": 1})),
    {"a": {"x": 1, "y": 2}},
    {"a": {"y": 2, "x": 1}},
    {"a": {"fields": [["x", 1]]}},
    {"a": {"x": 1}},
    {"a": {"enum": "Color.RED"}},
]


def key(cache: AgentCache, request: dict[str, Any], ignored: list[str] | None = None, **options: Any) -> str:
    return TierCacheDSPy(cache, **options).cache_key(request, ignored)


class Color(Enum):
    """A value that is no JSON."""

    RED = 1


def test_requests_that_differ_have_keys_of_their_own(memory: AgentCache) -> None:
    requests = [*REQUESTS, {"a": Color.RED}, {"a": schema(x=int)}, {"a": schema(x=int)(x=1)}, {"a": schema(y=int)}]
    keys = [key(memory, request, ["api_key", "api_base", "base_url"]) for request in requests]
    pairs = [(requests[i], requests[j]) for i, j in itertools.combinations(range(len(keys)), 2) if keys[i] == keys[j]]
    assert pairs == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": "m", "temperature": 0}, {"temperature": 0, "model": "m"}),
        ({"model": "m", "api_key": "a"}, {"model": "m", "api_key": "b"}),
        ({"model": "m", "azure_ad_token_provider": len}, {"model": "m"}),
        ({"model": "m", "timeout": object()}, {"model": "m", "timeout": 5}),
        ({"_fn_identifier": CHAT}, {"_fn_identifier": "dspy.clients.lm.alitellm_completion"}),
        (
            {"_fn_identifier": "dspy.clients.embedding._cached_compute_embeddings"},
            {"_fn_identifier": "dspy.clients.embedding._cached_acompute_embeddings"},
        ),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        ({"ignored": 1, "a": 2}, {"ignored": 2, "a": 2}),
    ],
)
def test_requests_with_one_answer_have_one_key(memory: AgentCache, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(memory, one, ["ignored"]) == key(memory, other, ["ignored"])


def test_address_in_the_environment_is_part_of_the_key(memory: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[dict[str, Any]] = [
        {"model": "openai/gpt-4o"},
        {"_fn_identifier": "f", "positional_arg_0": "openai/text-embedding-3-small"},
    ]
    addressed = {"model": "openai/gpt-4o", "api_base": "http://c"}
    before = [key(memory, request) for request in requests]
    fixed = key(memory, addressed)
    for value in ("http://a", "http://b"):
        monkeypatch.setenv("OPENAI_BASE_URL", value)
        now = [key(memory, request) for request in requests]
        assert set(now).isdisjoint(before)
        before += now
        assert key(memory, addressed) == fixed


@pytest.mark.parametrize("value", [len, object(), {1: 2}, {("a",): 1}, b"x", {"a": [print]}])
def test_request_that_cannot_be_recognised_is_not_cached(
    plain_cache: AgentCache, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TierCacheDSPy(plain_cache)
    request = {"_fn_identifier": "f", "a": value}
    with pytest.raises(UsageError, match="argument 'a' has"):
        cache.cache_key(request)
    cache.put(request, [1])
    assert cache.get(request) is None
    assert "a call of DSPy is not cached: argument 'a' has" in caplog.text


@pytest.mark.parametrize(
    "parameters",
    [
        {"web_search_options": {}},
        {"tools": [{"type": "web_search"}]},
        {"_fn_identifier": "dspy.clients.lm.litellm_responses_completion", "previous_response_id": "r1"},
        {"_fn_identifier": "dspy.clients.lm.alitellm_responses_completion", "tools": [{"type": "file_search"}]},
        {
            "_fn_identifier": "dspy.clients.lm15.complete",
            "request": {"model": "m", "tools": [{"type": "builtin", "name": "web_search"}]},
        },
    ],
)
def test_request_that_depends_on_more_is_not_cached(
    plain_cache: AgentCache, parameters: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cache = TierCacheDSPy(plain_cache, explicit_requests=True, store_when=lambda answer: True)
    request = {"_fn_identifier": CHAT, "model": "m", "messages": QUESTION, **parameters}
    cache.put(request, {"text": "x"})
    assert cache.get(request) is None
    assert "depends on more than the request" in caplog.text
