"""Values that JSON cannot hold: the error says where the defect is; parameters that an SDK has not given are absent."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tests.requests import HELLO
from tests.support import entry_keys
from tiercache import AgentCache, UsageError

DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]


def chat(content: Any) -> dict[str, Any]:
    """Return a request whose fourth message has ``content``."""
    messages = [{"role": "user", "content": str(n)} for n in range(3)]
    return {"model": "m", "messages": [*messages, {"role": "user", "content": content}]}


TOOLS = [{"function": {"name": "b"}}, {"function": {"name": "a", "parameters": {"x": {1}}}}]

DEFECTS: list[tuple[Any, str]] = [
    (chat({1}), "params['messages'][3]['content'] is not JSON: Object of type set"),
    (chat([{"type": "text", "text": b"x"}]), "params['messages'][3]['content'][0]['text'] is not JSON: Object of type"),
    (chat(datetime.date(2026, 1, 1)), "params['messages'][3]['content'] is not JSON: Object of type date"),
    (chat("\udc00"), "params['messages'][3]['content'] has text that is not Unicode (a lone surrogate)"),
    (chat({"\udc00": 1}), "params['messages'][3]['content'] has the key '\\udc00', which is not Unicode"),
    (chat({1: 1, "a": 2}), "params['messages'][3]['content'] is not JSON: its keys are of several types"),
    (chat({(1,): 1}), "params['messages'][3]['content'] is not JSON: keys must be str"),
    (chat(DEEP), "params is nested deeper than 250 levels"),
    ({**HELLO, "tool_choice": {"a": {1}}}, "params['tool_choice']['a'] is not JSON"),
    ({**HELLO, "tools": TOOLS}, "params['tools'][1]['function']['parameters']['x'] is not JSON"),
    ({**HELLO, "stop": (1, {2})}, "params['stop'][1] is not JSON"),
    ({**HELLO, "x": {"k" * 500: {1}}}, "] is not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "reason"), DEFECTS, ids=[reason[:60] for _, reason in DEFECTS])
async def test_error_says_where_params_are_not_json(
    cache: AgentCache, plain: valkey.Valkey, params: Any, reason: str
) -> None:
    for call in (
        lambda: cache.llm.check(params),
        lambda: cache.llm.get_or_load(params, lambda: "x"),
        lambda: cache.llm.store(params, "x"),
        lambda: cache.llm.invalidate(params),
    ):
        with pytest.raises(UsageError, match=re.escape(reason)) as caught:
            await call()
        assert len(str(caught.value)) < 600
    assert entry_keys(plain) == []


VALUES: dict[str, Callable[[AgentCache, Any], Any]] = {
    "value": lambda cache, value: cache.kv.set("k", value),
    "the value of 'k'": lambda cache, value: cache.kv.set_many({"k": value}),
    "response": lambda cache, value: cache.tool.store("t", {}, value),
    "args": lambda cache, value: cache.tool.check("t", value),
    "tokens": lambda cache, value: cache.llm.store(HELLO, "x", tokens=value),
    "content_blocks[0]": lambda cache, value: cache.llm.store_multipart(HELLO, [value]),
    "item": lambda cache, value: cache.session.append("t", "f", value),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(
    ("value", "place"), [({"a": [1, {"b": {2}}]}, "['a'][1]['b']"), ({"a": ({"b": object()},)}, "['a'][0]['b']")]
)
async def test_error_says_where_a_value_is_not_json(
    cache: AgentCache, plain: valkey.Valkey, name: str, value: Any, place: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{name}{place} is not JSON")):
        await VALUES[name](cache, value)
    assert entry_keys(plain) == []


# Keys that JSON makes equal

COLLISIONS: list[tuple[dict[Any, Any], str, str]] = [
    ({1: "a", "1": "b"}, "1", "'1'"),
    ({"1": "a", 1: "b"}, "'1'", "1"),
    ({True: "a", "true": "b"}, "True", "'true'"),
    ({None: "a", "null": "b"}, "None", "'null'"),
    ({1.5: "a", "1.5": "b"}, "1.5", "'1.5'"),
    ({float("nan"): "a", float("nan"): "b"}, "nan", "nan"),
    ({float("inf"): "a", "Infinity": "b"}, "inf", "'Infinity'"),
]
FORMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "whole": (lambda value: value, ""),
    "in a list": (lambda value: {"x": [0, value]}, "['x'][1]"),
    "in a tuple": (lambda value: {"x": (value,)}, "['x'][0]"),
    "in a dict with a number": (lambda value: {2: value}, "[2]"),
}


@pytest.mark.parametrize("name", [name for name in VALUES if name not in ("args", "tokens", "content_blocks[0]")])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("value", "first", "second"), COLLISIONS, ids=repr)
async def test_keys_that_are_one_key_in_json_are_refused_in_values(
    cache: AgentCache, plain: valkey.Valkey, name: str, form: str, value: Any, first: str, second: str
) -> None:
    wrap, place = FORMS[form]
    reason = f"{name}{place} has the keys {first} and {second}, which are one key in JSON"
    with pytest.raises(UsageError, match=re.escape(reason)):
        await VALUES[name](cache, wrap(value))
    assert entry_keys(plain) == []


@pytest.mark.parametrize(("value", "first", "second"), COLLISIONS, ids=repr)
async def test_keys_that_are_one_key_in_json_are_refused_in_requests(
    cache: AgentCache, value: Any, first: str, second: str
) -> None:
    """Otherwise two different requests would share an answer."""
    for call in (
        lambda: cache.llm.check({**HELLO, "x": value}),
        lambda: cache.llm.check({**HELLO, "x": (value,)}),
        lambda: cache.tool.check("t", {"x": value}),
        lambda: cache.tool.check("t", {"x": (value,)}),
        lambda: cache.tool.check("t", value),
        lambda: cache.llm.store(HELLO, "x", tokens=value),
        lambda: cache.llm.store_multipart(HELLO, [{"x": value}]),
        lambda: cache.session.set_json("t", "f", value),
    ):
        with pytest.raises(UsageError, match=r"one key in JSON|keys are of several types"):
            await call()


@pytest.mark.parametrize(
    ("value", "expected"),
    [({1: "a", 2: "b"}, {"1": "a", "2": "b"}), ({1: "a", "2": "b"}, {"1": "a", "2": "b"}), ({True: 1}, {"true": 1})],
)
async def test_keys_that_stay_apart_in_json_come_back_as_text(cache: AgentCache, value: Any, expected: Any) -> None:
    await cache.kv.set("k", value)
    assert await cache.kv.get("k") == expected
    cache.clear_l1()
    assert await cache.kv.get("k") == expected


# Parameters that an SDK has not given


def sdk_type(name: str, package: str) -> Any:
    """Return an object of a class such as ``openai._types.NotGiven``, without the SDK."""
    return type(name, (), {"__module__": f"{package}._types", "__bool__": lambda _: False})()


ABSENT = [sdk_type("NotGiven", "openai"), sdk_type("Omit", "openai"), sdk_type("NotGiven", "anthropic")]


@pytest.mark.parametrize("absent", ABSENT, ids=lambda value: f"{type(value).__module__}.{type(value).__name__}")
async def test_parameter_that_is_not_given_counts_as_absent(cache: AgentCache, absent: Any) -> None:
    given = {**HELLO, "response_format": {"type": "json"}, "tools": [{"name": "t", "x": {}}]}
    await cache.llm.store(given, "x")
    everywhere = {
        **HELLO,
        "temperature": absent,
        "top_p": absent,
        "stop": absent,
        "user": absent,
        "tool_choice": absent,
        "response_format": {"type": "json", "strict": absent},
        "tools": [{"name": "t", "strict": absent, "x": {"y": absent}}],
        "messages": [{"role": "user", "content": "Hello", "name": absent}],
    }
    assert cache.llm.key(everywhere) == cache.llm.key(given)
    for _ in range(2):
        assert (await cache.llm.check(everywhere)).response == "x"
    assert await cache.llm.invalidate(everywhere)
    loaded: list[Any] = []

    def load(params: Any) -> str:
        loaded.append(params)
        return "y"

    assert (await cache.llm.get_or_load(everywhere, load)).response == "y"
    assert loaded == [everywhere]
    await cache.flush_writes()
    assert (await cache.llm.check(given)).response == "y"
    assert cache.llm.key({**HELLO, "tools": absent}) == cache.llm.key(HELLO)
    assert cache.tool.key("t", {"a": 1, "b": absent}) == cache.tool.key("t", {"a": 1})


async def test_parameters_that_the_sdk_of_openai_marks_are_absent(cache: AgentCache) -> None:
    openai = pytest.importorskip("openai")
    for absent in (openai.NOT_GIVEN, openai.omit):
        params = {**HELLO, "stop": absent, "response_format": {"type": "json", "strict": absent}}
        assert cache.llm.key(params) == cache.llm.key({**HELLO, "response_format": {"type": "json"}})


@pytest.mark.parametrize(("name", "reason"), [("model", "must have 'model'"), ("messages", "must have 'messages'")])
async def test_required_parameter_that_is_not_given_is_missing(cache: AgentCache, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        await cache.llm.check({**HELLO, name: ABSENT[0]})


async def test_class_of_the_same_name_elsewhere_is_no_absent_parameter(cache: AgentCache) -> None:
    own = type("NotGiven", (), {})()
    with pytest.raises(UsageError, match=r"params\['stop'\] is not JSON: Object of type NotGiven"):
        await cache.llm.check({**HELLO, "stop": own})
    with pytest.raises(UsageError, match=r"params\['stop'\]\[0\] is not JSON"):
        await cache.llm.check({**HELLO, "stop": [ABSENT[0]]})
