"""Random calls of tenants, at the same time in tasks and in threads: no call ever sees the value of another tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, TypeAlias

import pytest
import valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiercache import AgentCache, LlmOptions, TierOptions

TENANT: ContextVar[str] = ContextVar("tenant")
# Names, and texts of keys, that could be taken for each other where they are joined.
TENANTS: Final = ["a", "a:b", "b", "a%3Ab", "%", "é"]
TEXTS: Final = ["k", "b:k", "a:b:k", ":k", "{}"]


class Step(NamedTuple):
    """One call of one tenant.

    Attributes:
        tenant: The tenant, or None for a call without a scope.
        way: The name of the method.
        text: Part of the request.
        by_function: Whether a scope function returns the tenant.
    """

    tenant: str | None
    way: str
    text: str
    by_function: bool


Call: TypeAlias = Callable[[Any, str, str], Any]


def _params(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


# Called with a face, the text of the request, and the value that a load returns. On the async face each returns a
# coroutine.
CALLS: Final[dict[str, Call]] = {
    "llm": lambda face, text, value: face.llm.get_or_load(_params(text), lambda: value),
    "llm.check": lambda face, text, value: face.llm.check(_params(text)),
    "llm.store": lambda face, text, value: face.llm.store(_params(text), value),
    "llm.refresh": lambda face, text, value: face.llm.get_or_load(_params(text), lambda: value, mode="refresh"),
    "llm.invalidate": lambda face, text, value: face.llm.invalidate(_params(text)),
    "tool": lambda face, text, value: face.tool.get_or_load("t", {"text": text}, lambda text: value),
    "tool.check": lambda face, text, value: face.tool.check("t", {"text": text}),
    "tool.store": lambda face, text, value: face.tool.store("t", {"text": text}, value),
    "kv": lambda face, text, value: face.kv.get_or_load(text, lambda: value),
    "kv.get": lambda face, text, value: face.kv.get(text),
    "kv.set": lambda face, text, value: face.kv.set(text, value),
    "kv.many": lambda face, text, value: face.kv.get_or_load_many([text], lambda keys: [value]),
    "kv.get_many": lambda face, text, value: face.kv.get_many([text]),
    "kv.delete": lambda face, text, value: face.kv.delete(text),
    "kv.clear": lambda face, text, value: face.kv.clear(),
    "clear_l1": lambda face, text, value: face.clear_l1(),
}

STEPS: Final = st.lists(
    st.builds(
        Step, st.sampled_from([None, *TENANTS]), st.sampled_from(sorted(CALLS)), st.sampled_from(TEXTS), st.booleans()
    ),
    min_size=2,
    max_size=24,
)
SETTINGS: Final = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def owned(result: Any) -> list[Any]:
    """Return the values in a result that may be the value of a tenant."""
    found = getattr(result, "response", None) or getattr(result, "value", None) or result
    values = list(found.values()) if isinstance(found, dict) else [found]
    return [value for value in values if isinstance(value, str) and value.startswith("of ")]


def check(step: Step, result: Any) -> None:
    assert set(owned(result)) <= {f"of {step.tenant} {step.text}"}, step


def blocks(cache: AgentCache, steps: Sequence[Step]) -> list[Callable[[], Any]]:
    """Return for each step a function that returns the block of ``cache.calls`` around it."""

    def block(step: Step) -> Any:
        if step.tenant is not None and step.by_function:
            TENANT.set(step.tenant)
            return cache.calls(scope=TENANT.get)
        return cache.calls(scope=step.tenant)

    return [lambda step=step: block(step) for step in steps]  # type: ignore[misc]


async def in_tasks(cache: AgentCache, steps: Sequence[Step]) -> None:
    async def run(step: Step, block: Callable[[], Any]) -> None:
        with block():
            result = CALLS[step.way](cache, step.text, f"of {step.tenant} {step.text}")
            check(step, await result if isinstance(result, Awaitable) else result)

    await asyncio.gather(*map(run, steps, blocks(cache, steps)))


def in_threads(cache: AgentCache, steps: Sequence[Step]) -> None:
    def run(step: Step, block: Callable[[], Any]) -> None:
        with block():
            check(step, CALLS[step.way](cache.sync, step.text, f"of {step.tenant} {step.text}"))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, steps, blocks(cache, steps)))


@given(steps=STEPS)
@SETTINGS
def test_tenants_in_tasks_never_share_a_value(url: str, plain: valkey.Valkey, steps: list[Step]) -> None:
    async def run() -> None:
        async with AgentCache.from_url(url, name="test") as cache:
            for _ in range(2):
                await in_tasks(cache, steps)

    plain.flushall()
    asyncio.run(run())


@given(steps=STEPS)
@SETTINGS
def test_tenants_in_threads_never_share_a_value(url: str, plain: valkey.Valkey, steps: list[Step]) -> None:
    plain.flushall()
    cache = AgentCache.from_url(url, name="test")
    with cache.sync:
        for _ in range(2):
            in_threads(cache, steps)


@given(steps=STEPS)
@SETTINGS
def test_scope_functions_of_tiers_in_tasks_never_share_a_value(steps: list[Step]) -> None:
    async def run(cache: AgentCache, step: Step) -> None:
        TENANT.set(step.tenant or "none")
        result = CALLS[step.way](cache, step.text, f"of {step.tenant} {step.text}")
        check(step, await result if isinstance(result, Awaitable) else result)

    async def run_all() -> None:
        options = TierOptions(scope=TENANT.get)
        async with AgentCache.in_memory(llm=LlmOptions(scope=TENANT.get), tool=options, kv=options) as cache:
            for _ in range(2):
                await asyncio.gather(*(run(cache, step) for step in steps))

    asyncio.run(run_all())


def test_check_of_random_calls_notices_a_shared_value() -> None:
    with pytest.raises(AssertionError):
        check(Step("a", "kv.get", "k", False), "of b k")
    with pytest.raises(AssertionError):
        check(Step("a", "kv.get_many", "k", False), {"k": "of a:b k"})
    check(Step("a", "kv.get", "k", False), "of a k")
