"""The forms of DSPy's values: values that come back whole, and values of other software."""

from __future__ import annotations

import json
from operator import attrgetter
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("dspy", "litellm")

from litellm.types.llms.openai import ResponsesAPIResponse
from litellm.types.utils import ModelResponse, TextCompletionResponse

from tiercache import AgentCache
from tiercache.adapters.dspy import TierCacheDSPy
from tiercache.adapters.dspy.values import from_form, to_form

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}
CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "é"}'}}
TOKEN = {"token": "a", "logprob": -0.1, "bytes": [97]}
MESSAGES: list[dict[str, Any]] = [
    {"role": "assistant", "content": "é\x00"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
    {"role": "assistant", "content": None, "refusal": "No."},
    {"role": "assistant", "content": "x", "reasoning_content": "Hm."},
]
CHATS = [
    ModelResponse(
        id="r1",
        model="m",
        choices=[
            {
                "index": index,
                "finish_reason": "stop",
                "message": message,
                "logprobs": {"content": [{**TOKEN, "top_logprobs": [TOKEN]}]},
            }
            for index in range(count)
        ],
        usage=USAGE,
    )
    for message in MESSAGES
    for count in (1, 3)
]
OTHERS = [
    TextCompletionResponse(
        model="m", choices=[{"index": 0, "text": "Hi", "finish_reason": "stop", "logprobs": None}], usage=USAGE
    ),
    ResponsesAPIResponse(
        id="r1",
        created_at=1,
        status="completed",
        model="m",
        object="response",
        output=[
            {
                "type": "message",
                "id": "m1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
            },
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "f",
                "arguments": "{}",
                "id": "i",
                "status": "completed",
            },
        ],
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        temperature=1.0,
        top_p=1.0,
        usage={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
]


# LiteLLM keeps the price of an answer beside its fields, and DSPy reads it there.
beside = attrgetter("_hidden_params")


@pytest.mark.parametrize("answer", [*CHATS, *OTHERS])
def test_answer_of_litellm_comes_back_whole(answer: Any) -> None:
    beside(answer)["response_cost"] = 0.25
    form = to_form(answer)
    assert form is not None
    restored = from_form(json.loads(json.dumps(form)))
    assert type(restored) is type(answer)
    assert restored.model_dump() == answer.model_dump()
    assert beside(restored)["response_cost"] == 0.25


@pytest.mark.parametrize("value", [[[0.1, -2.5e-7], []], {"_dspy_format": "x", "é": [None, True, 1, 1.0]}, "", 0, []])
def test_json_comes_back_as_it_is(value: Any) -> None:
    form = to_form(value)
    assert form is not None
    assert repr(from_form(json.loads(json.dumps(form)))) == repr(value)


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("shape", [(2, 3), (3,), (0, 2), ()])
def test_array_comes_back_as_it_is(kind: str, shape: tuple[int, ...]) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.ones(shape).astype(kind)
    for value in (array, [array, array], numpy.asfortranarray(array)):
        form = to_form(value)
        assert form is not None
        restored = from_form(json.loads(json.dumps(form)))
        assert type(restored) is type(value)
        assert numpy.array_equal(numpy.array(restored), numpy.array(value))
        if not isinstance(value, list):
            assert (restored.dtype, restored.shape, restored.flags.writeable) == (value.dtype, value.shape, True)


def test_value_that_no_form_restores_has_none() -> None:
    numpy = pytest.importorskip("numpy")

    class Mine(ModelResponse):
        """A class that is not allowed."""

    values = [(1,), {1: 2}, {"a": (1,)}, b"x", {1}, object(), float("nan"), [numpy.float32(1)], Mine(model="m")]
    values += [numpy.array([object()]), numpy.array(["text"]), numpy.zeros(1, dtype=[("a", "<f4")])]
    assert [to_form(value) for value in values] == [None] * len(values)


@pytest.mark.parametrize(
    "form",
    [
        None,
        5,
        [],
        {},
        "json",
        {"class": "Popen", "fields": {"args": "true"}, "cost": None},
        {"class": "ModelResponse", "fields": {"choices": 5}, "cost": None},
        {"class": "ModelResponse", "fields": {}, "cost": None},
        {"class": "ModelResponse", "fields": [], "cost": None},
        {"class": ["ModelResponse"], "fields": {}, "cost": None},
        {"array": "AAAA", "dtype": "|O8", "shape": [1]},
        {"array": "AAAA", "dtype": "<f4", "shape": [1]},
        {"array": "AAAA", "dtype": "|S3", "shape": [1]},
        {"array": "!", "dtype": "|u1", "shape": [1]},
        {"array": "AAAA", "dtype": "|u1", "shape": [-1]},
        {"items": 5},
    ],
)
def test_form_of_other_software_is_a_miss(plain_cache: AgentCache, form: Any) -> None:
    assert from_form(form) is None
    cache = TierCacheDSPy(plain_cache)
    request = {"_fn_identifier": "f"}
    plain_cache.sync.tier("dspy").set(cache.cache_key(request), form)
    assert cache.get(request) is None
    cache.put(request, [1])
    assert cache.get(request) == [1]


def test_answer_of_other_software_is_a_miss(plain_cache: AgentCache) -> None:
    cache = TierCacheDSPy(plain_cache)
    request = {"_fn_identifier": "dspy.clients.lm.litellm_completion", "model": "openai/gpt-4o", "messages": []}
    params = {"model": "gpt-4o", "messages": [], "dspy": cache.cache_key(request)}
    plain_cache.sync.llm.store(params, "text")
    assert cache.get(request) is None
    for block in ({"type": "dspy"}, {"type": "text", "text": "x"}, {"type": "dspy", "value": {"class": "os"}}):
        plain_cache.sync.llm.store_multipart(params, [block])
        assert cache.get(request) is None
    cache.put(request, CHATS[0])
    assert cache.get(request).choices == CHATS[0].choices


def test_values_in_valkey_are_json(plain_cache: AgentCache, plain: valkey.Valkey) -> None:
    cache = TierCacheDSPy(plain_cache)
    cache.put({"_fn_identifier": "f"}, [[0.5]])
    cache.put({"_fn_identifier": "dspy.clients.lm.litellm_completion", "model": "m"}, CHATS[0])
    plain_cache.sync.flush_writes()
    (answer,) = plain.keys("test:llm:*")
    assert json.loads(plain.get(answer))["contentBlocks"][0]["value"]["class"] == "ModelResponse"
    (value,) = [key for key in plain.keys("test:*dspy*") if plain.type(key) == b"string"]
    assert b'{"json":[[0.5]]}' in plain.get(value)
