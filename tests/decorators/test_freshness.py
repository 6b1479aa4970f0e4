"""Freshness of decorated functions: their own options win over those of the tier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support import until
from tiercache import AgentCache, TierOptions, UsageError
from tiercache.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def memory(clock: FakeClock) -> AsyncIterator[AgentCache]:
    options = TierOptions(ttl=60)
    cache = AgentCache.in_memory(llm=options, tool=options, kv=options, clock=clock.clock)
    yield cache
    await cache.aclose()


def decorated(cache: AgentCache, kind: str, function: Any, **options: Any) -> Any:
    """Return ``function`` decorated by memoize, tool.cached or llm.cached."""
    decorate: Any = {"memoize": cache.memoize, "tool": cache.tool.cached, "llm": cache.llm.cached}[kind]
    return decorate(**options)(function)


ARGUMENTS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
KINDS = ("memoize", "tool", "llm")


@pytest.mark.parametrize("kind", KINDS)
async def test_decorated_function_serves_stale_values(memory: AgentCache, clock: FakeClock, kind: str) -> None:
    answers: list[Any] = ["old", RuntimeError("down"), "new"]

    async def ask(model: str, messages: list[dict[str, str]]) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    function = decorated(memory, kind, ask, ttl=60, stale_for=100, retry_pause=10)
    assert await function(**ARGUMENTS) == "old"
    clock.advance(61)
    assert await function(**ARGUMENTS) == "old"
    await until(lambda: len(answers) == 1)
    assert (await function.result(**ARGUMENTS)).source == "stale"
    assert len(answers) == 1  # The pause.
    clock.advance(10)
    assert await function(**ARGUMENTS) == "old"
    await until(lambda: not answers)
    await asyncio.sleep(0)
    assert await function(**ARGUMENTS) == "new"


@pytest.mark.parametrize("kind", KINDS)
async def test_decorated_function_remembers_errors(memory: AgentCache, clock: FakeClock, kind: str) -> None:
    count = 0

    async def ask(model: str, messages: list[dict[str, str]]) -> str:
        nonlocal count
        count += 1
        raise LookupError(model)

    function = decorated(memory, kind, ask, cache_errors={LookupError: 2})
    for _ in range(3):
        with pytest.raises(LookupError):
            await function(**ARGUMENTS)
    assert count == 1
    clock.advance(2)
    with pytest.raises(LookupError):
        await function(**ARGUMENTS)
    assert count == 2


async def test_decorated_function_has_its_own_freshness_alone(memory: AgentCache, clock: FakeClock) -> None:
    count = 0

    @memory.memoize(ttl=60, stale_for=100, tier="kv")
    async def stale(x: int) -> int:
        return x

    @memory.memoize(ttl=60, tier="kv")
    async def plain(x: int) -> int:
        nonlocal count
        count += 1
        return x

    await stale(1), await plain(1)
    clock.advance(61)
    assert (await stale.result(1)).source == "stale"
    assert (await plain.result(1)).source == "loader"
    assert count == 2


async def test_set_value_of_a_decorated_function_goes_stale_too(memory: AgentCache, clock: FakeClock) -> None:
    @memory.memoize(ttl=60, stale_for=100)
    async def function(x: int) -> int:
        return x + 1

    await function.set(7, 1)
    clock.advance(61)
    assert (await function.result(1)).source == "stale"


def test_decorator_refuses_wrong_freshness(memory: AgentCache) -> None:
    with pytest.raises(UsageError, match=r"stale_for must be a number of seconds 0 or more, .* not -1"):
        memory.memoize(stale_for=-1)(asyncio.sleep)
    with pytest.raises(UsageError, match=r"stale_for must be a number of seconds 0 or more, .* not '10m'"):
        TierOptions(stale_for="10m")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"retry_pause must be a number of seconds above 0, .* not 0"):
        TierOptions(retry_pause=0)


def test_generator_refuses_freshness(memory: AgentCache) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(UsageError, match="stale_for is for functions"):
        memory.memoize(stale_for=1)(items)
