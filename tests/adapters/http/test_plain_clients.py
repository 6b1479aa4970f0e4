"""Plain wrapped clients: the threads of their callers, and the ends of their streams and connections."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.adapters.http.callers import library
from tests.adapters.http.wrapped import CHAT
from tests.providers import Gate, ProviderServer, Script
from tests.seams import connections_in_use, interrupt_next_call, refuse_loader_threads
from tests.sync.threads import started
from tiercache import AgentCache, CoherenceOptions, ResilienceOptions
from tiercache.adapters.http.exchange_handler import HttpAnswer

STREAM: dict[str, Any] = {**CHAT, "stream": True}
PATH = "/v1/chat/completions"


class Plain:
    """A plain client of one cache.

    Attributes:
        inner: The client that was wrapped.
    """

    def __init__(self, url: str, provider: ProviderServer, *, drain: float = 5.0, **options: Any) -> None:
        # By default longer than every wait of the tests: no timeout may end what the cache must end.
        timeout = options.pop("timeout", 60)
        resilience = ResilienceOptions(drain_timeout=drain, load_timeout=options.pop("load_timeout", None))
        # A lease that outlives every deadline: no call may get its answer only because a lease has run out.
        coherence = CoherenceOptions(lease_ttl=60)
        self.cache = AgentCache.from_url(url, name="test", resilience=resilience, coherence=coherence)
        self.inner = library().Client(base_url=provider.url, timeout=timeout)
        self.client = self.cache.wrap(self.inner, **options)

    def text(self, **more: Any) -> str:
        """Return the text of a whole answer."""
        response = self.client.post(PATH, json={**CHAT, **more})
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    def stream(self) -> tuple[Any, Iterator[str]]:
        """Return a streamed response, of which the first line has been read, and its further lines."""
        response = self.client.send(self.client.build_request("POST", PATH, json=STREAM), stream=True)
        lines = response.iter_lines()
        next(lines)
        return response, lines

    def close(self) -> None:
        self.client.close()
        self.cache.sync.close()


# Scopes


def test_scope_function_runs_in_the_thread_of_its_caller(url: str, provider: ProviderServer) -> None:
    """Otherwise the tenants, of which each has a thread, would share the answers of one default tenant."""
    local = threading.local()
    plain = Plain(url, provider, scope=lambda: getattr(local, "tenant", "default"))

    def ask(tenant: str) -> str:
        local.tenant = tenant
        return plain.text()

    answers = [started(lambda name=name: ask(name)).result() for name in ("a", "b", "a")]  # type: ignore[misc]
    assert answers[0] == answers[2] != answers[1]
    plain.close()


def test_scope_function_may_call_the_sync_face(url: str, provider: ProviderServer) -> None:
    caches: list[AgentCache] = []
    plain = Plain(url, provider, scope=lambda: caches[0].sync.kv.get_or_load("tenant", lambda: "a").value)
    caches.append(plain.cache)
    assert plain.text() == plain.text()
    plain.close()


# The end of the cache


def test_stream_that_is_finished_while_the_cache_closes_brings_its_rest(url: str, provider: ProviderServer) -> None:
    gate = Gate(2)
    provider.script = Script(gates=(gate,))
    plain = Plain(url, provider)
    response, lines = plain.stream()
    closing = started(plain.cache.sync.close)
    gate.release()
    closing.result()
    rest = list(lines)
    assert "data: [DONE]" in rest
    assert "part 4" in "".join(rest)
    response.close()
    plain.close()


def test_stream_that_the_end_of_the_cache_cuts_off_raises_an_error_of_the_library(
    url: str, provider: ProviderServer
) -> None:
    gate = Gate(2)
    provider.script = Script(gates=(gate,))
    plain = Plain(url, provider, drain=0.1)
    response, lines = plain.stream()
    plain.cache.sync.close()
    with pytest.raises(library().RemoteProtocolError, match="closed"):
        list(lines)
    provider.wait_until(lambda: provider.hung_up)
    response.close()
    plain.close()


# Connections


@pytest.mark.parametrize("end", ["load_timeout", "close"])
def test_response_that_comes_after_the_end_of_its_load_gives_its_connection_back(
    url: str, provider: ProviderServer, end: str
) -> None:
    gate = Gate("head")
    provider.script = Script(gates=(gate,))
    plain = Plain(url, provider, drain=0.1, load_timeout=0.1 if end == "load_timeout" else None)
    asking = started(lambda: plain.client.post(PATH, json=STREAM))
    provider.wait_until(gate.held.is_set)
    if end == "close":
        plain.cache.sync.close()
    else:
        # The load has ended when it counts as failed; its thread still waits for the response.
        provider.wait_until(lambda: plain.cache.local_stats().tiers["llm"].load_errors)
    gate.release()
    # With load_timeout the caller gets the error of the library; on a closed cache HTTP 400.
    try:
        assert asking.result().status_code == 400
    except library().ReadTimeout:
        assert end == "load_timeout"
    provider.wait_until(lambda: not connections_in_use(plain.inner))
    plain.close()


def test_stream_of_which_an_interrupted_caller_has_not_learned_is_cancelled(
    url: str, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(2)
    provider.script = Script(gates=(gate,))
    plain = Plain(url, provider)
    plain.cache.sync.open()
    with monkeypatch.context() as patch:
        interrupt_next_call(patch, HttpAnswer)
        with pytest.raises(KeyboardInterrupt):
            plain.client.post(PATH, json=STREAM)
    gc.collect()
    provider.wait_until(lambda: provider.hung_up)
    plain.close()


def test_response_whose_thread_cannot_be_started_raises_at_once(
    url: str, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Plain(url, provider)
    plain.cache.sync.open()
    with monkeypatch.context() as patch:
        refuse_loader_threads(patch)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            plain.client.post(PATH, json=CHAT)
    provider.wait_until(lambda: not connections_in_use(plain.inner))
    plain.close()


# Threads of callers


def test_generator_over_a_stream_that_is_dropped_cancels_the_stream(url: str, provider: ProviderServer) -> None:
    gate = Gate(2)
    provider.script = Script(gates=(gate,))
    plain = Plain(url, provider)

    def lines() -> Iterator[str]:
        _, rest = plain.stream()
        yield from rest

    held = [lines()]
    next(held[0])
    held.clear()
    gc.collect()
    provider.wait_until(lambda: provider.hung_up)
    plain.close()


def test_streams_and_answers_of_a_pool_of_threads_leave_nothing(url: str, provider: ProviderServer) -> None:
    provider.script = Script(delay_part=0.01)
    plain = Plain(url, provider)

    def ask(number: int) -> str | None:
        body = {**STREAM, "seed": number % 5}
        if number % 3:
            return str(plain.client.post(PATH, json=body).text)
        with plain.client.stream("POST", PATH, json=body) as response:
            next(response.iter_lines())
        return None

    with ThreadPoolExecutor(20) as threads:
        texts = list(threads.map(ask, range(100)))
    assert all(text is None or "[DONE]" in text for text in texts)
    provider.wait_until(lambda: not connections_in_use(plain.inner))
    plain.close()


async def test_plain_call_in_a_coroutine_does_not_wait_for_a_stream_of_the_loop_that_it_blocks(
    url: str, provider: ProviderServer
) -> None:
    gate = Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    plain = Plain(url, provider, timeout=10)
    client = plain.cache.wrap(library().AsyncClient(base_url=provider.url, timeout=60))
    async with client.stream("POST", PATH, json=STREAM) as response:
        lines = response.aiter_lines()
        await anext(lines)
        assert "[DONE]" in plain.client.post(PATH, json=STREAM).text
        gate.release()
        assert "data: [DONE]" in [line async for line in lines]
    assert provider.call_count == 2
    await client.aclose()
    plain.client.close()
    await asyncio.wait_for(plain.cache.aclose(), 20)
