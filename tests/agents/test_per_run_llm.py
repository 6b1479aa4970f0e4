"""Answers of one run: they end with it in both levels, and shared answers stay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tiercache import AgentCache, UsageError

PARAMS = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def ask(cache: AgentCache, **options: Any) -> Any:
    return await cache.llm.get_or_load(PARAMS, lambda: "Hello", **options)


async def test_per_run_answer_ends_with_its_run_in_both_levels(cache: AgentCache, plain: Any) -> None:
    shared = await ask(cache)
    async with cache.agent("r"):
        assert (await ask(cache)).source == "l1"
        own = await ask(cache, per_run=True)
        assert (own.source, (await ask(cache, per_run=True)).source) == ("loader", "l1")
        await cache.flush_writes()
        assert plain.exists(own.key, shared.key) == 2
    assert (plain.exists(own.key), plain.exists(shared.key)) == (0, 1)
    assert (await ask(cache)).source == "l1"
    async with cache.agent("r"):
        assert (await ask(cache, per_run=True)).source == "loader"


async def test_per_run_answers_of_other_runs_are_apart(cache: AgentCache) -> None:
    async def run(session_id: str | None) -> Any:
        async with cache.agent(session_id):
            return await ask(cache, per_run=True)

    results = await asyncio.gather(*(run(session_id) for session_id in (None, ":", "*", "\u00e9")))
    assert {result.source for result in results} == {"loader"}
    assert len({result.key for result in results} | {(await ask(cache)).key}) == 5
    async with cache.agent():
        await ask(cache, per_run=True)
        assert (await run(None)).source == "loader"
        assert (await ask(cache, per_run=True)).source == "l1"


async def test_per_run_answer_stays_with_keep(cache: AgentCache) -> None:
    async with cache.agent("r", keep=True):
        await ask(cache, per_run=True)
    async with cache.agent("r"):
        assert (await ask(cache, per_run=True)).source == "l1"


async def test_per_run_answer_is_not_stored_after_its_run(cache: AgentCache, plain: Any) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        begun.set()
        await may_end.wait()
        return "late"

    async with cache.agent("r"):
        late = asyncio.create_task(cache.llm.get_or_load(PARAMS, load, per_run=True))
        await begun.wait()
    may_end.set()
    result = await late
    await cache.flush_writes()
    assert (result.response, plain.exists(result.key)) == ("late", 0)
    async with cache.agent("r"):
        assert (await ask(cache, per_run=True)).source == "loader"


async def test_per_run_answer_needs_a_run_and_params(cache: AgentCache) -> None:
    with pytest.raises(UsageError, match="per_run"):
        await ask(cache, per_run=True)
    async with cache.agent():
        key: Any = cache.llm.key(PARAMS)
        with pytest.raises(UsageError, match="per_run"):
            await cache.llm.get_or_load(key, lambda: "Hello", per_run=True)
        with pytest.raises(UsageError, match="tags"):
            await ask(cache, per_run=True, tags="text")


def test_per_run_answer_ends_with_its_plain_run(url: str) -> None:
    with AgentCache.from_url(url, name="plain").sync as cache:
        shared = cache.llm.get_or_load(PARAMS, lambda: "Hello")
        for _ in range(2):
            with cache.agent("r"):
                own = cache.llm.get_or_load(PARAMS, lambda: "Hello", per_run=True)
                assert (own.source, own.key != shared.key) == ("loader", True)
                assert cache.llm.get_or_load(PARAMS, lambda: "Hello", per_run=True).source == "l1"
