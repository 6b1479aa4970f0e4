"""Every example of the README and of the docs runs on a real Valkey and prints the lines that its comments show.

An example runs as its reader runs it, in ``python -m asyncio``: inside of the event loop. The blocks of a page run in
their order and share their names. A block that calls ``asyncio.run`` is a program: it runs in a process of its own, and
shares nothing. A line ``print(...)  # text`` must print that text. A page may import a package that is no dependency of
tiercache if a command on the page installs it. The SDKs of model providers reach a local server, by the variables of
the environment that they read.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import inspect
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import files, packages_distributions
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.adapters.installed import is_installed
from tests.docs.pages import ROOT, Block, blocks, name_of, pages
from tests.providers import ProviderServer
from tests.support import run_in_thread

URL = "valkey://localhost:6379"
_PRINTED = re.compile(r"^ *print\(.*\)  # (?P<text>.+)$", re.MULTILINE)
_PROGRAM = re.compile(r"^[^#\n]*\basyncio\.run\(", re.MULTILINE)
# An example that its reader cannot run in ``python -m asyncio``: the event loop runs already.
IN_A_SECOND_LOOP = """```python
import asyncio
loop = asyncio.new_event_loop()
later = loop.create_future()
try:
    loop.run_until_complete(later)
finally:
    loop.close()
```"""
# Modules of frameworks that only some environments have; ``tox run -e frameworks`` runs the pages that import them.
FRAMEWORKS = frozenset(
    {
        "agents",
        "dspy",
        "fastmcp",
        "google.adk",
        "key_value",
        "langchain",
        "langchain_core",
        "langgraph",
        "litellm",
        "llama_index",
        "mcp",
        "pydantic_ai",
    }
)
# Packages that the extra of a framework brings beside it.
BESIDE = {"litellm": ("fastapi", "soundfile")}
_INSTALLED = re.compile(r"pip install ([^\n`&;#]*)")


def python_blocks(text: str) -> list[Block]:
    """Return the Python blocks of a page."""
    return [block for block in blocks(text) if block.language == "python"]


def run_page(text: str, name: str, url: str) -> None:
    """Run the blocks of one page; a traceback shows the line of the page."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    problems: list[dict[str, Any]] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        for block in python_blocks(text):
            if block.reason is None:
                run_block(block, name, url, namespace, runner)
        runner.run(check_leaks())
    namespace.clear()
    gc.collect()
    assert not problems, f"{name}: {problems}"


def run_block(block: Block, name: str, url: str, namespace: dict[str, Any], runner: asyncio.Runner) -> None:
    """Run one block, and compare the printed lines with its comments."""
    source = "\n" * (block.line - 1) + block.code.replace(URL, url)
    if _PROGRAM.search(block.code):
        printed = run_program(source)
    else:
        printed = runner.run(
            run_in_loop(compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True), namespace)
        )
    assert printed.splitlines() == _PRINTED.findall(block.code), f"{name}:{block.line} prints other lines"


