"""Docstrings: each argument, attribute and name that a docstring of the package mentions exists."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import pytest

import tiercache

PACKAGE: Final = Path(tiercache.__file__).parent
# Names of other libraries, and of the C code of CPython.
OF_OTHERS: Final = frozenset(
    {
        "CollectorRegistry",
        "EncryptedSerializer",
        "InMemorySaver",
        "LRUCache",
        "Session",
        "TTLCache",
        "TracerProvider",
        "auto_describe",
        "dict_traverse",
        "function_tool",
        "w_object",
    }
)

# ``Class.method`` or ``name()`` in double backticks. Other code, such as commands and keys, has further characters, and
# a single letter is a byte of the wire format.
_NAME: Final = re.compile(r"``([A-Za-z_]\w+(?:\.[A-Za-z_]\w*)*)(?:\(\))?``")
# An entry of a section: one name or several, then a colon.
_ENTRY: Final = re.compile(r"    (\w+(?:, \w+)*): ")

Documented: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[str]:
    return [path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))]


def entries_of(docstring: str, section: str) -> Iterator[str]:
    """Yield the names that a section of ``docstring`` describes."""
    is_inside = False
    for line in docstring.splitlines():
        if line.strip():
            is_inside = line == f"{section}:" or (is_inside and line.startswith(" "))
        match = _ENTRY.match(line) if is_inside else None
        if match is not None:
            yield from match[1].split(", ")


def names_in(node: ast.AST) -> Iterator[str]:
    """Yield every name that the code in ``node`` defines or uses."""
    for each in ast.walk(node):
        match each:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield each.name
            case ast.Name():
                yield each.id
            case ast.Attribute():
                yield each.attr
            case ast.arg():
                yield each.arg
            case ast.keyword(arg=str(name)):
                yield name
            case ast.alias():
                yield from each.name.split(".")
            case ast.ImportFrom(module=str(module)):
                yield from module.split(".")
            case ast.Constant(value=str(text)) if text.isidentifier():
                yield text


def parameters_of(function: Function) -> set[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {each.arg for each in named if each is not None}


def members_of(node: ast.ClassDef, classes: Iterable[ast.ClassDef]) -> set[str]:
    """Return the names in the code of a class and of its bases in the package."""
    bases = (base.value if isinstance(base, ast.Subscript) else base for base in node.bases)
    names = {base.id for base in bases if isinstance(base, ast.Name)}
    inherited = (members_of(each, classes) for each in classes if each.name in names and each is not node)
    return set(names_in(node)).union(*inherited)


def unknown_entries(texts: Iterable[str]) -> Iterator[str]:
    """Yield the arguments and attributes that a docstring describes and its function or class does not have."""
    nodes = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, Documented)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    for node in nodes:
        docstring = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            members = members_of(node, classes)
            made_by = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            arguments = parameters_of(made_by[0]) if made_by else members
            yield from (f"{node.name}: {name}" for name in entries_of(docstring, "Attributes") if name not in members)
        else:
            arguments = parameters_of(node)
        yield from (f"{node.name}: {name}" for name in entries_of(docstring, "Args") if name not in arguments)


def unknown_names(texts: Iterable[str], known: set[str]) -> Iterator[str]:
    """Yield the names in double backticks that are not in ``known``."""
    for text in texts:
        for match in _NAME.finditer(text):
            if not known.issuperset(match[1].split(".")):
                yield match[0]


def test_docstrings_describe_only_arguments_and_attributes_that_exist() -> None:
    assert list(unknown_entries(sources())) == []


def test_docstrings_and_comments_name_only_code_that_exists() -> None:
    known = {*dir(builtins), *keyword.kwlist, *OF_OTHERS}
    for path in (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.lua")):
        known.update(path.relative_to(PACKAGE).with_suffix("").parts)
    for text in sources():
        known.update(names_in(ast.parse(text)))
    assert list(unknown_names(sources(), known)) == []


@pytest.mark.parametrize(
    ("source", "unknown"),
    [
        ('class A:\n    """An a.\n\n    Attributes:\n        x: Is.\n    """\n\n    x: int\n', []),
        ('class A:\n    """An a.\n\n    Attributes:\n        x, y: One is not.\n    """\n\n    x: int\n', ["A: y"]),
        ('class A:\n    x: int\n\nclass B(A):\n    """A b.\n\n    Attributes:\n        x: Is.\n    """\n', []),
        ('def f(x):\n    """Do it.\n\n    Args:\n        x: Is.\n        y: Is not.\n    """\n', ["f: y"]),
        (
            'def f(x):\n    """Do it.\n\n    Args:\n        x: Is.\n\n    Raises:\n        E: An error.\n    """\n',
            [],
        ),
    ],
)
def test_docstrings_check_notices_unknown_entry(source: str, unknown: list[str]) -> None:
    assert list(unknown_entries([source])) == unknown


def test_docstrings_check_notices_unknown_name() -> None:
    text = '"""``Aa.f`` calls ``Aa.g`` and ``hh()``, and sends ``SET key``."""'
    assert list(unknown_names([text], {"Aa", "f"})) == ["``Aa.g``", "``hh()``"]
