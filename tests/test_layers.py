"""The layers of the package: imports run downwards only, and there is no import cycle."""

from __future__ import annotations

import ast
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest

import tiercache

PACKAGE = Path(tiercache.__file__).parent

# The layers, the lowest first. A module may import modules of its own layer and of lower layers. A name may be a module
# or a folder; the most specific name counts.
LAYERS: list[set[str]] = [
    {"errors"},
    {"clock", "ttl", "text", "identity", "locks", "lua", "log", "version"},
    {"scopes"},
    {"supervision", "portal"},
    {"agents"},
    {"option_checks", "options", "tier_options"},
    {"engine", "engine.entries"},
    {"engine.memory"},
    {"engine.call"},
    {"engine.level2"},
    {"engine.coherence"},
    {"engine.runtime"},
    {"engine.engine"},
    {"engine.operations"},
    {"streams"},
    {"stores", "telemetry", "pricing", "indexes"},
    {"tiers", "tiers.keys", "tiers.values"},
    {"tiers.tier", "tiers.result", "tiers.pinning"},
    {"decorators"},
    {
        "tiers.llm",
        "tiers.tool",
        "tiers.kv",
        "tiers.session",
        "tiers.checkpoints",
        "tiers.conversations",
        "tiers.items",
        "monitor",
    },
    {"embedded", "settings"},
    {"tier_servers"},
    {"shared_parts"},
    {"side"},
    {"assembly"},
    {"verification"},
    {"cache_operations", "hooks"},
    {"configurable"},
    {"sync"},
    {"adapters.http"},
    {"agent_cache"},
    {"adapters", "testing", "cli", "__main__", "__init__"},
    {"compat"},
]
# Folders on one layer that must not import each other.
APART = [
    {"tiers", "monitor"},
    {"tiers.llm", "tiers.tool", "tiers.kv", "tiers.session", "tiers.checkpoints", "tiers.conversations", "tiers.items"},
]
# Libraries, and the only folders that may import them.
ONLY_IN = {"valkey": {"stores"}, "prometheus_client": {"telemetry"}, "opentelemetry": {"telemetry"}}


def modules() -> tuple[Path, ...]:
    return modules_in(PACKAGE)


@cache
def modules_in(package: Path) -> tuple[Path, ...]:
    return tuple(sorted(package.rglob("*.py")))


@cache
def names_in(package: Path) -> frozenset[str]:
    """Return the names of the modules of ``package``."""
    return frozenset(name_of(module).removesuffix(".__init__") for module in modules_in(package))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def layer_of(module: str) -> int:
    """Return the layer of the longest name in LAYERS that is ``module`` or a folder around it."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        for index, layer in enumerate(LAYERS):
            if name in layer:
                return index
    raise AssertionError(f"{module} is on no layer")


def is_inside(module: str, folder: str) -> bool:
    return f"{module}.".startswith(f"{folder}.")


@cache
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
            # An imported name may itself be a module: ``from ..operations import state``.
            found += [(True, ".".join(filter(None, (target, alias.name)))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module.split(".")[0] == "tiercache", node.module))
    return found


def inner_imports(path: Path) -> set[str]:
    """Return the modules of the package that ``path`` imports."""
    known = names_in(PACKAGE)
    names = [module for inside, module in imports_of(path) if inside]
    # "engine.l1.L1" stands for its module, "operations.state" for itself.
    return {name if name in known or "." not in name else name.rpartition(".")[0] for name in names}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_layers_import_downwards_only(path: Path) -> None:
    for module in inner_imports(path):
        assert not module.startswith("tiercache"), f"{name_of(path)} imports itself by its public name"
        assert layer_of(module) <= layer_of(name_of(path)), f"{name_of(path)} imports {module} upwards"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_layers_keep_separate_folders_apart(path: Path) -> None:
    module = name_of(path)
    for folders in APART:
        for own, other in permutations(sorted(folders), 2):
            if is_inside(module, own):
                assert not any(is_inside(target, other) for target in inner_imports(path)), f"{module} imports {other}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_layers_import_library_only_in_its_folder(path: Path) -> None:
    for inside, module in imports_of(path):
        library = module.split(".")[0]
        if not inside and library in ONLY_IN:
            assert any(is_inside(name_of(path), folder) for folder in ONLY_IN[library]), f"{path} imports {module}"


def test_layers_contain_no_import_cycle() -> None:
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


def test_layers_check_notices_upward_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "engine" / "memory").mkdir(parents=True)
    bad = tmp_path / "engine" / "memory" / "bad.py"
    for line in (
        "from ...tiers.llm.tier import LlmTier",
        "from ..level2 import breaker",
        "from ..engine import Engine",
    ):
        bad.write_text(f"def f():\n    {line}\n")
        with pytest.raises(AssertionError, match="upwards"):
            test_layers_import_downwards_only(bad)


def test_layers_check_notices_import_between_separate_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "monitor").mkdir()
    bad = tmp_path / "monitor" / "bad.py"
    bad.write_text("from ..tiers.tool.policies import ToolPolicies\n")
    with pytest.raises(AssertionError, match=r"monitor\.bad imports tiers"):
        test_layers_keep_separate_folders_apart(bad)


def test_public_names_exist_once() -> None:
    assert all(hasattr(tiercache, name) for name in tiercache.__all__)
    assert len(set(tiercache.__all__)) == len(tiercache.__all__)
