"""The right answers: each is a function of its request alone, and different requests have different answers."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tiercache.cli.demo.answers import MAX_LATENCY, answer, digest_of
from tiercache.cli.demo.workload import build_catalog

PARAMS = [request.params() for request in build_catalog()]
ANSWERS = [answer(params) for params in PARAMS]


def test_answer_is_the_same_for_the_same_request() -> None:
    assert [answer(params) for params in PARAMS] == ANSWERS


def test_answer_ignores_the_order_of_the_keys() -> None:
    assert answer(dict(reversed(PARAMS[0].items()))) == ANSWERS[0]


def test_answer_differs_for_every_request() -> None:
    reply = {(reply.text, reply.tool_call.id if reply.tool_call else None) for reply in ANSWERS}
    assert len(reply) == len(PARAMS)


@given(st.sampled_from(PARAMS), st.sampled_from(["model", "temperature", "messages", "tools", "seed"]))
def test_digest_changes_with_every_parameter(params: dict[str, Any], name: str) -> None:
    assert digest_of({**params, name: "changed"}) != digest_of(params)


def test_tool_call_follows_the_schema_of_its_tool() -> None:
    types = {"string": str, "integer": int, "number": int, "boolean": bool}
    calls = [(params, reply.tool_call) for params, reply in zip(PARAMS, ANSWERS, strict=True) if reply.tool_call]
    assert calls
    for params, call in calls:
        (tool,) = (tool["function"] for tool in params["tools"] if tool["function"]["name"] == call.name)
        rules = tool["parameters"]["properties"]
        assert set(call.arguments) == set(rules)
        for name, value in call.arguments.items():
            assert isinstance(value, types[rules[name]["type"]])
            assert value in rules[name].get("enum", [value])
            if rules[name]["type"] in ("integer", "number"):
                assert rules[name].get("minimum", 0) <= value <= rules[name].get("maximum", value)


def test_answer_is_json_if_the_request_asks_for_json() -> None:
    wanted = [reply.text for params, reply in zip(PARAMS, ANSWERS, strict=True) if "response_format" in params]
    assert wanted
    assert all(isinstance(json.loads(text or ""), dict) for text in wanted)


def test_answer_has_at_most_max_tokens() -> None:
    limited = [(params, reply) for params, reply in zip(PARAMS, ANSWERS, strict=True) if "max_tokens" in params]
    assert limited
    assert all(reply.completion_tokens <= params["max_tokens"] for params, reply in limited)


def test_prompt_tokens_grow_with_the_request() -> None:
    params = PARAMS[0]
    longer = {**params, "messages": [*params["messages"], {"role": "user", "content": "And now? " * 50}]}
    assert answer(longer).prompt_tokens > answer(params).prompt_tokens + 100


def test_first_part_comes_before_the_whole_answer() -> None:
    assert all(0 < reply.first_latency <= reply.latency for reply in ANSWERS)


def test_latency_has_a_long_tail() -> None:
    latencies = sorted(reply.latency for reply in ANSWERS)
    median = latencies[len(latencies) // 2]
    assert latencies[0] > 0.1
    assert 1 < median < 4
    assert 3 * median < latencies[-1] <= MAX_LATENCY
