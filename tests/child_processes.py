"""Child processes of tests: a start with the default signal handlers, and the table of processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["PROC", "process_table", "python_with_default_signals", "wait_until"]

PROC: Final = Path("/proc")

# A child inherits the signals that its parent ignores: SIGHUP under ``nohup``, SIGINT in the background jobs of a shell
# without job control. A test that sends such a signal would wait in vain. The child restores the handlers itself,
# because ``preexec_fn`` is unsafe beside threads, and warns about them from Python 3.12 on.
_RESTORE_HANDLERS: Final = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def python_with_default_signals(*arguments: str) -> list[str]:
    """Return the command that runs Python with ``arguments``, SIGINT, SIGHUP and SIGTERM not ignored.

    The process id stays the same: the process replaces its own program.
    """
    return [sys.executable, "-c", _RESTORE_HANDLERS, *arguments]


def wait_until(condition: Callable[[], bool], expected: str, deadline: float = 40.0) -> None:
    """Poll until ``condition`` holds; fail after ``deadline`` seconds.

    Args:
        expected: Names the condition in the failure.
    """
    give_up_at = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {deadline:g} s: {expected}"
        time.sleep(0.01)


def process_table() -> dict[int, tuple[int, str]]:
    """Return the parent and the command line of every process by its id, without zombies."""
    table = {}
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
            except OSError:  # The process has ended since the folder was listed.
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                table[int(folder.name)] = (int(parent), command.replace(b"\0", b" ").decode(errors="replace"))
    return table
