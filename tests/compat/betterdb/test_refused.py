"""betterdb's names of framework adapters, imported without their frameworks, and the names that are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tiercache.version import install_command

_IMPORT = """
import sys
for name in {blocked}:
    sys.modules[name] = None  # As if it were not installed.
import tiercache.compat.betterdb
try:
    from tiercache.compat.betterdb.adapters.{module} import {name}
except ImportError as error:
    print(error)
"""


def error_of_import(module: str, name: str, *blocked: str) -> str:
    """Return the message with which an import fails, or an empty text."""
    program = _IMPORT.format(module=module, name=name, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("module", "name"), [("langchain", "BetterDBLlmCache"), ("langgraph", "BetterDBSaver")])
def test_compat_adapter_without_its_framework_names_the_extra(module: str, name: str) -> None:
    assert install_command(module) in error_of_import(module, name, "langchain", "langchain_core", "langgraph")


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("openai_agents", "CachedModel", "OpenAIResponsesModel"),
        ("openai_agents", "CachedModelProvider", "OpenAIResponsesModel"),
        ("openai_agents", "prepare_params", "OpenAIResponsesModel"),
        ("pydantic_ai", "CachedModel", "OpenAIProvider"),
        ("pydantic_ai", "prepare_params", "OpenAIProvider"),
        ("pydantic_ai", "Unknown", "cannot import name 'Unknown'"),
    ],
)
def test_compat_refuses_a_name_with_the_name_to_use(module: str, name: str, advice: str) -> None:
    assert advice in error_of_import(module, name)
