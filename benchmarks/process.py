"""A process that answers requests: one JSON object per line, on standard input and output."""

import contextlib
import json
import subprocess
import sys
import threading
from typing import Any

_ANSWER_SECONDS = 180


class CaseFailedError(Exception):
    """A peer gave a wrong answer, or its process ended; standard error has the details."""


class ProcessEndedError(CaseFailedError):
    """The process ended, or was ended because it took too long."""


class Process:
    """The process of a module of the benchmarks. The process ends when its standard input ends."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, request: dict[str, Any]) -> None:
        """Send a request; `receive` notices if the process has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)

    def receive(self) -> dict[str, Any]:
        """Return the answer to the request.

        Raises:
            CaseFailedError: The process ended or took too long, or the answer is an error.
        """
        assert self._process.stdout is not None
        overdue = threading.Timer(_ANSWER_SECONDS, self._process.kill)
        overdue.start()
        try:
            line = self._process.stdout.readline()
        finally:
            overdue.cancel()
        if not line.endswith("\n"):
            raise ProcessEndedError(f"its process has ended, or took over {_ANSWER_SECONDS} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CaseFailedError(answer["error"])
        return answer

    def end_input(self) -> None:
        """Ask the process to end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def stop(self) -> int:
        """Stop the process, wait for its end, and return its exit code."""
        self.end_input()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.returncode
