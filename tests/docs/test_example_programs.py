"""Every program in docs/examples runs on a real Valkey and on the local provider server, as its reader runs it.

Each program asks the same question twice as a whole and twice as a stream, and prints a line for each answer. A program
whose framework is not installed is skipped; ``tox run -e frameworks,frameworks-httpx`` runs every program.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.adapters.installed import is_installed
from tests.docs.pages import DOCS
from tests.providers import ProviderServer, Script, Served, ToolCall

EXAMPLES: Final = DOCS / "examples"
# Each program, and the modules that it needs.
NEEDS: Final = {
    "with_anthropic": ("anthropic",),
    "with_dspy": ("dspy",),
    "with_fastmcp": ("fastmcp", "openai"),
    "with_gemini": ("google.genai", "httpx2"),
    "with_google_adk": ("google.adk",),
    "with_langchain": ("langchain_openai", "httpx2"),
    "with_langchain_cache": ("langchain_openai", "langchain"),
    "with_langchain_embeddings": ("langchain_openai", "langchain_classic"),
    "with_langchain_history": ("langchain_openai", "langchain"),
    "with_langchain_tools": ("langchain_openai", "langchain"),
    "with_langgraph": ("langgraph", "langchain_openai", "httpx2"),
    "with_langgraph_node_cache": ("langgraph", "langchain_openai"),
    "with_langgraph_store": ("langgraph",),
    "with_litellm": ("litellm",),
    "with_litellm_cache": ("litellm", "fastapi", "soundfile"),
    "with_llamaindex": ("llama_index.llms.openai",),
    "with_llamaindex_chat": ("llama_index.llms.openai",),
    "with_llamaindex_ingestion": ("llama_index.embeddings.openai",),
    "with_mcp": ("mcp",),
    "with_openai": ("openai",),
    "with_openai_agents": ("agents",),
    "with_openai_agents_session": ("agents",),
    "with_openai_agents_tools": ("agents",),
    "with_openai_params": ("openai",),
    "with_openai_plain": ("openai",),
    "with_pydantic_ai": ("pydantic_ai",),
    "with_pydantic_ai_conversations": ("pydantic_ai",),
    "with_pydantic_ai_tools": ("pydantic_ai",),
}
# The programs that need an SDK alone. The environments of each Python run them, on httpx2; ``frameworks-httpx`` too.
OF_SDKS: Final = {"with_anthropic", "with_gemini", "with_openai", "with_openai_params", "with_openai_plain"}
# The programs that an environment of tox must run, and not skip.
LLAMAINDEX: Final = {"with_llamaindex", "with_llamaindex_chat", "with_llamaindex_ingestion"}
RUN_IN: Final[dict[str, set[str]]] = {
    **dict.fromkeys(("py311", "py312", "py313"), OF_SDKS),
    "frameworks": set(NEEDS) - OF_SDKS - LLAMAINDEX - {"with_google_adk"},
    "frameworks-adk": {"with_google_adk"},
    "frameworks-httpx": {*LLAMAINDEX, "with_openai", "with_openai_params", "with_openai_plain"},
}
# The programs of adapters, which have no wrapped client: each has a test of its own.
# Those of LangChain, and the number of requests that each sends in its first run.
LANGCHAIN: Final = {
    "with_langchain_cache": 1,
    "with_langchain_embeddings": 1,
    "with_langchain_history": 2,
    "with_langchain_tools": 2,
}
# Those of other frameworks that send requests, in the same way.
OF_AGENTS: Final = {
    "with_openai_agents_session": 2,
    "with_openai_agents_tools": 2,
    "with_openai_params": 1,
    "with_pydantic_ai_conversations": 2,
    "with_pydantic_ai_tools": 2,
}
ADAPTERS: Final = {
    *LANGCHAIN,
    *OF_AGENTS,
    *("with_dspy", "with_fastmcp", "with_google_adk", "with_langgraph_node_cache", "with_langgraph_store"),
    "with_litellm_cache",
    *("with_llamaindex_chat", "with_llamaindex_ingestion", "with_mcp"),
}
_MAX_LINES: Final = 40
# Importing a framework takes seconds.
_SECONDS: Final = 200


def environment(provider: ProviderServer, url: str) -> dict[str, str]:
    """Return the variables with which a program uses the local servers, and no other address."""
    return {
        **os.environ,
        "VALKEY_URL": url,
        "OPENAI_BASE_URL": provider.openai_url,
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_BASE_URL": provider.url,
        "ANTHROPIC_API_KEY": "none",
        "GOOGLE_GEMINI_BASE_URL": provider.url,
        "GEMINI_API_KEY": "none",
        "NO_PROXY": "127.0.0.1",
        # LiteLLM reads another name, and would load its prices from the network.
        "OPENAI_API_BASE": provider.openai_url,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # OpenAI Agents and LangChain would send traces.
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LANGSMITH_TRACING": "false",
    }


def run(program: str, provider: ProviderServer, url: str) -> list[str]:
    """Run a program of docs/examples; return the lines that it prints."""
    command = [sys.executable, str(EXAMPLES / f"{program}.py")]
    env = environment(provider, url)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def skip_if_missing(program: str) -> None:
    """Skip the test of a program that runs elsewhere, or whose framework is not installed, and must not be."""
    if program in OF_SDKS and os.environ.get("TOX_ENV_NAME") in ("frameworks", "frameworks-adk"):
        pytest.skip("the environments of each Python run it")
    if missing := [module for module in NEEDS[program] if not is_installed(module)]:
        assert program not in RUN_IN.get(os.environ.get("TOX_ENV_NAME", ""), ()), f"{missing} must be installed here"
        pytest.skip(f"{', '.join(missing)} is not installed")


@pytest.mark.timeout(_SECONDS + 30)
@pytest.mark.parametrize("program", sorted(set(NEEDS) - ADAPTERS))
def test_example_sends_one_request_for_two_calls(program: str, provider: ProviderServer, url: str) -> None:
    skip_if_missing(program)
    whole, whole_again, streamed, streamed_again = run(program, provider, url)
    assert whole == whole_again == "Answer 1: part 1 part 2 part 3 part 4"
    assert streamed == streamed_again == "Answer 2: part 1 part 2 part 3 part 4"
    assert [call.is_stream for call in provider.calls] == [False, True]
    assert provider.requests == provider.calls


@pytest.mark.timeout(2 * _SECONDS + 30)
@pytest.mark.parametrize("program", ["with_openai", "with_langgraph"])
def test_example_sends_no_request_after_a_process_that_asked_the_same(
    program: str, provider: ProviderServer, url: str
) -> None:
    skip_if_missing(program)
    assert run(program, provider, url) == run(program, provider, url)
    assert provider.call_count == 2


@pytest.mark.timeout(2 * _SECONDS + 30)
def test_example_of_the_node_cache_calls_the_model_once_in_two_runs(provider: ProviderServer, url: str) -> None:
    skip_if_missing("with_langgraph_node_cache")
    for _ in range(2):
        assert run("with_langgraph_node_cache", provider, url) == ["Answer 1: part 1 part 2 part 3 part 4"] * 2
    assert provider.call_count == 1


@pytest.mark.timeout(2 * _SECONDS + 30)
def test_example_of_fastmcp_calls_the_model_once_in_two_runs(provider: ProviderServer, url: str) -> None:
    skip_if_missing("with_fastmcp")
    for _ in range(2):
        assert run("with_fastmcp", provider, url) == ["Answer 1: part 1 part 2 part 3 part 4"] * 2
    assert provider.call_count == 1


@pytest.mark.timeout(2 * _SECONDS + 30)
def test_example_of_the_store_reads_the_state_of_the_run_before(provider: ProviderServer, url: str) -> None:
    skip_if_missing("with_langgraph_store")
    assert [run("with_langgraph_store", provider, url) for _ in range(2)] == [["visit 1"], ["visit 2"]]


@pytest.mark.timeout(2 * _SECONDS + 30)
def test_example_of_dspy_sends_one_request_in_two_runs(provider: ProviderServer, url: str) -> None:
    skip_if_missing("with_dspy")
    hit = "Answer 1: part 1 part 2 part 3 part 4 0"
    assert [run("with_dspy", provider, url) for _ in range(2)] == [[hit.removesuffix("0") + "5", hit], [hit, hit]]
    assert provider.call_count == 1


@pytest.mark.timeout(2 * _SECONDS + 30)
@pytest.mark.parametrize("program", ["with_llamaindex_chat", "with_llamaindex_ingestion"])
def test_example_of_llamaindex_sends_one_request_in_two_runs(program: str, provider: ProviderServer, url: str) -> None:
    skip_if_missing(program)
    first, second = (run(program, provider, url) for _ in range(2))
    assert first == second
    assert len(first) == 2
    assert provider.call_count == 1


@pytest.mark.timeout(2 * _SECONDS + 30)
def test_example_of_mcp_runs_its_tool_once_in_two_runs(provider: ProviderServer, url: str) -> None:
    skip_if_missing("with_mcp")
    answers = ["The Danube runs through Vienna."] * 2
    assert [run("with_mcp", provider, url) for _ in range(2)] == [["The tool runs.", *answers], answers]


@pytest.mark.timeout(2 * _SECONDS + 30)
def test_example_of_the_cache_of_litellm_sends_no_request_in_its_second_run(provider: ProviderServer, url: str) -> None:
    skip_if_missing("with_litellm_cache")
    first, second = (run("with_litellm_cache", provider, url) for _ in range(2))
    assert first == second == [f"Answer {number}: part 1 part 2 part 3 part 4" for number in (1, 1, 2, 2)] + ["2", "2"]
    assert provider.call_count == 3


def gemini_script_of(request: Served) -> Script | None:
    """Return the script of a request to Gemini: the model calls the tool, and answers when it has the result."""
    if "functionResponse" in request.params["contents"][-1]["parts"][0]:
        return None
    return Script(tool_calls=(ToolCall(name="river", arguments={"city": "Vienna"}),))


@pytest.mark.timeout(2 * _SECONDS + 30)
def test_example_of_google_adk_asks_its_tool_and_its_model_in_its_first_run_alone(
    provider: ProviderServer, url: str
) -> None:
    skip_if_missing("with_google_adk")
    provider.choose = gemini_script_of
    first, second = (run("with_google_adk", provider, url) for _ in range(2))
    assert first == ["The tool runs.", *second]
    assert len(second) == 1
    assert provider.call_count == 2


def script_of(request: Served) -> Script | None:
    """Return the script of a request: a model that knows tools calls the first one, and answers when it has results."""
    tools = request.params.get("tools")
    if not tools or request.params["messages"][-1]["role"] == "tool":
        return None
    return Script(tool_calls=(ToolCall(name=tools[0]["function"]["name"], arguments={"city": "Vienna"}),))


@pytest.mark.timeout(2 * _SECONDS + 30)
@pytest.mark.parametrize("program", [*LANGCHAIN, *OF_AGENTS])
def test_example_of_an_agent_makes_no_request_in_its_second_run(
    program: str, provider: ProviderServer, url: str
) -> None:
    skip_if_missing(program)
    provider.choose = script_of
    first, second = (run(program, provider, url) for _ in range(2))
    assert provider.call_count == {**LANGCHAIN, **OF_AGENTS}[program]
    # The tool of a program prints a line when it runs.
    assert second == [line for line in first if line != "The tool runs."] != []
    assert len(first) - len(second) == program.endswith("_tools")


def test_example_programs_are_all_run() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(NEEDS) == sorted(set().union(*RUN_IN.values()))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_program_is_short_and_says_how_to_install_it(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= _MAX_LINES
    assert re.search(r'^python -m pip install "\.\[[\w,-]+\]"', text, re.MULTILINE)
    assert ("tiercache.adapters" if path.stem in ADAPTERS else "cache.wrap(") in text
