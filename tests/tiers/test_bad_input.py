"""Bad input: it raises a UsageError that names the argument and the reason, and stores nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader
from tests.support import entry_keys
from tiercache import (
    AgentCache,
    L1Options,
    LlmOptions,
    LlmResponse,
    ResilienceOptions,
    TierOptions,
    UsageError,
    WriteOptions,
)

Call = Callable[[AgentCache, Any], Awaitable[Any]]

WITH_PARAMS: dict[str, Call] = {
    "check": lambda cache, params: cache.llm.check(params),
    "store": lambda cache, params: cache.llm.store(params, "x"),
    "store_multipart": lambda cache, params: cache.llm.store_multipart(params, [{"type": "text", "text": "x"}]),
    "get_or_load": lambda cache, params: cache.llm.get_or_load(params, lambda: "x"),
    "invalidate": lambda cache, params: cache.llm.invalidate(params),
}
TAKES_KEYS = {"invalidate"}
DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]

BAD_PARAMS = {
    "no model": ({"messages": []}, "model"),
    "no messages": ({"model": "m"}, "messages"),
    "a model that is no str": ({"model": 5, "messages": []}, r"params\['model'\]"),
    "a list": ([1], "params must be a mapping"),
    "None": (None, "params must be a mapping"),
    "a str": ("hello", "params must be a mapping"),
    "a set": ({**HELLO, "stop": {1}}, "not JSON"),
    "bytes": ({**HELLO, "stop": b"x"}, "not JSON"),
    "keys of mixed types": ({**HELLO, "x": {1: 1, "a": 2}}, "not JSON"),
    "a parameter name that is no str": ({**HELLO, 5: 1}, "no parameter name"),
    "a lone surrogate": ({**HELLO, "user": "\udc00"}, "surrogate"),
    "too deep": ({**HELLO, "x": DEEP}, "deeper than"),
    "a name on the wire": ({**HELLO, "toolChoice": "auto"}, "toolChoice"),
    "a reserved name": ({**HELLO, "__tc_scope": "x"}, "__tc_scope"),
    "tools that are no list": ({**HELLO, "tools": "none"}, r"params\['tools'\]"),
    "tools that are no mappings": ({**HELLO, "tools": ["a", "b"]}, r"params\['tools'\]"),
    "tools with names of mixed types": ({**HELLO, "tools": [{"name": 1}, {"name": "a"}]}, r"params\['tools'\]"),
}


@pytest.mark.parametrize("method", WITH_PARAMS)
@pytest.mark.parametrize("name", BAD_PARAMS)
async def test_params_are_refused_by_name_if_they_are_no_request(
    cache: AgentCache, plain: valkey.Valkey, method: str, name: str
) -> None:
    params, reason = BAD_PARAMS[name]
    if method in TAKES_KEYS and isinstance(params, str):
        reason = "the text of a key must be"
    with pytest.raises(UsageError, match=reason):
        await WITH_PARAMS[method](cache, params)
    await cache.flush_writes()
    assert len(entry_keys(plain)) == 0


BAD_TTLS = [0, -1, -0.5, math.nan, math.inf, True, "soon", "", "1", "1h30", "-5s", [1], 10**12, 10**400]


@pytest.mark.parametrize("ttl", BAD_TTLS, ids=repr)
async def test_ttl_is_refused_by_name_if_it_is_no_lifetime_also_on_a_hit(
    cache: AgentCache, plain: valkey.Valkey, ttl: Any
) -> None:
    loader = Loader()
    for call in (
        lambda: cache.llm.store(HELLO, "x", ttl=ttl),
        lambda: cache.llm.store_multipart(HELLO, [], ttl=ttl),
        lambda: cache.llm.get_or_load(HELLO, loader, ttl=ttl),
    ):
        with pytest.raises(UsageError, match="ttl must be"):
            await call()
    assert loader.calls == len(entry_keys(plain)) == 0
    await cache.llm.store(HELLO, "x")
    with pytest.raises(UsageError, match="ttl must be"):
        await cache.llm.get_or_load(HELLO, loader, ttl=ttl)
    for make in (
        lambda: TierOptions(ttl=ttl),
        lambda: AgentCache.in_memory(default_ttl=ttl),
        lambda: LlmResponse("x", ttl=ttl),
    ):
        with pytest.raises(UsageError, match="ttl must be"):
            make()


@pytest.mark.parametrize("mode", ["", "USE", None, 3])
async def test_mode_is_refused_with_the_known_modes_if_it_is_unknown(cache: AgentCache, mode: Any) -> None:
    with pytest.raises(UsageError, match=r"mode must be one of .*refresh"):
        await cache.llm.get_or_load(HELLO, Loader(), mode=mode)


@pytest.mark.parametrize("loader", [None, "text", 5])
@pytest.mark.parametrize("hit", [False, True])
async def test_loader_is_refused_if_it_cannot_be_called(cache: AgentCache, loader: Any, hit: bool) -> None:
    if hit:
        await cache.llm.store(HELLO, "x")
    with pytest.raises(UsageError, match="loader must be a function"):
        await cache.llm.get_or_load(HELLO, loader)


@pytest.mark.parametrize("loader", [lambda a, b: "x", lambda *, key: "x"])
async def test_loader_is_refused_if_it_needs_other_arguments(cache: AgentCache, loader: Any) -> None:
    with pytest.raises(UsageError, match="loader must take"):
        await cache.llm.get_or_load(HELLO, loader)


@pytest.mark.parametrize("answer", [None, 5, b"bytes", {"response": "x"}, ["x"]])
async def test_loader_that_returns_no_answer_raises_in_every_waiter(
    cache: AgentCache, plain: valkey.Valkey, answer: Any
) -> None:
    loader = Loader(answer)
    results = await asyncio.gather(*(cache.llm.get_or_load(HELLO, loader) for _ in range(2)), return_exceptions=True)
    assert all(isinstance(result, UsageError) and "str or an LlmResponse" in str(result) for result in results)
    await cache.flush_writes()
    assert (loader.calls, len(entry_keys(plain))) == (1, 0)


@pytest.mark.parametrize("response", [None, 5, b"x"])
async def test_store_refuses_a_response_that_is_no_text(cache: AgentCache, plain: valkey.Valkey, response: Any) -> None:
    with pytest.raises(UsageError, match="response must be a str"):
        await cache.llm.store(HELLO, response)
    assert len(entry_keys(plain)) == 0


async def test_store_refuses_a_response_with_a_lone_surrogate(cache: AgentCache, plain: valkey.Valkey) -> None:
    with pytest.raises(UsageError, match=r"response .*surrogate"):
        await cache.llm.store(HELLO, "\ud800")
    assert len(entry_keys(plain)) == 0


BAD_COUNTS = [{"input": "1"}, {"input": -1}, {"output": 1.5}, {"input": True}, {"input": None}, {"output": 2**63}]


@pytest.mark.parametrize("tokens", [5, "many", [1], *BAD_COUNTS])
async def test_store_refuses_tokens_that_are_no_counts(cache: AgentCache, plain: valkey.Valkey, tokens: Any) -> None:
    with pytest.raises(UsageError, match="tokens"):
        await cache.llm.store(HELLO, "x", tokens=tokens)
    assert len(entry_keys(plain)) == 0


@pytest.mark.parametrize("tokens", [5, "many", [1]])
def test_llm_response_is_refused_if_its_tokens_are_no_mapping(tokens: Any) -> None:
    with pytest.raises(UsageError, match="tokens must be a mapping"):
        LlmResponse("x", tokens=tokens)


@pytest.mark.parametrize("blocks", [None, "x", 5, ["x"], [{"type": "text", "text": 5}], {"type": "text"}])
async def test_blocks_are_refused_if_they_are_no_list_of_mappings(
    cache: AgentCache, plain: valkey.Valkey, blocks: Any
) -> None:
    with pytest.raises(UsageError, match="content_blocks"):
        await cache.llm.store_multipart(HELLO, blocks)
    assert len(entry_keys(plain)) == 0


async def test_blocks_are_refused_if_they_are_not_json(cache: AgentCache, plain: valkey.Valkey) -> None:
    with pytest.raises(UsageError, match=r"content_blocks\[0\]\['data'\] is not JSON"):
        await cache.llm.store_multipart(HELLO, [{"type": "image", "data": b"x"}])
    assert len(entry_keys(plain)) == 0


def test_llm_response_is_refused_without_text_and_blocks() -> None:
    with pytest.raises(UsageError, match="response or content_blocks"):
        LlmResponse(None)
    with pytest.raises(UsageError, match=r"LlmResponse\.response"):
        LlmResponse(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [None, 5])
async def test_invalidate_by_model_refuses_a_model_that_is_no_str(cache: AgentCache, model: Any) -> None:
    with pytest.raises(UsageError, match="model must be a str"):
        await cache.llm.invalidate_by_model(model)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "é", "x" * 129, "__stats", "a*", None, 5, "a\n"])
def test_cache_name_is_refused_if_keys_cannot_contain_it(name: Any) -> None:
    with pytest.raises(UsageError, match="name must be"):
        AgentCache.in_memory(name=name)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: TierOptions(l1_ttl=0), "l1_ttl"),
        (lambda: TierOptions(l1_ttl="30"), "l1_ttl"),
        (lambda: TierOptions(jitter=1), "jitter"),
        (lambda: TierOptions(jitter=-0.1), "jitter"),
        (lambda: TierOptions(on_abandon="stop"), "on_abandon"),
        (lambda: LlmOptions(ignore="user"), "ignore"),
        (lambda: LlmOptions(ignore=(5,)), "ignore"),
        (lambda: LlmOptions(key="model"), "key"),
        (lambda: L1Options(max_entries=0), "max_entries"),
        (lambda: WriteOptions(mode="never"), "mode"),
        (lambda: WriteOptions(max_delay=0), "max_delay"),
        (lambda: WriteOptions(max_ops=0), "max_ops"),
        (lambda: WriteOptions(max_bytes=1.5), "max_bytes"),
        (lambda: WriteOptions(max_queue_bytes=True), "max_queue_bytes"),
        (lambda: L1Options(max_bytes=1.5), "max_bytes"),
        (lambda: ResilienceOptions(l2_timeout=0), "l2_timeout"),
        (lambda: ResilienceOptions(load_timeout=-1), "load_timeout"),
        (lambda: ResilienceOptions(max_loads=0), "max_loads"),
        (lambda: ResilienceOptions(breaker_failures=True), "breaker_failures"),
        (lambda: AgentCache.in_memory(llm={"ttl": 5}), "llm must be a TierOptions"),
        (lambda: AgentCache.in_memory(l1=5), "l1 must be"),
        (lambda: AgentCache.in_memory(prices={"m": 5}), "prices"),
        (lambda: AgentCache.in_memory(prices={"m": (1, -1)}), "prices"),
        (lambda: AgentCache.in_memory(prices={"m": (1, math.nan)}), "prices"),
        (lambda: AgentCache.in_memory(prices={"m": (1,)}), "prices"),
        (lambda: AgentCache("valkey://localhost"), "client must be"),
        (lambda: AgentCache(valkey.Valkey()), "client must be"),
    ],
)
def test_option_is_refused_by_name_if_it_is_bad(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make()


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "localhost:6379", "http://localhost", "valkey://localhost:abc", "valkey://h/0?db=x", None, 5,
     "valkey://localhost:99999", "valkey://[::1", "valkey://localhost?no_such_option=1", "valkey://h?cluster=true"],
)  # fmt: skip
def test_url_is_refused_with_an_example_if_it_is_bad(url: Any) -> None:
    with pytest.raises(UsageError, match=r"valkey://user:password@host:6379/0|cluster"):
        AgentCache.from_url(url)


def test_url_is_refused_without_its_password_in_the_message() -> None:
    with pytest.raises(UsageError) as caught:
        AgentCache.from_url("valkey://me:s3cret@localhost:abc")
    assert "s3cret" not in str(caught.value)


async def test_closed_cache_refuses_every_call(cache: AgentCache) -> None:
    await cache.llm.store(HELLO, "x")
    await cache.aclose()
    for call in WITH_PARAMS.values():
        with pytest.raises(UsageError, match="closed"):
            await call(cache, HELLO)
    for call in (cache.open, cache.llm.clear, cache.flush_writes, lambda: cache.llm.invalidate_by_model("m")):
        with pytest.raises(UsageError, match="closed"):
            await call()
    await cache.aclose()
