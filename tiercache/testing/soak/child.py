"""A process of the soak, as its parent sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from ...errors import TierCacheError
from .protocol import Command, Ended, Measured, Message, Problem, Ready, Start, Stop, WorkerSettings
from .protocol import Measure as MeasureCommand

__all__ = ["Child", "ChildEndedError", "child_process"]

M = TypeVar("M")

_DECODER = msgspec.json.Decoder[Message](Message)
_LINE_LIMIT: Final = 4 * 1024 * 1024
_MOST_ERROR_BYTES: Final = 4000


class ChildEndedError(TierCacheError):
    """A process ended too early, or sent an unexpected message; the text has its error output."""


class Child:
    """One process. ``report`` receives its problems as soon as the parent waits for a reply."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, report: Callable[[Problem], None]) -> None:
        self.number = number
        self._process = process
        self._report = report
        self._errors = asyncio.create_task(self._collect_errors(), name="soak-stderr")

    async def wait_ready(self) -> None:
        """Return when the process has opened its cache."""
        await self._receive(Ready)

    def start(self) -> None:
        """Begin the load."""
        self._send(Start())

    async def measure(self) -> Measured:
        """Let the load rest, and return its measures."""
        self._send(MeasureCommand())
        return await self._receive(Measured)

    async def stop(self) -> Ended:
        """End the load and close the cache; return the counts. The process has ended then."""
        self._send(Stop())
        ended = await self._receive(Ended)
        code = await self._process.wait()
        if code:
            self._report(Problem("uncaught", f"process {self.number} ended with exit code {code}"))
        return ended

    def suspend(self) -> None:
        """Stop the process with SIGSTOP at any point of its work, until ``resume``."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the stopped process."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        """Kill the process if it still runs, and report its error output."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        if errors := await self._errors:
            self._report(Problem("stderr", f"process {self.number} wrote to standard error:\n{errors}"))

    def _send(self, command: Command) -> None:
        assert self._process.stdin is not None
        # If the process has ended, ``_receive`` raises.
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def _receive(self, kind: type[M]) -> M:
        while isinstance(message := await self._next(), Problem):
            self._report(replace(message, text=f"process {self.number}: {message.text}"))
        if not isinstance(message, kind):
            raise ChildEndedError(f"process {self.number} sent {message} instead of a {kind.__name__}")
        return message

    async def _next(self) -> Message:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            code = await self._process.wait()
            raise ChildEndedError(f"process {self.number} ended with exit code {code}: {await self._errors}")
        message: Message = _DECODER.decode(line)
        return message

    async def _collect_errors(self) -> str:
        assert self._process.stderr is not None
        output = b""
        while chunk := await self._process.stderr.read(1024):
            output = (output + chunk)[-_MOST_ERROR_BYTES:]
        return output.decode(errors="replace").strip()


@asynccontextmanager
async def child_process(
    settings: WorkerSettings, report: Callable[[Problem], None], module: str
) -> AsyncIterator[Child]:
    """Start a process that runs ``module``, and kill the process at the end, in every state.

    The process has its own session: a Ctrl-C in the terminal reaches only the parent.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-W", "default::ResourceWarning", "-m", module, msgspec.json.encode(settings).decode()),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
        limit=_LINE_LIMIT,
        # The child imports tiercache from where this process imported it.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    child = Child(settings.number, process, report)
    try:
        yield child
    finally:
        await child.end()
