"""The page tests/README.md names files, tests, guards, seams and fixtures that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests import seams
from tests.testing.coherence.guards import GUARDS

TESTS: Final = Path(__file__).parent
README: Final = (TESTS / "README.md").read_text("utf-8")


def functions_named(pattern: str) -> set[str]:
    """Return the functions of the tests whose name matches ``pattern``."""
    source = "\n".join(path.read_text("utf-8") for path in TESTS.rglob("*.py"))
    return set(re.findall(rf"^(?:async )?def ({pattern})\(", source, re.MULTILINE))


def test_readme_names_paths_that_exist() -> None:
    paths = set(re.findall(r"\btests/[\w/]+(?:\.py)?", README))
    assert len(paths) > 50
    assert not {path for path in paths if not (TESTS.parent / path).exists()}


def test_readme_names_every_test_file_of_engine_and_tiers() -> None:
    folders = (TESTS / "engine", TESTS / "tiers")
    files = {path.relative_to(TESTS.parent).as_posix() for folder in folders for path in folder.rglob("test_*.py")}
    assert not {file for file in files if f"`{file}`" not in README}


def test_readme_names_tests_that_exist() -> None:
    named = set(re.findall(r"\btest_\w+(?!\w*\.py)\b", README))
    files = {path.stem for path in TESTS.rglob("test_*.py")}
    assert len(named - files) > 10
    assert not named - files - functions_named(r"test_\w+")


def test_readme_names_every_guard() -> None:
    rows = {line.split("|")[1].strip() for line in README.splitlines() if line.startswith("|")}
    assert not {guard.name for guard in GUARDS} - rows
    assert not {f"`{name}`" for name in seams.__all__ if name.startswith("without_")} - set(
        re.findall(r"`\w+`", README)
    )


def test_readme_names_fixtures_that_exist() -> None:
    rows = [line.split("|")[1] for line in README.splitlines() if "| fixture |" in line]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(named) > 10
    assert not named - functions_named(r"\w+")
