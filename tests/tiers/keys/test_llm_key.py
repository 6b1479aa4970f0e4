"""The llm key: which requests share an entry."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from tests.requests import HELLO, asking
from tests.seams import HeldReads
from tiercache import AgentCache, LlmOptions, UsageError, last_user_turn
from tiercache.tiers.llm.key import LlmKeys

KEYS = LlmKeys("n:llm:")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"top_k": 1}, {"top_k": 2}),
        ({"top_k": 1}, {}),
        ({"max_completion_tokens": 5}, {}),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"stream": True}, {"stream": False}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"temperature": None}, {}),
        ({"thinking": {"budget_tokens": 1}}, {"thinking": {"budget_tokens": 2}}),
        ({"tools": []}, {}),
    ],
)
def test_llm_key_differs_for_different_parameters(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert KEYS.key({**HELLO, **one}) != KEYS.key({**HELLO, **other})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"top_k": None}, {}),
        ({"toolChoice": None}, {}),
        ({"tools": None}, {}),
        ({"temperature": 1, "top_p": 1}, {}),
        (
            {"tools": [{"function": {"name": "b"}}, {"name": "a"}]},
            {"tools": ({"name": "a"}, {"function": {"name": "b"}})},
        ),
    ],
)
def test_llm_key_is_equal_for_parameters_of_the_same_meaning(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert KEYS.key({**HELLO, **one}) == KEYS.key({**HELLO, **other})


@pytest.mark.parametrize("wrap", [dict, OrderedDict, MappingProxyType])
def test_llm_key_is_equal_for_every_kind_of_mapping(wrap: Any) -> None:
    assert KEYS.key(wrap(HELLO)) == KEYS.key(HELLO)


def test_llm_key_leaves_out_ignored_parameters() -> None:
    keys = LlmKeys("n:llm:", ignore=("user", "metadata"))
    assert keys.key({**HELLO, "user": "alice", "metadata": {1, 2}}) == KEYS.key(HELLO)


async def test_llm_key_can_be_the_last_user_turn(make_cache: Callable[..., AgentCache]) -> None:
    cache = make_cache(llm=LlmOptions(key=last_user_turn))
    chat = {"model": "gpt-4o", "messages": [{"role": "system", "content": "Be brief."}, *asking("Hello")["messages"]]}
    await cache.llm.store(chat, "Hi")
    assert (await cache.llm.check(HELLO)).response == "Hi"
    assert not (await cache.llm.check(asking("Bye"))).hit


async def test_invalidate_by_model_removes_a_shared_entry_if_the_model_gave_its_answer(
    make_cache: Callable[..., AgentCache],
) -> None:
    cache = make_cache(llm=LlmOptions(key=lambda params: {**params, "model": "any"}))
    await cache.llm.store(asking("x", model="a"), "by a")
    cache.clear_l1()
    assert (await cache.llm.check(asking("x", model="b"))).response == "by a"  # L1 keeps it now.
    assert await cache.llm.invalidate_by_model("a") == 1
    assert not (await cache.llm.check(asking("x", model="b"))).hit


async def test_invalidate_by_model_overtakes_a_read_of_a_shared_entry_by_another_model(
    make_cache: Callable[..., AgentCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(llm=LlmOptions(key=lambda params: {**params, "model": "any"}))
    await cache.llm.store(asking("x", model="a"), "by a")
    cache.clear_l1()
    reads = HeldReads(monkeypatch)
    reading = asyncio.create_task(cache.llm.check(asking("x", model="b")))
    await reads.answered.wait()
    assert await cache.llm.invalidate_by_model("a") == 1
    reads.release.set()
    assert (await reading).response == "by a"
    assert not (await cache.llm.check(asking("x", model="b"))).hit


@pytest.mark.parametrize("messages", [None, "text", ["text"], 5])
def test_llm_key_of_the_last_user_turn_refuses_a_request_without_messages(messages: Any) -> None:
    with pytest.raises(UsageError, match="messages"):
        LlmKeys("n:", transform=last_user_turn).key({"model": "m", "messages": messages})


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (lambda params: None, "must be a mapping"),
        (lambda params: {"messages": []}, "'model'"),
        (lambda params: {**params, "model": 5}, "model"),
    ],
)
def test_key_function_is_refused_if_it_returns_no_request(transform: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        LlmKeys("n:", transform=transform).key(HELLO)
