"""The limits of the house, measured over the source of the package: parameters, sizes, the engine as argument, logs.

Each check is a function from modules to violations. Beside each check there is a test that it notices a bad source.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import pytest

import tiercache

PACKAGE: Final = Path(tiercache.__file__).parent
TESTS: Final = Path(__file__).parent

MAX_PARAMETERS: Final = 6
MAX_LONG_SIGNATURES: Final = 4
MAX_BODY_LINES: Final = 50
MAX_MODULE_LINES: Final = 400
MAX_ENGINE_FIRST: Final = 4

# The modules of the tests that may reach private parts of the package: the seams, and the guards that only the
# coherence checker can see removed.
SEAMS: Final = ("seams.py", "testing/coherence/guards.py", "testing/coherence/interest_guards.py")

AnyFunction: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """A module of the package.

    Attributes:
        name: Its path, from the package.
    """

    name: str
    source: str


@dataclass(frozen=True)
class Function:
    """A function or method of a module.

    Attributes:
        owner: The name of its class, or None for a function.
        comment: Whether a comment stands directly above it.
    """

    module: str
    owner: str | None
    node: AnyFunction
    comment: bool

    @property
    def name(self) -> str:
        """Where the function is, and its name."""
        owner = "" if self.owner is None else f"{self.owner}."
        return f"{self.module}:{self.node.lineno} {owner}{self.node.name}"

    @property
    def is_constructor(self) -> bool:
        """Whether the function makes an object of its class."""
        return self.node.name in ("__init__", "__new__", "__post_init__")

    @property
    def positional(self) -> list[str]:
        """The names of the parameters that may be given by position, without ``self`` and ``cls``."""
        arguments = self.node.args
        names = [argument.arg for argument in arguments.posonlyargs + arguments.args]
        return names[1:] if self.owner is not None and names[:1] in (["self"], ["cls"]) else names

    @property
    def keyword_only(self) -> list[str]:
        """The names of the parameters that must be given by keyword."""
        return [argument.arg for argument in self.node.args.kwonlyargs]

    def is_public(self, public: frozenset[str]) -> bool:
        """Return whether users call the function by a name of ``public``: its own, or that of its class."""
        name = self.owner or self.node.name
        return name in public and (self.is_constructor or not self.node.name.startswith("_"))

    def is_decorated_by(self, *names: str) -> bool:
        """Return whether a decorator of one of ``names`` is applied: ``overload``, ``app.command``."""
        for decorator in self.node.decorator_list:
            target = decorator.func if isinstance(decorator, ast.Call) else decorator
            if (target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", None)) in names:
                return True
        return False


Check: TypeAlias = Callable[[Iterable[Module]], list[str]]


def package_modules() -> list[Module]:
    """Return every module of the package."""
    return [
        Module(path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
    ]


def functions_of(module: Module) -> Iterator[Function]:
    """Yield the functions of a module, nested functions included."""
    lines = module.source.splitlines()

    def visit(node: ast.AST, owner: str | None) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, AnyFunction):
                first_line = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                above = lines[first_line - 2].strip() if first_line > 1 else ""
                yield Function(module.name, owner, child, above.startswith("#"))
                yield from visit(child, None)
            else:
                yield from visit(child, child.name if isinstance(child, ast.ClassDef) else owner)

    yield from visit(ast.parse(module.source), None)


def public_names(modules: Iterable[Module]) -> frozenset[str]:
    """Return the names in the ``__all__`` of the packages: the names by which users reach classes and functions."""
    names: set[str] = set()
    for module in modules:
        if not module.name.endswith("__init__.py"):
            continue
        for node in ast.parse(module.source).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names.update(ast.literal_eval(node.value))
    return frozenset(names)


def long_signatures(modules: Iterable[Module]) -> list[str]:
    """Return the functions with more than MAX_PARAMETERS parameters.

    Not counted are ``self`` and ``cls``, keyword-only options of public functions and methods, and the options of
    commands.
    """
    modules = list(modules)
    public = public_names(modules)
    found = []
    for module in modules:
        for function in functions_of(module):
            if function.is_decorated_by("overload", "command", "callback"):
                continue
            options = 0 if function.is_public(public) else len(function.keyword_only)
            if (count := len(function.positional) + options) > MAX_PARAMETERS:
                found.append(f"{function.name}: {count} parameters")
    return found


def long_bodies(modules: Iterable[Module]) -> list[str]:
    """Return the functions whose body, without the docstring, is longer than MAX_BODY_LINES."""
    found = []
    for module in modules:
        for function in functions_of(module):
            body = function.node.body[ast.get_docstring(function.node) is not None :]
            count = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if count > MAX_BODY_LINES:
                found.append(f"{function.name}: {count} lines")
    return found


def long_modules(modules: Iterable[Module]) -> list[str]:
    """Return the modules longer than MAX_MODULE_LINES."""
    counts = {module.name: len(module.source.splitlines()) for module in modules}
    return [f"{name}: {count} lines" for name, count in counts.items() if count > MAX_MODULE_LINES]


def engine_first(modules: Iterable[Module]) -> list[Function]:
    """Return the functions, but for constructors, whose first parameter is ``engine`` or ``runtime``."""
    return [
        function
        for module in modules
        for function in functions_of(module)
        if not function.is_constructor and function.positional[:1] in (["engine"], ["runtime"])
    ]


def too_many_engine_first(modules: Iterable[Module]) -> list[str]:
    """Return the functions of ``engine_first``, if there are more than MAX_ENGINE_FIRST."""
    found = engine_first(modules)
    return [function.name for function in found] if len(found) > MAX_ENGINE_FIRST else []


def unexplained_engine_first(modules: Iterable[Module]) -> list[str]:
    """Return the functions of ``engine_first`` without a reason: a comment above, or the parameter in the docstring."""
    found = []
    for function in engine_first(modules):
        docstring = ast.get_docstring(function.node) or ""
        if not function.comment and f"``{function.positional[0]}``" not in docstring:
            found.append(function.name)
    return found


def logs_without_cache(modules: Iterable[Module]) -> list[str]:
    """Return the uses of ``logging`` outside log.py that write lines, or make a logger that could write lines.

    A program may set the level of the logger: ``logging.getLogger("tiercache").setLevel(...)``.
    """
    writers = ("debug", "info", "warning", "error", "exception", "critical", "log")
    found = []
    for module in modules:
        if module.name == "log.py":
            continue
        tree = ast.parse(module.source)
        configured = {
            id(node.func.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setLevel"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "logging":
                found += [
                    f"{module.name}:{node.lineno} {alias.name}" for alias in node.names if alias.name == "getLogger"
                ]
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if getattr(node.func.value, "id", None) != "logging" or id(node) in configured:
                continue
            if node.func.attr == "getLogger" or node.func.attr in writers:
                found.append(f"{module.name}:{node.lineno} logging.{node.func.attr}")
    return found


def private_reaches(modules: Iterable[Module]) -> list[str]:
    """Return the accesses of tests to private parts: ``._name`` of another object, and patches of attributes.

    Not counted are patches of Python, of other packages and of the benchmarks: ``monkeypatch.setattr(sys, ...)``.
    """
    of_python = {"_exit", "_set_running_loop", "_log_destroy_pending"}
    found = []
    for module in modules:
        tree = ast.parse(module.source)
        foreign = _foreign_names(tree)
        foreign_patches = {
            id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_of(node.args[:1], foreign)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            is_private = node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in of_python
            is_own = getattr(node.value, "id", None) in ("self", "cls")
            is_patch = node.attr == "setattr" and id(node) not in foreign_patches
            if (is_private and not is_own) or is_patch:
                found.append(f"{module.name}:{node.lineno} {ast.unparse(node)}")
    return found


def _foreign_names(tree: ast.AST) -> set[str]:
    """Return the names that a module imports from elsewhere than from the package and the tests."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not _is_ours(node.module or ""):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names if not _is_ours(alias.name))
    return names


