"""The layers of the package: imports run downwards only, and nothing runs in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tiercache

PACKAGE = Path(tiercache.__file__).parent

# From the lowest up. A module may import its own layer and those below it.
LAYERS: list[set[str]] = [
    {"errors"},
    {"engine"},
    {"options"},
    {"l2", "telemetry", "pricing"},
    {"tiers", "monitor"},
    {"stats", "embedded"},
    {"agent_cache"},
    {"adapters", "testing", "cli", "__main__", "__init__"},
]
# The only place for what talks to Valkey, and what the engine must never know.
ONLY_IN = {"valkey": {"l2"}, "prometheus_client": {"telemetry"}, "opentelemetry": {"telemetry"}}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def part_of(module: str) -> str:
    return module.split(".")[0]


def layer_of(module: str) -> int:
    (layer,) = (index for index, layer in enumerate(LAYERS) if part_of(module) in layer)
    return layer


def imports_of(path: Path) -> list[tuple[bool, str]]:
    """Return (inside the package, module) of every import, also those inside functions."""
    found = []
    own = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0] == "tiercache", alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = own[: len(own) - node.level]
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found += [(True, target or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module.split(".")[0] == "tiercache", node.module))
    return found


def inner_imports(path: Path) -> set[str]:
    return {module for inside, module in imports_of(path) if inside}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_run_downwards(path: Path) -> None:
    for module in inner_imports(path):
        assert not module.startswith("tiercache"), f"{name_of(path)} imports itself by its public name"
        assert layer_of(module) <= layer_of(name_of(path)), f"{name_of(path)} imports {module} upwards"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    for inside, module in imports_of(path):
        if not inside and module.split(".")[0] in ONLY_IN:
            assert part_of(name_of(path)) in ONLY_IN[module.split(".")[0]], f"{name_of(path)} imports {module}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name_of(path).removesuffix(".__init__"): inner_imports(path) for path in modules()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_an_upward_import_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "engine").mkdir()
    bad = tmp_path / "engine" / "bad.py"
    bad.write_text("def f():\n    from ..tiers.llm import LlmTier\n")
    with pytest.raises(AssertionError, match="upwards"):
        test_imports_run_downwards(bad)


def test_every_public_name_exists_once() -> None:
    assert all(hasattr(tiercache, name) for name in tiercache.__all__)
    assert len(set(tiercache.__all__)) == len(tiercache.__all__)
