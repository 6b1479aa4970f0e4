"""The right answer to a request: a function of the request alone, different for different requests."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tiercache.cli.demo.answers import MAX_LATENCY, answer, digest_of
from tiercache.cli.demo.workload import build_catalog

PARAMS = [request.params() for request in build_catalog()]
ANSWERS = [answer(params) for params in PARAMS]


def test_the_same_request_has_the_same_answer() -> None:
    assert [answer(params) for params in PARAMS] == ANSWERS


def test_the_order_of_the_keys_does_not_matter() -> None:
    assert answer(dict(reversed(PARAMS[0].items()))) == ANSWERS[0]


def test_no_two_requests_share_an_answer() -> None:
    said = {(said.text, said.tool_call.id if said.tool_call else None) for said in ANSWERS}
    assert len(said) == len(PARAMS)


@given(st.sampled_from(PARAMS), st.sampled_from(["model", "temperature", "messages", "tools", "seed"]))
def test_any_changed_parameter_changes_the_digest(params: dict[str, Any], name: str) -> None:
    assert digest_of({**params, name: "changed"}) != digest_of(params)


def test_tool_calls_follow_the_schema_of_their_tool() -> None:
    types = {"string": str, "integer": int, "number": int, "boolean": bool}
    calls = [(params, said.tool_call) for params, said in zip(PARAMS, ANSWERS, strict=True) if said.tool_call]
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


def test_json_is_answered_where_json_was_asked_for() -> None:
    wanted = [said.text for params, said in zip(PARAMS, ANSWERS, strict=True) if "response_format" in params]
    assert wanted
    assert all(isinstance(json.loads(text or ""), dict) for text in wanted)


def test_an_answer_keeps_to_max_tokens() -> None:
    limited = [(params, said) for params, said in zip(PARAMS, ANSWERS, strict=True) if "max_tokens" in params]
    assert limited
    assert all(said.completion_tokens <= params["max_tokens"] for params, said in limited)


def test_longer_requests_cost_more_tokens() -> None:
    params = PARAMS[0]
    longer = {**params, "messages": [*params["messages"], {"role": "user", "content": "And now? " * 50}]}
    assert answer(longer).prompt_tokens > answer(params).prompt_tokens + 100


def test_latencies_are_those_of_models_with_a_long_tail() -> None:
    latencies = sorted(said.latency for said in ANSWERS)
    median = latencies[len(latencies) // 2]
    assert latencies[0] > 0.1
    assert 1 < median < 4
    assert 3 * median < latencies[-1] <= MAX_LATENCY