def _is_ours(path: str) -> bool:
    return path.split(".")[0] in ("tiercache", "tests")


def _is_of(arguments: list[ast.expr], names: set[str]) -> bool:
    """Return whether the first argument is one of ``names``, an attribute of one, or the path of such a thing."""
    for argument in arguments:
        if isinstance(argument, ast.Constant):
            return isinstance(argument.value, str) and not _is_ours(argument.value)
        root = argument
        while isinstance(root, ast.Attribute):
            root = root.value
        return isinstance(root, ast.Name) and root.id in names
    return False


# The package


def test_house_limits_long_signatures() -> None:
    assert len(found := long_signatures(package_modules())) <= MAX_LONG_SIGNATURES, "\n".join(found)


def test_house_limits_length_of_bodies() -> None:
    assert not (found := long_bodies(package_modules())), "\n".join(found)


def test_house_limits_length_of_modules() -> None:
    assert not (found := long_modules(package_modules())), "\n".join(found)


def test_house_limits_functions_that_take_the_engine_first() -> None:
    assert not (found := too_many_engine_first(package_modules())), "\n".join(found)


def test_house_explains_functions_that_take_the_engine_first() -> None:
    assert not (found := unexplained_engine_first(package_modules())), "\n".join(found)


def test_house_writes_every_log_line_through_cache_log() -> None:
    assert not (found := logs_without_cache(package_modules())), "\n".join(found)


def test_house_finds_public_names_and_functions() -> None:
    modules = package_modules()
    assert public_names(modules) >= set(tiercache.__all__)
    assert len([function for module in modules for function in functions_of(module)]) > 500


