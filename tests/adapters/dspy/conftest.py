"""Fixtures of the tests of DSPy: a cache that replaces the one of DSPy, and models on the local provider."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

import pytest

from tests.providers import ProviderServer
from tiercache import AgentCache

# LiteLLM reads it when it is imported, and would load its prices from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

Install: TypeAlias = Callable[..., Any]


@pytest.fixture(autouse=True)
def _private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep DSPy and LiteLLM from the network and from the environment of the machine."""
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
async def _closed_sessions(_leak_check: None) -> AsyncIterator[None]:
    """Wait for the tasks in which LiteLLM closes its HTTP sessions, once they are garbage."""
    yield
    gc.collect()
    await asyncio.sleep(0)
    closing = [task for task in asyncio.all_tasks() if "ClientSession.close" in repr(task)]
    if closing:
        await asyncio.wait(closing, timeout=5)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes a TierCacheDSPy on a cache, and assigns it to ``dspy.cache`` for the test."""
    import dspy

    from tiercache.adapters.dspy import TierCacheDSPy

    def install(cache: AgentCache, **options: Any) -> TierCacheDSPy:
        made = TierCacheDSPy(cache, **options)
        monkeypatch.setattr(dspy, "cache", made, raising=False)
        return made

    return install


@pytest.fixture
def make_lm(provider: ProviderServer) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a model of DSPy on the local provider."""
    import dspy

    made: list[Any] = []

    def make(**options: Any) -> Any:
        fields = {"model": "openai/gpt-4o-mini", "api_base": provider.openai_url, "api_key": "none", "num_retries": 0}
        made.append(dspy.LM(**{**fields, **options}))
        return made[-1]

    yield make
    for lm in made:
        lm.close()
    close_clients()


def close_clients() -> None:
    """Close the connections that LiteLLM keeps for later calls."""
    litellm = sys.modules.get("litellm")
    if litellm is None:
        return
    for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
        close = getattr(client, "close", None)
        if close is not None and not iscoroutinefunction(close):
            close()
    litellm.in_memory_llm_clients_cache.flush_cache()
