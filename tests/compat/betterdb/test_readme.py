"""The examples in the README of betterdb-agent-cache run on tiercache when their imports alone are changed.

The README comes from the installed distribution. Each example runs with both libraries, and gives the same values.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from importlib.metadata import metadata
from types import ModuleType
from typing import Any

import betterdb_agent_cache as betterdb
import pytest
import valkey.asyncio

from tests.compat.betterdb.calls import as_plain, without_name
from tests.docs.pages import Block, blocks
from tests.requests import HELLO
from tiercache.compat import betterdb as compat

EXAMPLES = [
    block for block in blocks(str(metadata("betterdb-agent-cache").get_payload())) if block.language == "python"
]
# Examples are named by a line of theirs. The quick start is a program: it has a test of its own.
QUICK_START = "asyncio.run(main())"
NOT_RUN = {
    "client = ValkeyCluster(": "is no Python, and compat takes no cluster yet",
    "cached_provider = CachedModelProvider(provider, cache=cache)": "needs a provider; compat refuses the name",
    "agent = Agent(name=": "needs a model; compat refuses the name",
    "    cache=BetterDBLlmCache(cache=cache),": "needs langchain-openai: tests/compat/betterdb/test_frameworks.py",
    "checkpointer = BetterDBSaver(cache=cache)": "needs langgraph: tests/compat/betterdb/test_frameworks.py",
    "cache_params = await prepare_params(messages)": "names no model, which compat refuses",
}
# Of the README, and the value that replaces each.
PLACEHOLDERS = {"LlmStoreOptions(...)": "LlmStoreOptions()", "cost_table={...}": "cost_table={}"}
# The requests of model APIs that the README prepares.
PICTURE = {"url": "data:image/png;base64,AAAA"}
REQUESTS = {
    "openai_params": {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": PICTURE}]},
        ],
        "temperature": 0,
    },
    "responses_params": {"model": "gpt-4o", "instructions": "Be brief.", "input": "Hi", "max_output_tokens": 9},
    "anthropic_params": {
        "model": "claude-sonnet-4-5",
        "max_tokens": 9,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi"}],
    },
}
# Names that the README uses and does not define.
PROGRAM = """
import json
calls = []
async def call_llm(params):
    calls.append("llm")
    return "A key-value store"
async def get_weather(city):
    calls.append("weather")
    return {{"city": city}}
{source}
print(calls)
"""


def is_run(block: Block) -> bool:
    return not any(name in block.code for name in [QUICK_START, *NOT_RUN])


def source_of(code: str, library: ModuleType) -> str:
    """Return an example with the imports of ``library``, and with values for its ellipses."""
    for placeholder, value in PLACEHOLDERS.items():
        code = code.replace(placeholder, value)
    return code.replace("betterdb_agent_cache", library.__name__)


def run_program(code: str, library: ModuleType, url: str, *arguments: str) -> str:
    """Run the quick start on the server at ``url``; return the calls that it made."""
    client = 'valkey_client.Valkey(host="localhost", port=6379)'
    assert code.count(client) == 1
    source = source_of(code, library).replace(client, f"valkey_client.Valkey.from_url({url!r})")
    command = [sys.executable, *arguments, "-c", PROGRAM.format(source=source)]
    env = {**os.environ, "BETTERDB_TELEMETRY": "false"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=env)
    assert (run.returncode, run.stderr if library is compat else "") == (0, "")
    return run.stdout.strip()


@pytest.fixture
async def libraries(
    url: str, peer: betterdb.AgentCache, make_compat: Callable[..., compat.AgentCache]
) -> AsyncIterator[list[tuple[ModuleType, dict[str, Any]]]]:
    """Return each library with the names that the examples of the README share."""
    await peer.ensure_discovery_ready()
    async with valkey.asyncio.Valkey.from_url(url) as client:
        found = []
        for library, cache, name in ((betterdb, peer, "test"), (compat, make_compat(name="ours"), "ours")):
            shared = {name: getattr(library, name) for name in library.__all__}
            shared |= {
                "cache": cache,
                "cache_name": name,
                "client": client,
                "params": HELLO,
                "response": "Hi",
                "json_result": "{}",
            }
            shared["blocks"] = [{"type": "text", "text": "Hi"}]
            shared |= REQUESTS
            found.append((library, shared))
        yield found


def test_quick_start_of_betterdb_runs_with_its_imports_changed(url: str) -> None:
    (code,) = (block.code for block in EXAMPLES if QUICK_START in block.code)
    both = "['llm', 'weather']"
    assert run_program(code, compat, url, "-W", "error") == both
    # Both answers are in Valkey: for the same program, and for betterdb itself.
    assert run_program(code, compat, url, "-W", "error") == "[]"
    assert run_program(code, betterdb, url) == "[]"
    with valkey.Valkey.from_url(url) as plain:
        plain.flushall()
    assert run_program(code, betterdb, url) == both
    assert run_program(code, compat, url, "-W", "error") == "[]"


@pytest.mark.parametrize("block", [each for each in EXAMPLES if is_run(each)], ids=lambda block: f"line {block.line}")
async def test_examples_of_betterdb_run_with_their_imports_changed(
    libraries: list[tuple[ModuleType, dict[str, Any]]], block: Block
) -> None:
    values = []
    for library, shared in libraries:
        names = dict(shared)
        source = source_of(block.code, library)
        code = compile(source, f"README, line {block.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        done = eval(code, names)
        if inspect.iscoroutine(done):
            await done
        new = {name for name in names if names[name] is not shared.get(name)} - {"__builtins__"}
        # Instances and classes of each library are its own; results and plain values are the same.
        plain = {name: as_plain(names[name]) for name in new}
        kept = {name: value for name, value in plain.items() if is_value(value)}
        values.append(without_name(kept, shared["cache_name"]))
        for name in new & {"cache"}:
            await names[name].ensure_discovery_ready()
            await names[name].shutdown()
    assert values[0] == values[1]


def is_value(value: Any) -> bool:
    return isinstance(value, str | int | float | tuple | list | dict | None) and not is_table(value)


def is_table(value: Any) -> bool:
    """Return whether a value is the whole price table: each library has its own prices."""
    return isinstance(value, dict) and len(value) > 1000


def test_examples_that_are_not_run_exist_and_have_a_reason() -> None:
    for name in NOT_RUN:
        assert [block for block in EXAMPLES if name in block.code], name
    assert sum(map(is_run, EXAMPLES)) >= 12


async def test_example_of_betterdb_without_a_model_is_refused() -> None:
    from tiercache.compat.betterdb.adapters.llamaindex import prepare_params

    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(compat.AgentCacheUsageError, match="model"):
        await prepare_params(messages)
    assert (await prepare_params(messages, model="gpt-4o"))["model"] == "gpt-4o"
