"""Plain English: at most two riddle words in 1,000, and no banned phrase, in every text that people read.

``python -m tests.plain_english [path ...]`` prints each hit with its place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.plain_english import BANNED, MAX_RATE, RIDDLES, ROOT, Passage, files_in, hits_in, passages, rate_of

MAX_FIRST_LINE: Final = 120

_PROSE: Final = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/README.md", "benchmarks/README.md")
# The texts, by their readers. The limits hold for each of them.
AREAS: Final = {
    "package": [ROOT / "tiercache"],
    "docs": [ROOT / "docs", *(ROOT / name for name in _PROSE)],
    "tests": [ROOT / "tests", ROOT / "benchmarks"],
}
areas = pytest.mark.parametrize("area", AREAS)


@cache
def texts_of(area: str) -> list[Passage]:
    """Return the docstrings, comments, messages and prose of an area."""
    return [passage for path in files_in(AREAS[area]) for passage in passages(path)]


def places(found: Iterator[tuple[Passage, int, str]]) -> list[str]:
    """Return a line for each hit: its place and its words."""
    return [f"{passage.path.relative_to(ROOT)}:{line}: {words!r}" for passage, line, words in found]


def wrong_first_lines(path: Path) -> Iterator[str]:
    """Yield the docstrings of a module whose first line is too long, or does not end a sentence."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring is not None:
            first = docstring.partition("\n")[0]
            if len(first) > MAX_FIRST_LINE or not first.endswith("."):
                yield f"{path}:{node.body[0].lineno}: {first}"


@areas
def test_plain_english_has_few_riddle_words(area: str) -> None:
    texts = texts_of(area)
    rate = rate_of(texts)
    assert rate <= MAX_RATE, f"{rate:.1f} riddle words in 1,000:\n" + "\n".join(places(hits_in(RIDDLES, texts)))


@areas
def test_plain_english_has_no_banned_phrase(area: str) -> None:
    assert not (found := places(hits_in(BANNED, texts_of(area)))), "\n".join(found)


def test_plain_english_first_lines_are_short_sentences() -> None:
    found = [line for path in sorted((ROOT / "tiercache").rglob("*.py")) for line in wrong_first_lines(path)]
    assert not found, "\n".join(found)


def test_plain_english_covers_every_kind_of_text() -> None:
    for area, folders in AREAS.items():
        assert all(folder.exists() for folder in folders), area
        assert len(texts_of(area)) > 500
    suffixes = {passage.path.suffix for passage in texts_of("package")}
    assert suffixes == {".py", ".lua"}


# The checks


@pytest.mark.parametrize(
    ("name", "source", "riddles", "banned"),
    [
        ("bad.py", '"""What is loaded meanwhile."""\n', ["What"], ["meanwhile"]),
        ("bad.py", "x = 1  # Whoever comes next starts anew.\n", ["Whoever"], ["Whoever", "anew"]),
        ("bad.py", 'raise ValueError("nobody has been told of it")\n', ["nobody"], ["nobody", "told"]),
        ("bad.py", 'log.warning(f"{n} keys are to be read by whom?")\n', ["whom"], ["are to be"]),
        ("bad.lua", "return 1 -- what was heard\n", ["what"], ["heard"]),
        ("bad.md", "# Title\n\nSomebody is said to\nhear.\n", ["Somebody"], ["said", "hear"]),
        ("bad.py", "# A value in place\n# of who\nx = 1\n", ["who"], ["in place\nof"]),
        (
            "good.py",
            'def f():\n    """Return ``what`` of ``told of``."""\n    return {"what": "heard"}  # `who`\n',
            [],
            [],
        ),
        ("good.md", "The option `what` is `None`.\n\n```python\nwhat = who(nobody)  # heard\n```\n", [], []),
        ("good.md", "A page <!-- what nobody reads --> links to https://example.org/who-is-to-be.\n", [], []),
        ("good.py", '"""``A`` tells ``B`` of nothing."""\n', [], []),
        ("good.lua", 'local what = "heard" -- The argument.\n', [], []),
    ],
)
def test_plain_english_check_notices_hits_outside_code(
    tmp_path: Path, name: str, source: str, riddles: list[str], banned: list[str]
) -> None:
    path = tmp_path / name
    path.write_text(source, "utf-8")
    texts = list(passages(path))
    assert texts
    assert [words for _, _, words in hits_in(RIDDLES, texts)] == riddles
    assert [words for _, _, words in hits_in(BANNED, texts)] == banned
    assert (rate_of(texts) > MAX_RATE) is bool(riddles)


@pytest.mark.parametrize(
    ("docstring", "is_found"),
    [
        ("Return the value.", False),
        ("Return the value", True),
        ("Return the value\n    of a key.", True),
        ("Return the value.\n\n    It may be None", False),
        (f"Return {'x' * 112}.", False),
        (f"Return {'x' * 113}.", True),
    ],
)
def test_plain_english_check_notices_wrong_first_line(tmp_path: Path, docstring: str, is_found: bool) -> None:
    path = tmp_path / "bad.py"
    path.write_text(f'def f():\n    """{docstring}"""\n', "utf-8")
    assert bool(list(wrong_first_lines(path))) is is_found
