"""Child processes of tests do not inherit ignored signals."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.child_processes import python_with_default_signals

SHOW_HANDLER = "import signal, sys; print(signal.getsignal(int(sys.argv[1])) is signal.SIG_IGN)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_child_process_restores_the_default_handler_of_an_ignored_signal(number: signal.Signals) -> None:
    arguments = ["-c", SHOW_HANDLER, str(int(number))]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        inherited = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
        restored = subprocess.run(python_with_default_signals(*arguments), capture_output=True, text=True, check=True)
    finally:
        signal.signal(number, before)
    assert (inherited.stdout, restored.stdout) == ("True\n", "False\n")
