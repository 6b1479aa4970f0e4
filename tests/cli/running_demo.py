"""A demo in a process of its own, whose children can be followed through /proc."""

import os
import signal
import subprocess
from pathlib import Path

from tests.child_processes import process_table, python_with_default_signals, wait_until


class RunningDemo:
    """A demo in a process of its own, with a folder of its own for temporary files."""

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
        """Return the command lines of all processes below the demo's, and remember their ids."""
        table = process_table()
        family, found = {self.process.pid}, dict[int, str]()
        while more := {pid: line for pid, (parent, line) in table.items() if parent in family and pid not in family}:
            family |= set(more)
            found |= more
        self._seen |= found
        return found

    def press(self, number: signal.Signals) -> None:
        """Send a signal the way a terminal does: to the whole process group."""
        os.killpg(self.process.pid, number)

    def wait_for_children(self, part: str, count: int = 1) -> list[int]:
        """Wait for ``count`` children with ``part`` in their command line, and return their ids."""

        def there() -> list[int]:
            return [pid for pid, line in self.children().items() if part in line]

        wait_until(lambda: self.process.poll() is not None or len(there()) >= count, f"{count} of {part}")
        return there()

    def wait_for_line(self, part: str) -> None:
        """Wait until a line of standard output has ``part`` in it."""
        assert self.process.stdout is not None
        assert any(part in line for line in self.process.stdout), f"it never said {part!r}"

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what went to standard error."""
        _, errors = self.process.communicate(timeout=40)
        return self.process.returncode, errors

    def left_over(self) -> list[str]:
        """Return the processes that were seen below the demo and still run, and the files it left."""
        alive = process_table()
        running = [line for pid, line in self._seen.items() if pid in alive and alive[pid][1] == line]
        return running + [str(path) for path in self.temporary.iterdir()]
