"""Adapters without their frameworks: importing the package works, and importing an adapter names its extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tiercache.version import install_command

_GOOGLE_ADK = ["TierCachePlugin", "TierCacheSessionService"]
_LANGCHAIN = ["TierCacheLLMCache", "TierCacheToolMiddleware", "TierCacheByteStore", "TierCacheChatMessageHistory"]
_LANGGRAPH = ["TierCacheSaver", "TierCacheNodeCache", "TierCacheStore", "node_key"]
_LITELLM = ["TierCacheLiteLLM"]
_LLAMAINDEX = ["TierCacheKVStore", "TierCacheChatStore", "TierCacheMemoryStore"]
_MCP = ["TierCacheTools", "TierCacheResponseStore"]
_OPENAI_AGENTS = ["TierCacheSession", "cache_tools"]
_PYDANTIC_AI = ["TierCacheConversationStore", "TierCacheTools"]
_PROGRAM = """
import sys
for name in {blocked}:
    sys.modules[name] = None  # As if it were not installed.
import tiercache, tiercache.adapters
try:
    from tiercache.adapters.{module} import {name}
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        *(("google_adk", name, "google-adk") for name in _GOOGLE_ADK),
        *(("langchain", name, "langchain") for name in _LANGCHAIN),
        *(("langgraph", name, "langgraph") for name in _LANGGRAPH),
        *(("litellm", name, "litellm") for name in _LITELLM),
        *(("llamaindex", name, "llamaindex") for name in _LLAMAINDEX),
        ("dspy", "TierCacheDSPy", "dspy"),
        *(("mcp", name, "mcp") for name in _MCP),
        *(("openai_agents", name, "openai-agents") for name in _OPENAI_AGENTS),
        *(("pydantic_ai", name, "pydantic-ai") for name in _PYDANTIC_AI),
    ],
)
def test_adapter_without_its_framework_names_the_extra(module: str, name: str, extra: str) -> None:
    blocked = (
        "agents",
        "dspy",
        "google.adk",
        "langchain",
        "langchain_core",
        "langgraph",
        "litellm",
        "llama_index",
        "mcp",
        "pydantic",
        "pydantic_ai",
    )
    program = _PROGRAM.format(blocked=blocked, module=module, name=name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    start, _, reason = done.stdout.partition(f"this adapter needs an extra: {install_command(extra)} (")
    assert start == ""
    assert any(each in reason for each in blocked)


def test_key_value_store_needs_no_framework() -> None:
    program = (
        "import sys; sys.modules['key_value'] = None; from tiercache.adapters.keyvalue import TierCacheKeyValue;"
        "from tiercache import AgentCache; TierCacheKeyValue(AgentCache.in_memory())"
    )
    subprocess.run([sys.executable, "-c", program], timeout=50, check=True)