def test_house_lets_tests_reach_private_parts_only_through_seams() -> None:
    modules = [Module(path.relative_to(TESTS).as_posix(), path.read_text("utf-8")) for path in TESTS.rglob("*.py")]
    modules = [module for module in modules if module.name not in SEAMS]
    assert len(modules) > 100
    assert not (found := private_reaches(modules)), "\n".join(found)


# The checks

_SEVEN = "def {name}(a, b, c, d, *, e, f, g):\n    pass\n"


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        (_SEVEN.format(name="f"), True),
        ("def f(a, b, c, *, d, e, f):\n    pass\n", False),
        (_SEVEN.format(name="_f"), True),
        (_SEVEN.format(name="public"), False),
        ("def public(a, b, c, d, e, f, g):\n    pass\n", True),
        ("class Public:\n    def __init__(self, a, *, b, c, d, e, f, g):\n        pass\n", False),
        ("class Public:\n    def _f(self, a, *, b, c, d, e, f, g):\n        pass\n", True),
        ("class C:\n    async def f(self, a, b, c, d, e, f):\n        pass\n", False),
        ("class C:\n    async def f(self, a, b, c, d, e, f, g):\n        pass\n", True),
        ("def outer():\n    def f(a, b, c, d, e, f, g):\n        pass\n", True),
        ("@app.command()\ndef f(a, b, c, d, e, f, g):\n    pass\n", False),
    ],
)
def test_house_check_notices_long_signature(source: str, is_found: bool) -> None:
    modules = [Module("__init__.py", '__all__ = ["Public", "public"]\n'), Module("bad.py", source)]
    assert bool(long_signatures(modules)) is is_found


@pytest.mark.parametrize("count", [50, 51])
def test_house_check_notices_long_body(count: int) -> None:
    source = 'def f():\n    """Say.\n\n    More.\n    """\n' + "    pass\n" * count
    assert bool(long_bodies([Module("bad.py", source)])) is (count == 51)


@pytest.mark.parametrize("count", [400, 401])
def test_house_check_notices_long_module(count: int) -> None:
    assert bool(long_modules([Module("bad.py", "pass\n" * count)])) is (count == 401)


def test_house_check_notices_functions_that_take_the_engine_first() -> None:
    source = "".join(f"def f{n}({name}, a):\n    pass\n" for n, name in enumerate(["engine", "runtime"] * 2))
    within = "class C:\n    def __init__(self, engine):\n        pass\n\n    def f(self, a, engine):\n        pass\n"
    assert not too_many_engine_first([Module("good.py", source + within)])
    assert len(too_many_engine_first([Module("bad.py", source + "class C:\n    def f(self, engine): ...\n")])) == 5


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ('def f(engine):\n    """Load."""\n', True),
        ('def f(engine):\n    """Load; takes ``engine`` because the caller has no more of it."""\n', False),
        ("# The engine is all that the caller has.\n@cached\ndef f(engine):\n    pass\n", False),
        ("# Far away.\n\ndef f(runtime):\n    pass\n", True),
    ],
)
def test_house_check_notices_unexplained_function_that_takes_the_engine_first(source: str, is_found: bool) -> None:
    assert bool(unexplained_engine_first([Module("bad.py", source)])) is is_found


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ('import logging\n_LOGGER = logging.getLogger("tiercache")\n', True),
        ('from logging import getLogger\ngetLogger("tiercache").warning("x")\n', True),
        ('import logging\nlogging.warning("x")\n', True),
        ('import logging\nlogging.getLogger("tiercache").setLevel(logging.ERROR)\n', False),
        ('class C:\n    def f(self):\n        self._log.warning("x")\n', False),
    ],
)
def test_house_check_notices_log_line_without_cache(source: str, is_found: bool) -> None:
    assert bool(logs_without_cache([Module("bad.py", source)])) is is_found
    assert not logs_without_cache([Module("log.py", source)])


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("assert cache._engine.l1\n", True),
        ('monkeypatch.setattr(ValkeyLevel2, "apply", held)\n', True),
        ("class C:\n    def f(self):\n        return self._value\n", False),
        ("os._exit(1)\n", False),
        ('import sys\nmonkeypatch.setattr(sys, "argv", [])\n', False),
        ('import random\nmonkeypatch.setattr(random.Random, "uniform", f)\n', False),
        ('monkeypatch.setattr("signal.signal", f)\n', False),
        ('monkeypatch.setattr("tiercache.embedded.find_spec", f)\n', True),
        ('from tiercache.monitor import service\nmonkeypatch.setattr(service, "SECONDS", 1)\n', True),
        ('import tiercache\nmonkeypatch.setattr(tiercache.ttl, "jitter", f)\n', True),
        ("import sys\npatch = monkeypatch.setattr\n", True),
        ("without_fences(monkeypatch)\n", False),
    ],
)
def test_house_check_notices_private_reach(source: str, is_found: bool) -> None:
    assert bool(private_reaches([Module("bad.py", source)])) is is_found
