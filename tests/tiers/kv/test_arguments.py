"""The arguments of the kv methods: keys, values, TTLs and loaders that are accepted or refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.support import MakeCache, entry_keys
from tests.tiers.kv.subclasses import Word
from tiercache import (
    MISS,
    AgentCache,
    KvTier,
    UsageError,
    WrongLoopError,
)

CALLS: dict[str, Callable[[KvTier, Any], Awaitable[Any]]] = {
    "get": lambda kv, key: kv.get(key),
    "set": lambda kv, key: kv.set(key, "x"),
    "exists": lambda kv, key: kv.exists(key),
    "delete": lambda kv, key: kv.delete(key),
    "get_or_load": lambda kv, key: kv.get_or_load(key, lambda: "x"),
    "get_many": lambda kv, key: kv.get_many(["fine", key]),
    "set_many": lambda kv, key: kv.set_many({"fine": "x", key: "x"}),
    "delete_many": lambda kv, key: kv.delete_many(["fine", key]),
    "get_or_load_many": lambda kv, key: kv.get_or_load_many(["fine", key], lambda keys: keys),
}


each_method = pytest.mark.parametrize("method", CALLS)


MOST = 512 - len("test:__tc:kv:kv:")


@each_method
@pytest.mark.parametrize("key", ["", None, 5, b"k", "\ud800", "x" * (MOST + 1), "é" * (MOST // 2 + 1)], ids=ascii)
async def test_kv_refuses_bad_key_in_every_method(
    cache: AgentCache, plain: valkey.Valkey, method: str, key: Any
) -> None:
    await cache.kv.set("fine", "stays")
    with pytest.raises(UsageError, match=r"^key "):
        await CALLS[method](cache.kv, key)
    cache.clear_l1()
    assert await cache.kv.get("fine") == "stays"
    assert entry_keys(plain) == ["test:__tc:kv:kv:fine"]


@each_method
@pytest.mark.parametrize("key", ["a:b", ":", "*[x]?\\", " ", "\x00\n", "é" * (MOST // 2), "x" * MOST], ids=ascii)
async def test_kv_accepts_any_other_text_as_key(cache: AgentCache, plain: valkey.Valkey, method: str, key: str) -> None:
    await CALLS[method](cache.kv, key)
    await cache.kv.set(key, "value")
    assert plain.get(f"test:__tc:kv:kv:{key}") == b"svalue"
    assert await cache.kv.get_many([key]) == {key: "value"}
    assert await cache.kv.delete(key)


async def test_kv_keeps_only_text_of_str_subclass(cache: AgentCache, plain: valkey.Valkey) -> None:
    key = Word("word")
    await cache.kv.set(key, "x")
    assert entry_keys(plain) == ["test:__tc:kv:kv:word"]
    assert await cache.kv.get(key) == await cache.kv.get("word") == "x"
    asked: list[Any] = []
    values = await cache.kv.get_or_load_many([key, Word("other")], lambda keys: asked.extend(keys) or keys)
    assert values == {"word": "x", "other": "other"}
    await cache.kv.get_or_load(Word("third"), lambda key: asked.append(key))
    assert asked == ["other", "third"]
    assert {type(text) for text in [*values, *asked]} == {str}
    assert await cache.kv.delete_many([key, Word("other")]) == 2


@pytest.mark.parametrize("keys", ["keys", None, 5])
async def test_kv_refuses_keys_that_are_no_iterable_of_keys(cache: AgentCache, keys: Any) -> None:
    for call in (
        lambda: cache.kv.get_many(keys),
        lambda: cache.kv.delete_many(keys),
        lambda: cache.kv.get_or_load_many(keys, lambda wanted: wanted),
    ):
        with pytest.raises(UsageError, match="keys must be an iterable of keys"):
            await call()
    with pytest.raises(UsageError, match="mapping must be a mapping"):
        await cache.kv.set_many(keys)


async def test_kv_accepts_keys_from_generator(cache: AgentCache) -> None:
    assert await cache.kv.get_or_load_many((key for key in "ab"), lambda keys: keys) == {"a": "a", "b": "b"}
    assert await cache.kv.get_many(key for key in "ab") == {"a": "a", "b": "b"}
    assert await cache.kv.delete_many(key for key in "ab") == 2


@pytest.mark.parametrize("value", [{1}, object(), "\ud800", {"a": "\udc00"}, [object()], bytearray(b"x"), {1: {2}}])
async def test_kv_refuses_value_that_is_not_json_text_or_bytes(
    cache: AgentCache, plain: valkey.Valkey, value: Any
) -> None:
    with pytest.raises(UsageError, match=r"^value[ \[]"):
        await cache.kv.set("k", value)
    with pytest.raises(UsageError, match=r"^the value of 'k'[ \[]"):
        await cache.kv.set_many({"fine": 1, "k": value})
    assert entry_keys(plain) == []


@pytest.mark.parametrize("ttl", [0, -1, True, "soon", float("nan")])
async def test_kv_refuses_bad_ttl(cache: AgentCache, plain: valkey.Valkey, ttl: Any) -> None:
    for call in (
        lambda: cache.kv.set("k", "x", ttl=ttl),
        lambda: cache.kv.set_many({"k": "x"}, ttl=ttl),
        lambda: cache.kv.get_or_load("k", lambda: "x", ttl=ttl),
        lambda: cache.kv.get_or_load_many(["k"], lambda keys: keys, ttl=ttl),
    ):
        with pytest.raises(UsageError, match="ttl must be"):
            await call()
    assert entry_keys(plain) == []


async def test_kv_refuses_bad_loader_and_mode(cache: AgentCache) -> None:
    with pytest.raises(UsageError, match="loader must be a function"):
        await cache.kv.get_or_load("k", "x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="loader must be a function"):
        await cache.kv.get_or_load_many(["k"], {"k": 1})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="mode must be"):
        await cache.kv.get_or_load("k", lambda: "x", mode="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loaded", "complaint"),
    [
        ([1], "returned 1 values for the 2 keys 'a', 'b'"),
        ([1, 2, 3], "returned 3 values for the 2 keys"),
        ({"a": 1}, "returned a mapping without the key 'b'"),
        ({}, "returned a mapping without the key 'a'"),
        (None, "must return a mapping or a list, not NoneType"),
        ("ab", "must return a mapping or a list, not str"),
        ({"a", "b"}, "must return a mapping or a list, not set"),
    ],
)
async def test_kv_refuses_loader_result_that_does_not_match_keys(
    cache: AgentCache, plain: valkey.Valkey, loaded: Any, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        await cache.kv.get_or_load_many(["a", "b"], lambda keys: loaded)
    await cache.flush_writes()
    assert entry_keys(plain) == []


@pytest.mark.parametrize(
    "loader",
    [
        lambda keys: {"c": 3, "b": 2, "a": 1},
        lambda keys: (1, 2),
        lambda keys: asyncio.sleep(0, [1, 2]),
        lambda keys: asyncio.sleep(0, {"b": 2, "a": 1}),
    ],
)
async def test_kv_accepts_mapping_or_values_from_async_or_plain_loader(cache: AgentCache, loader: Any) -> None:
    assert list((await cache.kv.get_or_load_many(["a", "b"], loader)).items()) == [("a", 1), ("b", 2)]
    assert await cache.kv.get("c", MISS) is MISS  # A key that was not requested is not kept.


@each_method
async def test_kv_refuses_calls_on_closed_cache(make_cache: MakeCache, method: str) -> None:
    cache = make_cache(name="test")
    await cache.kv.set_many({"fine": "x", "k": "x"})
    await cache.aclose()
    with pytest.raises(UsageError, match="the cache is closed"):
        await CALLS[method](cache.kv, "k")


def test_kv_refuses_calls_from_other_loop(url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    first = asyncio.new_event_loop()
    refused = 0

    def from_another_loop() -> None:
        nonlocal refused
        for call in CALLS.values():

            async def run(call: Callable[[KvTier, Any], Awaitable[Any]] = call) -> None:
                await call(cache.kv, "k")

            with pytest.raises(WrongLoopError):
                asyncio.run(run())
            refused += 1

    try:
        first.run_until_complete(cache.kv.set_many({"fine": "x", "k": "x"}))
        thread = threading.Thread(target=from_another_loop)
        thread.start()
        thread.join(30)
        assert refused == len(CALLS)
        first.run_until_complete(cache.aclose())
    finally:
        first.close()


async def test_kv_operations_are_named_after_methods(cache: AgentCache) -> None:
    for call in CALLS.values():
        cache.clear_l1()
        await call(cache.tier("named"), "k")
    await cache.tier("named").clear()
    done = {name for name, counters in cache.local_stats().operations.items() if counters.calls}
    assert done == {f"kv.{method}" for method in [*CALLS, "clear"]}
