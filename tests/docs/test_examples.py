"""Every example of the README and of the docs runs, on a real Valkey, and does what it says.

The blocks of a page run in their order and share their names. A line ``print(...)  # text`` has to print that text.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import inspect
import io
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Block, blocks, name_of, pages

URL = "valkey://localhost:6379"
_PRINTED = re.compile(r"^ *print\(.*\)  # (?P<text>.+)$", re.MULTILINE)


def python_blocks(text: str) -> list[Block]:
    return [block for block in blocks(text) if block.language == "python"]


def run_page(text: str, name: str, url: str) -> None:
    """Run the blocks of one page, each on its own lines, so that a traceback shows the line of the page."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    problems: list[dict[str, Any]] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        for block in python_blocks(text):
            if block.reason is None:
                run_block(block, name, url, namespace, runner)
        runner.run(nothing_is_left())
    namespace.clear()
    gc.collect()
    assert not problems, f"{name}: {problems}"


def run_block(block: Block, name: str, url: str, namespace: dict[str, Any], runner: asyncio.Runner) -> None:
    source = "\n" * (block.line - 1) + block.code.replace(URL, url)
    code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, namespace))
        else:
            # Outside of the loop, so that an example may call asyncio.run.
            exec(code, namespace)
    assert printed.getvalue().splitlines() == _PRINTED.findall(block.code), f"{name}:{block.line} prints other lines"


async def nothing_is_left() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    # A cache that the page leaves open may still be writing; it ends with the loop, as in a program.
    left = [task for task in asyncio.all_tasks() if not task.get_name().startswith("tiercache-")]
    assert left == [asyncio.current_task()]


def in_thread(text: str, name: str, url: str) -> None:
    """Run a page in a thread, which has no event loop yet; what it raises is raised here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            run_page(text, name, url)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_the_examples_run(page: Path, url: str) -> None:
    in_thread(page.read_text("utf-8"), name_of(page), url)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_the_examples_show_what_comes_out(page: Path) -> None:
    examples = [block.code for block in python_blocks(page.read_text("utf-8")) if block.reason is None]
    assert not examples or any("assert " in code or _PRINTED.search(code) for code in examples)


def test_few_examples_are_not_run() -> None:
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
def test_a_wrong_example_is_noticed(page: str, error: type[Exception], url: str) -> None:
    with pytest.raises(error):
        in_thread(page, "page.md", url)


def test_an_example_sees_the_names_of_those_above_it(url: str) -> None:
    in_thread(
        "```python\nx = 1\n```\n\n```python\nimport asyncio\nawait asyncio.sleep(0)\nassert x == 1\n```", "p.md", url
    )


def test_an_example_with_a_reason_is_not_run(url: str) -> None:
    in_thread("<!-- not run: needs a key -->\n```python\nraise SystemExit\n```", "page.md", url)
