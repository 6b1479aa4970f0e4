"""Every example of the README and of the docs runs on a real Valkey and prints the lines that its comments show.

The blocks of a page run in their order and share their names. A line ``print(...)  # text`` must print that text.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Block, blocks, name_of, pages
from tests.support import run_in_thread

URL = "valkey://localhost:6379"
_PRINTED = re.compile(r"^ *print\(.*\)  # (?P<text>.+)$", re.MULTILINE)


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
    code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, namespace))
        else:
            # Outside the event loop, so that an example may call asyncio.run.
            exec(code, namespace)
    assert printed.getvalue().splitlines() == _PRINTED.findall(block.code), f"{name}:{block.line} prints other lines"


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


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_docs_examples_run(page: Path, url: str) -> None:
    run_page_in_thread(page.read_text("utf-8"), name_of(page), url)


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
