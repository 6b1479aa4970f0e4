"""The three accounts that a fingerprint may be: JSON, marshal's, and marshal's beside the strings taken out of it."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings

from tests.requests import asking
from tests.tiers.test_canonical import Text, values
from tests.tiers.test_fingerprint import LONG, NEAR, check_llm, digest, llm_definition, requests, tool_definition
from tiercache import AgentCache
from tiercache.tiers.keys import fingerprint as accounts
from tiercache.tiers.keys.canonical_json import agreed_json, agrees_on
from tiercache.tiers.keys.fingerprint import fingerprint, is_json, said_by
from tiercache.tiers.llm import key as llm_key
from tiercache.tiers.tool import key as tool_key

FLAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "stream": None}
NESTED = {**FLAT, "tools": [{"name": "a", "parameters": {"type": "object"}}]}
LENGTHY = {**FLAT, "messages": [{"role": "system", "content": LONG * 5}, {"role": "user", "content": "Hi"}]}


@contextmanager
def everything_is_long() -> Iterator[None]:
    with mock.patch.multiple(accounts, _SHORT=0, _ROOM=0, _ROOM_OF_MESSAGE=0):
        yield


def test_each_kind_of_request_has_its_account() -> None:
    flat, nested, lengthy = fingerprint(FLAT), fingerprint(NESTED), fingerprint(LENGTHY)
    assert isinstance(flat, bytes)
    assert is_json(flat)
    assert isinstance(nested, bytes)
    assert not is_json(nested)
    assert isinstance(lengthy, tuple)
    assert said_by(flat) == FLAT
    assert said_by(nested) == NESTED
    assert said_by(lengthy) is None


@settings(max_examples=300, deadline=None)
@given(requests)
def test_with_strings_taken_out_the_key_is_that_of_its_definition(request: dict[str, Any]) -> None:
    with everything_is_long():
        check_llm(request)
        check_llm(copy.deepcopy(request))


@pytest.mark.parametrize("near", NEAR, ids=range(len(NEAR)))
def test_with_strings_taken_out_requests_that_nearly_agree_are_told_apart(near: list[Any]) -> None:
    cache = AgentCache.in_memory(name="n")
    asked = [{"model": "m", "messages": [{"role": "a", "content": value}], "input": [value, value]} for value in near]

    def key(make: Any, request: Any) -> Any:
        try:
            return make(request)
        except (TypeError, ValueError):
            return None

    with everything_is_long():
        for request in (*asked, *asked):
            assert key(lambda each: cache.llm.key(each).key, request) == key(llm_definition, request)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {1: "a"},
        {'"': 1j},
        {b'"': 1},
        {None: 1},
        {(): 1},
        {Text("a"): 1},
        {"a": b"{}"},
        [],
        ['{"'],
        b'{"',
        '{"',
        ...,
    ],
)
def test_no_account_of_marshal_is_taken_for_json(value: Any) -> None:
    mark = fingerprint(value)
    assert mark is None or (isinstance(mark, bytes) and is_json(mark) == (mark == b"{}"))


@settings(max_examples=1000, deadline=None)
@given(values)
def test_where_json_and_orjson_are_said_to_agree_they_do(value: Any) -> None:
    data = agreed_json(value) if agrees_on(value) else None
    if data is not None:
        assert data == json.dumps(sorted_keys(value), separators=(",", ":"), ensure_ascii=False).encode()


def sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_keys(item) for key, item in sorted(value.items())}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("odd", [1e-5, 1e16, float("nan"), (1,), {1}, b"x", Text("x"), 1j, ...])
def test_one_odd_value_at_any_depth_is_seen(odd: Any) -> None:
    for value in (odd, [1.5, odd], {"a": [{"b": [1, {"c": odd}]}]}):
        assert not agrees_on(value)
    assert agrees_on({"a": [{"b": [1, {"c": 1.5}]}]})


def test_what_contains_itself_or_is_very_deep_is_left_to_json() -> None:
    own: list[Any] = []
    own.append(own)
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    assert not agrees_on(own)
    assert not agrees_on(deep)


@pytest.mark.parametrize("request_", [FLAT, NESTED, LENGTHY], ids=["json", "marshal", "with strings"])
@pytest.mark.parametrize("module", [llm_key, tool_key], ids=["llm", "tool"])
def test_what_another_thread_makes_of_a_request_meanwhile_is_not_remembered_for_it(
    request_: dict[str, Any], module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = AgentCache.in_memory(name="n")
    request = copy.deepcopy(request_)

    def changing(make: Any) -> Any:
        def changed_meanwhile(*arguments: Any) -> Any:
            request["messages"][0]["content"] = "Bye"
            return make(*arguments)

        return changed_meanwhile

    for name in ("agreed_json", "canonical_json", "compact_json"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, changing(getattr(module, name)))
    (cache.llm.key(request) if module is llm_key else cache.tool.key("t", request))
    monkeypatch.undo()
    for each in (request_, request):
        assert cache.llm.key(copy.deepcopy(each)).key == llm_definition(each)
        of_tool = cache.tool.key("t", copy.deepcopy(each))
        assert of_tool.key == tool_definition(each)
        assert json.loads(of_tool._args) == each


@pytest.mark.parametrize("value", [{"b": 1, "a": "é\n"}, {"a": 0.1, "b": None}, {"a": [{"x": "y"}]}, {}, {"a": 1e15}])
def test_the_account_of_flat_args_is_what_is_stored_of_them(value: Any) -> None:
    key = AgentCache.in_memory(name="n").tool.key("t", value)
    assert key._args == json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    assert key.key.endswith(digest(value))


def test_aliases_take_no_more_memory_than_is_accounted_for() -> None:
    cache = AgentCache.in_memory()
    cache.llm.key(asking("first"))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1000):
            cache.llm.key(asking(f"question {number}"))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= cache.llm._known._aliases.size_bytes