async def run_in_loop(code: CodeType, namespace: dict[str, Any]) -> str:
    """Run a block as ``python -m asyncio`` does; return the text that it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        done = eval(code, namespace)
        if inspect.iscoroutine(done):
            await done
    return printed.getvalue()


def run_program(source: str) -> str:
    """Run a program in a process of its own; return the text that it prints."""
    command = [sys.executable, "-W", "error", "-c", source]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return run.stdout


def imports(code: str) -> set[str]:
    """Return the modules that a block imports, without the standard library."""
    found = set()
    for node in ast.walk(compile(code, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                found.add(module)
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def frameworks_of(text: str) -> set[str]:
    """Return the frameworks whose modules the examples of a page import."""
    modules = {f"{module}." for block in python_blocks(text) for module in imports(block.code)}
    return {name for name in FRAMEWORKS if any(module.startswith(f"{name}.") for module in modules)}


def distributions_with(module: str) -> set[str]:
    """Return the installed distributions that contain a module, and its first name.

    A distribution may bring the module of its name by another distribution, as ``fastmcp`` does.
    """
    top, *_ = module.split(".")
    path = module.replace(".", "/")
    found = {
        name
        for name in packages_distributions().get(top, [])
        if any(str(file).startswith((f"{path}/", f"{path}.")) for file in files(name) or ())
    }
    # Of a package of several distributions, such as ``google``, each has a part.
    return set(map(normal, found | {top, "-".join(module.split(".")[:2])}))


def normal(distribution: str) -> str:
    """Return the name of a distribution in its normal form."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def missing_packages(text: str) -> Iterator[str]:
    """Yield each package that an example of a page imports and that its reader may not have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    words = [*project["dependencies"], *" ".join(_INSTALLED.findall(text)).replace('"', " ").split()]
    for extra in (name for word in words for name in re.findall(r"[\w-]+", word.partition(".[")[2])):
        words += project["optional-dependencies"][extra]
    installed = {normal(re.split(r"[^\w.-]", word)[0]) for word in words}
    for block in python_blocks(text):
        for module in imports(block.code):
            top, *_ = module.split(".")
            # A framework may have another name than its distribution, which only its environment has.
            is_elsewhere = top in FRAMEWORKS and not is_installed(top)
            if top != "tiercache" and not is_elsewhere and not installed & distributions_with(module):
                yield module


async def check_leaks() -> None:
    """Fail if the examples of a page have left a task."""
    for _ in range(5):
        await asyncio.sleep(0)
    # A cache that the page leaves open may still write; it ends with the loop, as in a program.
    left = [task for task in asyncio.all_tasks() if not task.get_name().startswith("tiercache-")]
    assert left == [asyncio.current_task()]


def run_page_in_thread(text: str, name: str, url: str) -> None:
    """Run a page in a thread, which has no event loop yet; raise its error here."""
    run_in_thread(lambda: run_page(text, name, url))


@pytest.fixture
def provider_server(provider: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDKs of the examples reach a local server."""
    for name, value in {
        "OPENAI_BASE_URL": provider.openai_url,
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_BASE_URL": provider.url,
        "ANTHROPIC_API_KEY": "none",
        "NO_PROXY": "127.0.0.1",
        # LiteLLM would load its prices from the network.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("page", pages(), ids=name_of)
@pytest.mark.usefixtures("provider_server")
def test_docs_examples_run(page: Path, url: str) -> None:
    text = page.read_text("utf-8")
    needed = {each for name in frameworks_of(text) for each in (name, *BESIDE.get(name, ()))}
    missing = sorted(name for name in needed if not is_installed(name))
    if missing:
        assert os.environ.get("TOX_ENV_NAME") != "frameworks", f"{missing} must be installed here"
        pytest.skip(f"{', '.join(missing)} is not installed")
    run_page_in_thread(text, name_of(page), url)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_docs_examples_import_only_packages_that_their_reader_has(page: Path) -> None:
    assert not list(missing_packages(page.read_text("utf-8")))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("```python\nimport pytest\n```", ["pytest"]),
        ("```python\nasync def f():\n    from opentelemetry.sdk.trace import X\n```", ["opentelemetry.sdk.trace"]),
        ("```python\nfrom opentelemetry import trace\n```", []),
        ('`pip install ".[openai]"`\n\n```python\nfrom openai import OpenAI\n```', []),
        ('`pip install ".[cli]"`\n\n```python\nfrom openai import OpenAI\n```', ["openai"]),
        ("`pip install pytest`\n\n```python\nimport pytest, json\n```", []),
        ("    pip install 'x' \"Py.Test>=8\"\n\n```python\nimport py_test\n```", []),
        ("```python\nimport tiercache, valkey.asyncio, prometheus_client\n```", []),
    ],
)
def test_docs_examples_check_notices_missing_package(text: str, missing: list[str]) -> None:
    assert list(missing_packages(text)) == missing


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_docs_examples_show_their_output(page: Path) -> None:
    examples = [block.code for block in python_blocks(page.read_text("utf-8")) if block.reason is None]
    assert not examples or any("assert " in code or _PRINTED.search(code) for code in examples)


def test_docs_examples_are_rarely_skipped() -> None:
    every = [block for page in pages() for block in python_blocks(page.read_text("utf-8"))]
    assert sum(block.reason is not None for block in every) <= len(every) // 20


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("```python\nassert 1 == 2\n```", AssertionError),
        ("```python\nx = 1\n```\n\ntext\n\n```python\nawait y\n```", NameError),
        (IN_A_SECOND_LOOP, RuntimeError),
        ("```python\nx = 1\n```\n\n```python\nimport asyncio\nasyncio.run(f(x))\n```", AssertionError),
        ("```python\nprint('a')  # b\n```", AssertionError),
        ("```python\nif False:\n    print('a')  # a\n```", AssertionError),
        ("```python\nimport warnings\nwarnings.warn('old', DeprecationWarning)\n```", DeprecationWarning),
        (
            "```python\nimport asyncio\nt = asyncio.create_task(asyncio.sleep(9))\nawait asyncio.sleep(0)\n```",
            AssertionError,
        ),
    ],
)
def test_docs_examples_check_notices_wrong_example(page: str, error: type[Exception], url: str) -> None:
    with pytest.raises(error):
        run_page_in_thread(page, "page.md", url)


def test_docs_examples_of_a_page_share_names(url: str) -> None:
    run_page_in_thread(
        "```python\nx = 1\n```\n\n```python\nimport asyncio\nawait asyncio.sleep(0)\nassert x == 1\n```", "p.md", url
    )


def test_docs_examples_with_a_reason_are_skipped(url: str) -> None:
    run_page_in_thread("<!-- not run: needs a key -->\n```python\nraise SystemExit\n```", "page.md", url)
