"""The wire contract on a real Valkey: hash, key, bytes and lifetime of every published vector."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import valkey

from tests.support import entry_keys
from tiercache import AgentCache, UsageError
from tiercache.testing import FakeClock

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "wire_vectors.json").read_text("utf-8"))
NAME = VECTORS["cache_name"]


def value_of(case: dict[str, Any]) -> Any:
    if "input_json" in case:
        return json.loads(case["input_json"])
    try:
        return ast.literal_eval(case["py_expr"])
    except ValueError:
        # Enums and infinities, for example. eval is safe: the file belongs to this repository.
        return eval(case["py_expr"], {"reduce": reduce})


CASES = [pytest.param(case, id=case["id"]) for case in VECTORS["cases"]]


async def store(cache: AgentCache, case: dict[str, Any]) -> str:
    value, wish = value_of(case), dict(case["store"])
    if case["tier"] == "tool":
        return await cache.tool.store(case["tool_name"], value, wish.pop("response"), **wish)
    if "blocks" in wish:
        return await cache.llm.store_multipart(value, wish.pop("blocks"), **wish)
    return await cache.llm.store(value, wish.pop("response"), **wish)


@pytest.mark.parametrize("case", CASES)
async def test_wire_vector_matches_the_entry_in_valkey(
    case: dict[str, Any], make_cache: Callable[..., AgentCache], plain: valkey.Valkey
) -> None:
    cache = make_cache(name=NAME, clock=FakeClock(VECTORS["stored_at_ms"] / 1000).clock)
    if "error" in case:
        with pytest.raises(UsageError):
            await store(cache, case)
        assert len(entry_keys(plain)) == 0
        return
    key = await store(cache, case)
    assert key == case["key"]
    assert key.endswith(case["hash"])
    assert plain.get(key) == case["value"].encode()
    assert plain.ttl(key) == case["ttl"]


def test_wire_vectors_are_complete() -> None:
    assert len(VECTORS["cases"]) == 80
