"""The plugin of tox that finds the interpreters of pyenv."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.mark.parametrize("variable", ["PYENV_ROOT", "HOME"])
def test_tox_finds_the_interpreters_of_pyenv_behind_all_others(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path if variable == "PYENV_ROOT" else tmp_path / ".pyenv"
    folders = [root / "versions" / name / "bin" for name in ("3.12.1", "3.13.0")]
    for folder in [*folders, root / "versions" / "2.7.18" / "bin"]:
        folder.mkdir(parents=True)
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin")
    runpy.run_path(str(ROOT / "toxfile.py"))
    assert os.environ["PATH"].split(os.pathsep) == ["/usr/bin", *map(str, folders)]


def test_tox_path_is_unchanged_without_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin")
    runpy.run_path(str(ROOT / "toxfile.py"))
    assert os.environ["PATH"] == "/usr/bin"
