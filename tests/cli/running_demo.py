"""A demo in its own process; the tests find its children through /proc."""

import os
import signal
import subprocess
from pathlib import Path

from tests.child_processes import process_table, python_with_default_signals, wait_until


class RunningDemo:
    """A demo in its own process, with its own folder for temporary files."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        self.temporary = temporary
        self._seen: dict[int, str] = {}
        self.process = subprocess.Popen(
            python_with_default_signals("-m", "tiercache", "demo", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "80"},
            start_new_session=True,
        )

    def children(self) -> dict[int, str]:
        """Return the command lines of all descendants of the demo by process id, and remember them."""
        table = process_table()
        family, found = {self.process.pid}, dict[int, str]()
        while more := {pid: line for pid, (parent, line) in table.items() if parent in family and pid not in family}:
            family |= set(more)
            found |= more
        self._seen |= found
        return found

    def press(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def wait_for_children(self, part: str, count: int = 1) -> list[int]:
        """Wait for ``count`` descendants with ``part`` in their command line; return their ids."""

        def found() -> list[int]:
            return [pid for pid, line in self.children().items() if part in line]

        wait_until(lambda: self.process.poll() is not None or len(found()) >= count, f"{count} processes with {part!r}")
        return found()

    def wait_for_line(self, part: str) -> None:
        """Wait until standard output has a line with ``part``."""
        assert self.process.stdout is not None
        assert any(part in line for line in self.process.stdout), f"the demo never printed {part!r}"

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and the output on standard error."""
        _, errors = self.process.communicate(timeout=40)
        return self.process.returncode, errors

    def left_over(self) -> list[str]:
        """Return the remembered descendants that still run, and the files in the temporary folder."""
        alive = process_table()
        running = [line for pid, line in self._seen.items() if pid in alive and alive[pid][1] == line]
        return running + [str(path) for path in self.temporary.iterdir()]
