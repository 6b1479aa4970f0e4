"""Loaders: which signatures get the request, which are refused, and where a loader runs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any
from unittest.mock import AsyncMock

import pytest
import valkey

from tests.requests import HELLO, turns
from tests.support import MakeCache, entry_keys
from tiercache import AgentCache, LlmOptions, ResilienceOptions, TierOptions, UsageError

Load = Callable[[AgentCache, Any], Any]

LOADS: dict[str, Load] = {
    "llm": lambda cache, loader: cache.llm.get_or_load(HELLO, loader),
    "kv": lambda cache, loader: cache.kv.get_or_load("k", loader),
}


def answer(*given: object) -> str:
    return f"{len(given)} given"


async def optional(params: Any = None) -> str:
    return answer(params)


def optional_plain(params: Any = None, /, retries: int = 3) -> str:
    return answer(params)


def optional_before_more(params: Any = None, *more: Any) -> str:
    return answer(params, *more)


async def keywords(**kw: Any) -> str:
    return answer(kw)


def keywords_beside_one(*, retries: int = 3, **kw: Any) -> str:
    return answer(kw)


@wraps(optional)
def wrapped_optional(*args: Any, **kwargs: Any) -> Any:
    return optional(*args, **kwargs)


class Client:
    def create(self, params: Any = None) -> str:
        return answer(params)

    def __call__(self, params: Any = None) -> str:
        return answer(params)


REFUSED = {
    "optional": optional,
    "optional, plain": optional_plain,
    "optional before *more": optional_before_more,
    "keywords alone": keywords,
    "keywords beside a keyword": keywords_beside_one,
    "wrapped": wrapped_optional,
    "a method": Client().create,
    "an object": Client(),
    "a partial that binds a keyword": partial(optional_plain, retries=5),
}


@pytest.mark.parametrize("tier", LOADS)
@pytest.mark.parametrize("name", REFUSED)
async def test_loader_is_refused_if_it_would_be_called_without_the_request(
    cache: AgentCache, plain: valkey.Valkey, tier: str, name: str
) -> None:
    with pytest.raises(UsageError, match=r"^loader must .*(default|by position)"):
        await LOADS[tier](cache, REFUSED[name])
    await cache.flush_writes()
    assert entry_keys(plain) == []
    assert cache.local_stats().tiers[tier].loads == 0


async def test_loader_with_optional_parameters_is_refused_for_a_key_too(memory: AgentCache) -> None:
    key = memory.llm.key(HELLO)
    with pytest.raises(UsageError, match="default"):
        await memory.llm.get_or_load(key, optional)
    assert (await memory.llm.get_or_load(key, AsyncMock(side_effect=answer))).response == "0 given"


def required(params: Any) -> str:
    return answer(params)


def required_and_more(params: Any, retries: int = 3, *, log: bool = False, **kw: Any) -> str:
    return answer(params)


@wraps(required)
def wrapped(*args: Any, **kwargs: Any) -> str:
    return required(*args, **kwargs)


TAKEN: dict[str, tuple[Any, str]] = {
    "required": (required, "1 given"),
    "required and optional": (required_and_more, "1 given"),
    "wrapped": (wrapped, "1 given"),
    "*args": (answer, "1 given"),
    "*args and **kw": (lambda *args, **kw: answer(*args), "1 given"),
    "a mock": (AsyncMock(side_effect=answer), "1 given"),
    "a partial": (partial(answer, "bound"), "1 given"),
    "a partial with an optional rest": (partial(required_and_more, "bound"), "1 given"),
    "a partial that binds a required keyword": (partial(required, params="bound"), "1 given"),
    "nothing": (lambda: answer(), "0 given"),
    "keywords with defaults": (lambda *, bound=HELLO: answer(bound), "1 given"),
    "a lambda that binds by defaults": (lambda bound=HELLO, n=1: answer(bound, n), "2 given"),
}


@pytest.mark.parametrize("tier", LOADS)
@pytest.mark.parametrize("name", TAKEN)
async def test_loader_is_called_with_the_request_or_without_arguments(memory: AgentCache, tier: str, name: str) -> None:
    loader, expected = TAKEN[name]
    result = await LOADS[tier](memory, loader)
    assert (result.response if tier == "llm" else result.value) == expected


# Threads

REQUEST: ContextVar[str] = ContextVar("request")


def where(*_: object, **__: object) -> str:
    return f"{threading.current_thread() is threading.main_thread()} {REQUEST.get()}"


THREADED: dict[str, Load] = {
    "llm": lambda cache, loader: cache.llm.get_or_load(HELLO, loader),
    "tool": lambda cache, loader: cache.tool.get_or_load("t", {"city": "Sofia"}, loader),
    "kv": lambda cache, loader: cache.kv.get_or_load("k", loader),
    "kv.many": lambda cache, loader: cache.kv.get_or_load_many(["k"], lambda keys: {"k": loader()}),
    "llm.batch": lambda cache, loader: cache.llm.get_or_load(
        HELLO, cache.llm.batch_loader(lambda many: [loader()], max_size=1)
    ),
    "tool.batch": lambda cache, loader: cache.tool.get_or_load(
        "t", {}, cache.tool.batch_loader(lambda many: [loader()], max_size=1)
    ),
    "kv.batch": lambda cache, loader: cache.kv.get_or_load(
        "k", cache.kv.batch_loader(lambda many: [loader()], max_size=1)
    ),
}


def value_of(result: Any) -> Any:
    if isinstance(result, dict):
        return result["k"]
    return result.value if hasattr(result, "value") else result.response


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("name", THREADED)
async def test_loader_runs_in_a_thread_with_the_context_of_its_caller_if_threads_is_true(
    make_cache: MakeCache, name: str, threads: bool
) -> None:
    options = TierOptions(threads=threads)
    cache = make_cache(llm=LlmOptions(threads=threads), tool=options, kv=options)
    REQUEST.set("of the caller")
    assert value_of(await THREADED[name](cache, where)) == f"{not threads} of the caller"


async def test_loader_that_is_async_runs_on_the_event_loop_also_with_threads(make_cache: MakeCache) -> None:
    cache = make_cache(kv=TierOptions(threads=True))
    REQUEST.set("-")

    async def load() -> str:
        return where()

    class AsyncObject:
        async def __call__(self) -> str:
            return where()

    for number, loader in enumerate([load, partial(load), AsyncObject(), AsyncObject().__call__]):
        assert (await cache.kv.get_or_load(f"k{number}", loader)).value == "True -"
    # The lambda runs in the thread, and its coroutine on the loop.
    assert (await cache.kv.get_or_load("lambda", lambda: load())).value == "True -"


async def test_loader_in_a_thread_lets_other_callers_go_on(make_cache: MakeCache) -> None:
    cache = make_cache(kv=TierOptions(threads=True))
    release = threading.Event()
    blocked = asyncio.create_task(cache.kv.get_or_load("k", lambda: release.wait(20)))
    assert (await cache.kv.get_or_load("other", lambda: 1)).value == 1
    release.set()
    assert (await blocked).value is True


@pytest.mark.parametrize("error", [KeyError("x"), StopIteration("x")])
async def test_loader_in_a_thread_raises_its_error_in_every_waiter(make_cache: MakeCache, error: Exception) -> None:
    cache = make_cache(kv=TierOptions(threads=True))

    def fail() -> Any:
        raise error

    expected = RuntimeError if isinstance(error, StopIteration) else KeyError
    async with asyncio.timeout(20):
        results = await asyncio.gather(*(cache.kv.get_or_load("k", fail) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [expected] * 2


async def test_loader_in_a_thread_runs_to_its_end_after_cancellation_and_its_value_is_dropped(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", kv=TierOptions(threads=True))
    started, release, ended = (threading.Event() for _ in range(3))

    def load() -> str:
        started.set()
        release.wait(20)
        ended.set()
        return "dropped"

    loading = asyncio.create_task(cache.kv.get_or_load("k", load))
    await asyncio.to_thread(started.wait, 20)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    release.set()
    assert await asyncio.to_thread(ended.wait, 20)
    await turns()
    await cache.flush_writes()
    assert entry_keys(plain) == []
    assert await cache.kv.get("k") is None


async def test_loader_in_a_thread_ends_for_its_callers_at_load_timeout(make_cache: MakeCache) -> None:
    cache = make_cache(kv=TierOptions(threads=True), resilience=ResilienceOptions(load_timeout=0.05))
    release = threading.Event()
    with pytest.raises(TimeoutError, match="load_timeout"):
        await cache.kv.get_or_load("k", lambda: release.wait(20))
    release.set()


# The warning


def block(*_: object, **__: object) -> str:
    time.sleep(0.15)
    return "x"


BLOCKING: dict[str, Load] = {
    **THREADED,
    "session": lambda cache, loader: cache.session.get_or_load("t", "f", lambda: loader()),
}


@pytest.mark.parametrize("name", BLOCKING)
async def test_loader_that_blocks_the_loop_is_logged_once_with_its_name(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    cache = make_cache(name="agents")
    with caplog.at_level(logging.WARNING, "tiercache"):
        for _ in range(2):
            await BLOCKING[name](cache, block)
            await cache.flush(include_session=True)
    (line,) = [record.getMessage() for record in caplog.records if "blocked" in record.getMessage()]
    assert line.startswith("cache 'agents': the loader ")
    assert f"of the tier {name.partition('.')[0]} has blocked the event loop for 0." in line
    assert "threads=True" in line


async def test_loader_that_blocks_a_thread_is_not_logged(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make_cache(kv=TierOptions(threads=True))
    with caplog.at_level(logging.WARNING, "tiercache"):
        await cache.kv.get_or_load("k", block)
    assert not [record for record in caplog.records if "blocked" in record.getMessage()]


def test_session_options_refuse_threads() -> None:
    with pytest.raises(UsageError, match=r"a session has no .*threads"):
        AgentCache.in_memory(session=TierOptions(threads=True))
