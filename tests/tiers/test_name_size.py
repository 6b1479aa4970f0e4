"""The size of names: one bound for thread ids, fields, tags, tools and models, and short errors for long texts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.requests import HELLO
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, LlmOptions, ToolPolicy, UsageError
from tiercache.text import LONGEST_NAME_BYTES

Call = Callable[[AgentCache, str], Awaitable[Any]]


async def _guarded(guard: Any) -> None:
    async with guard:
        pass


CALLS: dict[str, dict[str, Call]] = {
    "thread_id": {
        "get": lambda cache, name: cache.session.get(name, "f"),
        "set": lambda cache, name: cache.session.set(name, "f", "x"),
        "delete": lambda cache, name: cache.session.delete(name, "f"),
        "append": lambda cache, name: cache.session.append(name, "f", 1),
        "incr": lambda cache, name: cache.session.incr(name, "f"),
        "compare_and_set": lambda cache, name: cache.session.compare_and_set(name, "f", None, "x"),
        "set_json": lambda cache, name: cache.session.set_json(name, "f", 1),
        "get_or_load": lambda cache, name: cache.session.get_or_load(name, "f", lambda: "x"),
        "get_all": lambda cache, name: cache.session.get_all(name),
        "touch": lambda cache, name: cache.session.touch(name),
        "destroy_thread": lambda cache, name: cache.session.destroy_thread(name),
    },
    "field": {
        "get": lambda cache, name: cache.session.get("t", name),
        "set": lambda cache, name: cache.session.set("t", name, "x"),
        "get_or_load": lambda cache, name: cache.session.get_or_load("t", name, lambda: "x"),
    },
    "a tag": {
        "kv.set": lambda cache, name: cache.kv.set("k", 1, tags=["fine", name]),
        "kv.set_many": lambda cache, name: cache.kv.set_many({"k": 1}, tags=[name]),
        "kv.get_or_load": lambda cache, name: cache.kv.get_or_load("k", lambda: 1, tags=[name]),
        "kv.get_or_load_many": lambda cache, name: cache.kv.get_or_load_many(["k"], lambda keys: keys, tags=[name]),
        "llm.store": lambda cache, name: cache.llm.store(HELLO, "x", tags=[name]),
        "tool.get_or_load": lambda cache, name: cache.tool.get_or_load("t", {}, lambda: 1, tags=[name]),
        "invalidate_tag": lambda cache, name: cache.invalidate_tag(name),
    },
    "tool": {
        "check": lambda cache, name: cache.tool.check(name, {}),
        "store": lambda cache, name: cache.tool.store(name, {}, "x"),
        "get_or_load": lambda cache, name: cache.tool.get_or_load(name, {}, lambda: "x"),
        "invalidate": lambda cache, name: cache.tool.invalidate(name, {}),
        "invalidates": lambda cache, name: _guarded(cache.tool.invalidates(name, {})),
        "explain": lambda cache, name: cache.tool.explain(name, {}),
        "invalidate_by_tool": lambda cache, name: cache.tool.invalidate_by_tool(name),
        "set_policy": lambda cache, name: cache.tool.set_policy(name, ToolPolicy(5)),
    },
    r"params\['model'\]": {
        "check": lambda cache, name: cache.llm.check({**HELLO, "model": name}),
        "store": lambda cache, name: cache.llm.store({**HELLO, "model": name}, "x"),
        "get_or_load": lambda cache, name: cache.llm.get_or_load({**HELLO, "model": name}, lambda: "x"),
        "invalidate": lambda cache, name: cache.llm.invalidate({**HELLO, "model": name}),
    },
    "model": {"invalidate_by_model": lambda cache, name: cache.llm.invalidate_by_model(name)},
}
EACH = [(argument, method) for argument, methods in CALLS.items() for method in methods]
LONG = {
    "a megabyte": "x" * 1_000_000,
    "a byte too many": "x" * (LONGEST_NAME_BYTES + 1),
    "characters of several bytes": "é" * (LONGEST_NAME_BYTES // 2) + "x",
}


@pytest.mark.parametrize(("argument", "method"), EACH)
@pytest.mark.parametrize("form", LONG)
async def test_name_is_refused_if_it_is_too_long(
    cache: AgentCache, plain: valkey.Valkey, argument: str, method: str, form: str
) -> None:
    with pytest.raises(UsageError, match=rf"^{argument} must be at most 512 bytes of UTF-8, not \d+$"):
        await CALLS[argument][method](cache, LONG[form])
    await cache.flush_writes()
    assert entry_keys(plain) == []


@pytest.mark.parametrize(("argument", "method"), EACH)
@pytest.mark.parametrize("name", ["x" * LONGEST_NAME_BYTES, "é" * (LONGEST_NAME_BYTES // 2)], ids=["ascii", "utf8"])
async def test_name_is_accepted_up_to_the_bound(cache: AgentCache, argument: str, method: str, name: str) -> None:
    await CALLS[argument][method](cache, name)


async def test_model_that_a_key_function_adds_is_bounded_too(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", llm=LlmOptions(key=lambda params: {**params, "model": "m"}))
    with pytest.raises(UsageError, match=r"params\['model'\] must be at most 512"):
        await cache.llm.check({**HELLO, "model": "x" * 513})


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: cache.tool.check("a:" * 500_000, {}),
        lambda cache: cache.tool.store("t", {}, "x", ttl="1h" + "x" * 1_000_000),
        lambda cache: cache.tool.store("t", {}, "x", ttl=["x" * 1_000_000]),
        lambda cache: cache.kv.get_or_load("k", lambda: 1, mode="x" * 1_000_000),
        lambda cache: cache.kv.set("x" * 1_000_000, 1),
        lambda cache: cache.kv.set_many({"k": {1}, "x": "y" * 1_000_000}),
        lambda cache: cache.tool.store("t", {}, "x", cost="x" * 1_000_000),
        lambda cache: cache.llm.check({**HELLO, 5: 1, "x" * 1_000_000: 1, ("y" * 1_000_000,): 1}),
        lambda cache: cache.llm.check({**HELLO, "x" * 1_000_000: {1}}),
        lambda cache: cache.session.incr("t", "f", by="x" * 1_000_000),
    ],
)
async def test_error_about_a_long_argument_is_short(cache: AgentCache, call: Callable[[AgentCache], Any]) -> None:
    with pytest.raises(UsageError) as caught:
        await call(cache)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["x" * 1_000_000, 5, "a b" * 1000])
def test_error_about_a_long_name_of_a_cache_or_tier_is_short(name: Any) -> None:
    for make in (
        lambda: AgentCache.in_memory(name=name),
        lambda: AgentCache.in_memory().tier(name),
        lambda: LlmOptions(ignore=name),
    ):
        with pytest.raises(UsageError) as caught:
            make()
        assert len(str(caught.value)) < 600
