"""The types of loaders are the types of results: mypy and pyright, both strict, check programs of users."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.typing.programs import accepted, accepted_betterdb, accepted_plain
from tiercache import AgentCache

pytest.importorskip("mypy", reason="the environment `types` of tox has both checkers")
pytest.importorskip("pyright", reason="the environment `types` of tox has both checkers")

# A checker that has no cache reads the stubs of the standard library first.
pytestmark = pytest.mark.timeout(300)

PROGRAMS = Path(__file__).parent / "programs"


def mypy_errors(program: Path) -> dict[int, str]:
    """Return the errors of mypy in a program, by line."""
    command = ["mypy", "--strict", "--no-error-summary", "--config-file=", "--hide-error-context", program.name]
    output = run(program, *command, f"--cache-dir={program.parent / 'mypy-cache'}")
    errors = re.findall(rf"^{re.escape(program.name)}:(\d+): error: (.*)$", output, re.MULTILINE)
    assert bool(errors) == bool(output.strip()), output
    return {int(line): message for line, message in errors}


def pyright_errors(program: Path) -> dict[int, str]:
    """Return the errors and the warnings of pyright in a program, by line."""
    settings = {"typeCheckingMode": "strict", "include": [program.name]}
    (program.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    output = json.loads(run(program, "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", "."))
    assert output["summary"]["filesAnalyzed"] == 1
    return {found["range"]["start"]["line"] + 1: found["message"] for found in output["generalDiagnostics"]}


def run(program: Path, *command: str) -> str:
    """Return what a checker prints in the folder of ``program``."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=program.parent, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


CHECKERS = [mypy_errors, pyright_errors]


@pytest.mark.parametrize("name", ["accepted.py", "accepted_betterdb.py", "accepted_plain.py"])
@pytest.mark.parametrize("checker", CHECKERS)
def test_typing_of_a_program_with_the_types_of_its_loaders_is_accepted(
    checker: Callable[[Path], dict[int, str]], name: str, tmp_path: Path
) -> None:
    program = Path(shutil.copy(PROGRAMS / name, tmp_path))
    assert checker(program) == {}


@pytest.mark.parametrize("checker", CHECKERS)
def test_typing_refuses_values_that_do_not_come_back_as_they_were(
    checker: Callable[[Path], dict[int, str]], tmp_path: Path
) -> None:
    program = Path(shutil.copy(PROGRAMS / "refused.py", tmp_path))
    lines = enumerate(program.read_text("utf-8").splitlines(), 1)
    expected = {number for number, line in lines if line.endswith("# refused")}
    assert expected
    errors = checker(program)
    assert set(errors) == expected, errors


async def test_typing_of_the_accepted_program_holds_when_it_runs(cache: AgentCache) -> None:
    await accepted.main(cache)


async def test_typing_of_the_accepted_program_with_names_of_betterdb_holds_when_it_runs(cache: AgentCache) -> None:
    await accepted_betterdb.main(cache)
    assert accepted_betterdb.options(None).tier_defaults["llm"].ttl == 3600


async def test_typing_of_the_accepted_plain_program_holds_when_it_runs(cache: AgentCache) -> None:
    accepted_plain.main(cache)
