"""Exact JSON: the values on which ``json`` and orjson agree."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings

from tests.tiers.keys.test_canonical_json import Text, values
from tiercache.tiers.keys.exact_json import MAX_DEPTH, has_exact_types, is_exact_json


def sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_keys(item) for key, item in sorted(value.items())}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


def by_orjson(value: Any) -> bytes | None:
    """Return the JSON that orjson writes, or None if orjson refuses."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return None


@settings(max_examples=1000, deadline=None)
@given(values)
def test_orjson_writes_the_bytes_of_json_for_exact_json_or_refuses(value: Any) -> None:
    data = by_orjson(value) if is_exact_json(value) else None
    if data is not None:
        assert data == json.dumps(sorted_keys(value), separators=(",", ":"), ensure_ascii=False).encode()


@settings(max_examples=1000, deadline=None)
@given(values)
def test_exact_json_has_exact_types(value: Any) -> None:
    assert has_exact_types(value) or not is_exact_json(value)


@pytest.mark.parametrize("odd", [1e-5, 1e16, float("nan"), (1,), {1}, b"x", Text("x"), 1j, ...])
def test_exact_json_contains_no_odd_value_at_any_depth(odd: Any) -> None:
    for value in (odd, [1.5, odd], {"a": [{"b": [1, {"c": odd}]}]}):
        assert not is_exact_json(value)
    assert is_exact_json({"a": [{"b": [1, {"c": 1.5}]}]})


@pytest.mark.parametrize("odd", [{1}, b"x", Text("x"), 1j, ..., {Text("x"): 1}, {b"x": 1}, {...: 1}])
def test_exact_types_contain_no_other_type_at_any_depth(odd: Any) -> None:
    for value in (odd, [1.5, odd], {"a": [{"b": (1, {"c": odd})}]}, {1: {"a": odd}}):
        assert not has_exact_types(value)
    assert has_exact_types({1: ({"a": [1e-5, None, float("nan"), 2**70]},)})


def test_exact_json_is_not_nested_deeper_than_the_limit() -> None:
    own: list[Any] = []
    own.append(own)
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert is_exact_json(deep)
    for value in (own, [deep]):
        assert not is_exact_json(value)
        assert not has_exact_types(value)
