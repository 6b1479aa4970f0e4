"""The three forms of a fingerprint: JSON, marshal bytes, and marshal bytes beside long texts."""

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
from tests.seams import change_request_of_keys, known_keys, stored_args
from tests.tiers.keys.test_canonical_json import Text
from tests.tiers.keys.test_fingerprint import LONG, NEAR, check_llm, digest, llm_definition, requests, tool_definition
from tiercache import AgentCache
from tiercache.tiers.keys import fingerprint as fingerprints
from tiercache.tiers.keys import long_texts
from tiercache.tiers.keys.exact_json import is_exact_json
from tiercache.tiers.keys.fingerprint import fingerprint, fingerprint_of_request, is_json, read_back
from tiercache.tiers.llm import key as llm_key
from tiercache.tiers.tool import key as tool_key

FLAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "stream": None}
NESTED = {**FLAT, "tools": [{"name": "a", "parameters": {"type": "object"}}]}
LENGTHY = {**FLAT, "messages": [{"role": "system", "content": LONG * 5}, {"role": "user", "content": "Hi"}]}


@contextmanager
def every_text_is_long() -> Iterator[None]:
    patched = {"_LONG_AVERAGE": -1, "_LONG_PARAMETER": -1, "LONG_TOTAL": -1}
    with (
        mock.patch.multiple(long_texts, **patched),
        mock.patch.multiple(fingerprints, _FEW_BYTES=0, _FEW_MESSAGES=-1, _SAMPLED_MESSAGES=-1),
    ):
        yield


def test_fingerprint_of_a_request_is_read_back_unless_texts_are_long() -> None:
    flat, nested = fingerprint_of_request(FLAT), fingerprint_of_request(NESTED)
    assert isinstance(flat, bytes)
    assert is_json(flat)
    assert isinstance(nested, bytes)
    assert not is_json(nested)
    assert isinstance(fingerprint_of_request(LENGTHY), tuple)
    assert read_back(flat, is_json=True) == FLAT
    assert read_back(nested, is_json=False) == NESTED


VERY_LONG = LONG * 20
USER = {"role": "user", "content": "Hi"}
WITH_LONG_TEXT = {
    "first message": {**FLAT, "messages": [{"role": "system", "content": VERY_LONG}, USER]},
    "last message": {**FLAT, "messages": [USER, {"role": "user", "content": VERY_LONG}]},
    "message in the middle": {**FLAT, "messages": [USER, {"role": "user", "content": VERY_LONG}, USER, USER]},
    "one of many messages": {**FLAT, "messages": [USER, {"role": "user", "content": VERY_LONG}, *[USER] * 8]},
    "block": {**FLAT, "messages": [{"role": "user", "content": [{"type": "text", "text": VERY_LONG}]}]},
    "nested block": {**FLAT, "messages": [{"role": "user", "content": [{"image": {"url": VERY_LONG}}]}]},
    "system": {**FLAT, "system": VERY_LONG},
    "system, with tools": {**NESTED, "system": VERY_LONG},
    "a message without content": {**NESTED, "messages": [{"role": "user"}, {"role": "user", "content": VERY_LONG}]},
    "a message that is text": {**FLAT, "messages": ["Hi", VERY_LONG]},
}


def holds(fingerprint: Any, text: str) -> bool:
    return fingerprint is text or (isinstance(fingerprint, tuple) and any(holds(part, text) for part in fingerprint))


@pytest.mark.parametrize("place", WITH_LONG_TEXT)
def test_fingerprint_refers_to_a_long_text_at_any_place(place: str) -> None:
    assert holds(fingerprint_of_request(WITH_LONG_TEXT[place]), VERY_LONG)
    assert holds(fingerprint(WITH_LONG_TEXT[place]), VERY_LONG)
    check_llm(copy.deepcopy(WITH_LONG_TEXT[place]))


@settings(max_examples=1000, deadline=None)
@given(requests)
def test_fingerprint_that_is_json_is_of_exact_json(request: dict[str, Any]) -> None:
    data = fingerprint_of_request(request)
    if isinstance(data, bytes) and is_json(data):
        assert is_exact_json(request)
        assert read_back(data, is_json=True) == request


@settings(max_examples=300, deadline=None)
@given(requests)
def test_key_is_the_key_of_its_definition_if_every_text_is_long(request: dict[str, Any]) -> None:
    with every_text_is_long():
        check_llm(request)
        check_llm(copy.deepcopy(request))


@pytest.mark.parametrize("near", NEAR, ids=range(len(NEAR)))
def test_key_tells_requests_apart_that_nearly_agree_if_every_text_is_long(near: list[Any]) -> None:
    cache = AgentCache.in_memory(name="n")
    asked = [{"model": "m", "messages": [{"role": "a", "content": value}], "input": [value, value]} for value in near]

    def key(make: Any, request: Any) -> Any:
        try:
            return make(request)
        except (TypeError, ValueError):
            return None

    with every_text_is_long():
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
def test_fingerprint_of_marshal_bytes_is_never_taken_for_json(value: Any) -> None:
    data = fingerprint(value)
    assert data is None or (isinstance(data, bytes) and not is_json(data))


@pytest.mark.parametrize("request_", [FLAT, NESTED, LENGTHY], ids=["json", "marshal", "with long texts"])
@pytest.mark.parametrize("module", [llm_key, tool_key], ids=["llm", "tool"])
def test_key_of_a_request_that_another_thread_changes_is_not_remembered_for_it(
    request_: dict[str, Any], module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = AgentCache.in_memory(name="n")
    request = copy.deepcopy(request_)

    def change() -> None:
        request["messages"][0]["content"] = "Bye"

    change_request_of_keys(monkeypatch, module, change, "canonical_json", "compact_json")
    (cache.llm.key(request) if module is llm_key else cache.tool.key("t", request))
    monkeypatch.undo()
    for each in (request_, request):
        assert cache.llm.key(copy.deepcopy(each)).key == llm_definition(each)
        of_tool = cache.tool.key("t", copy.deepcopy(each))
        assert of_tool.key == tool_definition(each)
        assert json.loads(stored_args(of_tool)) == each


@pytest.mark.parametrize("value", [{"b": 1, "a": "é\n"}, {"a": 0.1, "b": None}, {"a": [{"x": "y"}]}, {}, {"a": 1e15}])
def test_tool_key_keeps_args_in_the_order_of_the_caller(value: Any) -> None:
    key = AgentCache.in_memory(name="n").tool.key("t", value)
    assert stored_args(key) == json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    assert key.key.endswith(digest(value))


def test_known_keys_take_no_more_memory_than_they_are_counted_for() -> None:
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
    assert taken <= known_keys(cache.llm).size_bytes
