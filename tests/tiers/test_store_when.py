"""store_when: a value that it rejects reaches the waiters and is not stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.requests import HELLO, Loader
from tiercache import AgentCache, LlmResponse, TierOptions, UsageError


def is_complete(answer: LlmResponse) -> bool:
    return (answer.tokens or {}).get("finish_reason") != "length"


def is_not_empty(value: Any) -> bool:
    return bool(value)


CUT_OFF = LlmResponse("cut o", tokens={"finish_reason": "length"})


async def test_store_when_hands_a_rejected_answer_to_every_waiter_and_stores_none(make_cache: Any) -> None:
    cache: AgentCache = make_cache(llm=TierOptions(store_when=is_complete))
    loader = Loader(CUT_OFF, held=True)
    waiting = [asyncio.create_task(cache.llm.get_or_load(HELLO, loader)) for _ in range(3)]
    await loader.started.wait()
    loader.release()
    assert [(await task).response for task in waiting] == ["cut o"] * 3
    await cache.flush_writes()
    assert not (await cache.llm.check(HELLO)).hit
    await cache.llm.get_or_load(HELLO, Loader("whole"))
    await cache.llm.get_or_load(HELLO, Loader(CUT_OFF), mode="refresh")
    assert (await cache.llm.check(HELLO)).response == "whole"  # The older entry stays, too.


async def test_store_when_rejects_tool_results_and_kv_values(make_cache: Any) -> None:
    options = TierOptions(store_when=is_not_empty)
    cache: AgentCache = make_cache(tool=options, kv=options)
    assert (await cache.tool.get_or_load("t", {}, list)).value == []
    assert (await cache.kv.get_or_load("k", lambda: None)).value is None
    assert await cache.kv.get_or_load_many(["a", "b"], lambda keys: {"a": 1, "b": 0}) == {"a": 1, "b": 0}
    await cache.flush_writes()
    assert not (await cache.tool.check("t", {})).hit
    assert [await cache.kv.exists(key) for key in ("k", "a", "b")] == [False, True, False]
    await cache.kv.set("k", None)  # store_when does not apply to explicit writes.
    assert await cache.kv.exists("k")


async def test_store_when_that_raises_stores_nothing_and_is_logged_once(
    make_cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(answer: LlmResponse) -> bool:
        raise ZeroDivisionError

    cache: AgentCache = make_cache(llm=TierOptions(store_when=broken))
    for _ in range(3):
        assert (await cache.llm.get_or_load(HELLO, Loader("x"))).source == "loader"
    assert sum("store_when" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "make", [lambda: TierOptions(store_when=5), lambda: AgentCache.in_memory(session=TierOptions(store_when=bool))]
)
def test_store_when_must_be_callable_and_is_refused_for_sessions(make: Any) -> None:
    with pytest.raises(UsageError, match="store_when"):
        make()
