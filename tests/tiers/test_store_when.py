"""What a tier's own judgement keeps out of the cache is handed out all the same."""

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


async def test_an_answer_that_was_cut_off_reaches_all_who_wait_and_is_kept_nowhere(make_cache: Any) -> None:
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
    assert (await cache.llm.check(HELLO)).response == "whole"  # It does not take out what is there either.


async def test_tool_results_and_other_values_are_judged_too(make_cache: Any) -> None:
    options = TierOptions(store_when=is_not_empty)
    cache: AgentCache = make_cache(tool=options, kv=options)
    assert (await cache.tool.get_or_load("t", {}, list)).value == []
    assert (await cache.kv.get_or_load("k", lambda: None)).value is None
    assert await cache.kv.get_or_load_many(["a", "b"], lambda keys: {"a": 1, "b": 0}) == {"a": 1, "b": 0}
    await cache.flush_writes()
    assert not (await cache.tool.check("t", {})).hit
    assert [await cache.kv.exists(key) for key in ("k", "a", "b")] == [False, True, False]
    await cache.kv.set("k", None)  # An explicit write is no load.
    assert await cache.kv.exists("k")


async def test_a_judgement_that_raises_keeps_nothing_and_is_said_once(
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
def test_a_judgement_must_be_callable_and_is_not_for_sessions(make: Any) -> None:
    with pytest.raises(UsageError, match="store_when"):
        make()
