"""Plain English: counts riddle words and finds banned phrases in docstrings, comments, log and error texts, and docs.

``python -m tests.plain_english [path ...]`` prints every hit with its place, and the rate, for the given files and
folders; without arguments for the whole repository. ``test_plain_english.py`` holds the limits.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["BANNED", "MAX_RATE", "RIDDLES", "Passage", "hits_in", "passages", "rate_of"]

ROOT = Path(__file__).parent.parent
# Riddle words allowed in 1,000 words.
MAX_RATE = 2.0
RIDDLES = re.compile(r"\b(what|whatever|who|whoever|whom|whomever|nobody|somebody)\b", re.IGNORECASE)
# Each has a plainer word: see docs/glossary.md and CONTRIBUTING.md.
_PHRASES = (
    r"anew|likewise|meanwhile|whomever|whoever|nobody|well or ill|said once|in place of|in the place of|"
    r"tak(?:e|es|en|ing) down|(?:is|are) to be|com(?:e|es|ing) to|None for none|"
    r"hear|hears|heard|hearing|said|told|tell(?:s|ing)? of|word of"
)
# A phrase may be broken over two lines.
BANNED = re.compile(rf"\b({_PHRASES})\b".replace(" ", r"\s+"), re.IGNORECASE)
_PROSE_FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/README.md", "benchmarks/README.md")
_CODE_FOLDERS = ("tiercache", "tests", "benchmarks")
# Code in prose: names may hold any word.
_CODE_SPANS = re.compile(r"```.*?```|``.*?``|`[^`\n]*`|https?://\S+", re.DOTALL)
_COMMENT_IN_MARKDOWN = re.compile(r"<!--.*?-->", re.DOTALL)


class Passage(NamedTuple):
    """A text that people read.

    Attributes:
        path: The file.
        line: Its first line, from 1.
        text: The text, without code spans.
    """

    path: Path
    line: int
    text: str


def passages(path: Path) -> Iterator[Passage]:
    """Yield the texts in a Python, Lua or Markdown file: docstrings, comments, messages, prose."""
    source = path.read_text("utf-8")
    if path.suffix == ".md":
        prose = _blanked(_COMMENT_IN_MARKDOWN, _blanked(_CODE_SPANS, source))
        yield from _joined(path, ((number, line) for number, line in enumerate(prose.splitlines(), 1) if line.strip()))
    elif path.suffix == ".lua":
        lines = enumerate(source.splitlines(), 1)
        yield from _joined(path, ((number, line.partition("--")[2]) for number, line in lines if "--" in line))
    else:
        yield from _in_python(path, source)


def _joined(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Passage]:
    """Yield each run of consecutive ``lines``, numbered lines of text, as one passage."""
    run: list[str] = []
    first = 0
    for number, line in lines:
        if run and number != first + len(run):
            yield Passage(path, first, "\n".join(run))
            run = []
        first = first if run else number
        run.append(line)
    if run:
        yield Passage(path, first, "\n".join(run))


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("#").strip()
            if not text.startswith(("noqa", "type:", "pragma:")):
                yield token.start[0], _blanked(_CODE_SPANS, text)


def _in_python(path: Path, source: str) -> Iterator[Passage]:
    yield from _joined(path, _comments(source))
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                yield Passage(path, first.lineno, _blanked(_CODE_SPANS, first.value.value))
        elif isinstance(node, ast.Call) and _is_message(node):
            yield from _messages(path, node)


def _is_message(call: ast.Call) -> bool:
    """Return whether the call logs, warns, or makes an error."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name.endswith("Error") or name in ("debug", "info", "warning", "error", "exception", "warn_once")


def _messages(path: Path, call: ast.Call) -> Iterator[Passage]:
    for argument in call.args:
        for node in ast.walk(argument):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield Passage(path, node.lineno, _blanked(_CODE_SPANS, node.value))


def _blanked(pattern: re.Pattern[str], text: str) -> str:
    # By a dot for each character: the words around a code span are not one phrase.
    return pattern.sub(lambda match: re.sub(r"[^\n]", ".", match[0]), text)


def rate_of(texts: Iterable[Passage]) -> float:
    """Return the riddle words in 1,000 words."""
    words = riddles = 0
    for passage in texts:
        words += len(re.findall(r"[A-Za-z][A-Za-z'-]*", passage.text))
        riddles += len(RIDDLES.findall(passage.text))
    return 1000 * riddles / words if words else 0.0


def hits_in(pattern: re.Pattern[str], texts: Iterable[Passage]) -> Iterator[tuple[Passage, int, str]]:
    """Yield each match of ``pattern``: its passage, its line, its words."""
    for passage in texts:
        for match in pattern.finditer(passage.text):
            yield passage, passage.line + passage.text[: match.start()].count("\n"), match[0]


def files_in(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the files with texts in ``folders``, which may be files themselves."""
    for folder in folders:
        found = [folder] if folder.is_file() else sorted(folder.rglob("*"))
        yield from (p for p in found if p.suffix in (".py", ".md", ".lua") and "site" not in p.parts)


def main(arguments: list[str]) -> None:
    """Print the hits in ``arguments``, paths, and the rate."""
    named = [Path(argument).resolve() for argument in arguments]
    folders = named or [ROOT / name for name in (*_CODE_FOLDERS, "docs", *_PROSE_FILES) if (ROOT / name).exists()]
    texts = [passage for path in files_in(folders) for passage in passages(path)]
    for pattern in (BANNED, RIDDLES):
        for passage, line, words in hits_in(pattern, texts):
            print(f"{passage.path.relative_to(ROOT)}:{line}: {words!r}")
    print(f"{rate_of(texts):.1f} riddle words in 1,000 (at most {MAX_RATE})")


if __name__ == "__main__":
    main(sys.argv[1:])
