"""A process of the soak, as its parent sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from ..child_process import ChildProcess, child_process
from .protocol import Ended, Measured, Message, Problem, Ready, Start, Stop, WorkerSettings
from .protocol import Measure as MeasureCommand

__all__ = ["Child", "soak_process"]

M = TypeVar("M")

_DECODER = msgspec.json.Decoder[Message](Message)
# A leaked transport or cache becomes visible on standard error.
_OPTIONS: Final = ("-W", "default::ResourceWarning")


class Child:
    """One process. ``report`` receives its problems as soon as the parent waits for a reply."""

    def __init__(self, number: int, process: ChildProcess[Message], report: Callable[[Problem], None]) -> None:
        self.number = number
        self._process = process
        self._report = report
        self.suspend = process.suspend
        self.resume = process.resume

    async def wait_ready(self) -> None:
        """Return when the process has opened its cache."""
        await self._receive(Ready)

    def start(self) -> None:
        """Begin the load."""
        self._process.send(Start())

    async def measure(self) -> Measured:
        """Let the load rest, and return its measures."""
        self._process.send(MeasureCommand())
        return await self._receive(Measured)

    async def stop(self) -> Ended:
        """End the load and close the cache; return the counts. The process has ended then."""
        self._process.send(Stop())
        ended = await self._receive(Ended)
        code = await self._process.wait()
        if code:
            self._report(Problem("uncaught", f"{self._process.name} ended with exit code {code}"))
        return ended

    async def end(self) -> None:
        """Kill the process if it still runs, and report its error output."""
        if errors := await self._process.kill():
            self._report(Problem("stderr", f"{self._process.name} wrote to standard error:\n{errors}"))

    async def _receive(self, kind: type[M]) -> M:
        while isinstance(message := await self._process.receive_any(), Problem):
            self._report(replace(message, text=f"{self._process.name}: {message.text}"))
        return self._process.expect(message, kind)


@asynccontextmanager
async def soak_process(
    settings: WorkerSettings, report: Callable[[Problem], None], module: str
) -> AsyncIterator[Child]:
    """Start a process of the soak that runs ``module``; kill the process at the end, and report its error output."""
    name = f"process {settings.number}"
    async with child_process(name, module, settings, _DECODER, options=_OPTIONS) as process:
        child = Child(settings.number, process, report)
        try:
            yield child
        finally:
            await child.end()
