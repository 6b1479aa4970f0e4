"""A demo in a process of its own, whose children can be followed through /proc."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROC = Path("/proc")


def wait_until(condition: Callable[[], bool], what: str, deadline: float = 40.0) -> None:
    """Look again and again until ``condition`` holds; fail after ``deadline`` seconds."""
    give_up_at = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < give_up_at, f"in {deadline:g} s it never came to this: {what}"
        time.sleep(0.01)


def process_table() -> dict[int, tuple[int, str]]:
    """Return parent and command line of every process that is not merely waiting to be collected."""
    table = {}
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
            except OSError:  # ended meanwhile
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                table[int(folder.name)] = (int(parent), command.replace(b"\0", b" ").decode(errors="replace"))
    return table


class RunningDemo:
    """A demo in a process of its own, with a folder of its own for temporary files."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        self.temporary = temporary
        self._seen: dict[int, str] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tiercache", "demo", *arguments],
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
