"""Fixtures of the LiteLLM adapter: calls reach the local server alone, and LiteLLM's own tasks end with the test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.adapters.litellm import threads
from tests.providers import ProviderServer

# LiteLLM would load its prices from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["DO_NOT_TRACK"] = "1"


@pytest.fixture(autouse=True)
async def _litellm(provider: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Let LiteLLM reach the local server, and remove its cache, its clients and its tasks after the test."""
    import litellm
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
    from litellm.litellm_core_utils.thread_pool_executor import executor

    litellm.telemetry = False
    monkeypatch.setenv("OPENAI_API_BASE", provider.openai_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    litellm.in_memory_llm_clients_cache.flush_cache()
    with threads.recorded(executor):
        yield
    litellm.cache = None
    await GLOBAL_LOGGING_WORKER.flush()
    await GLOBAL_LOGGING_WORKER.stop()
