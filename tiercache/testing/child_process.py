"""Processes that a test tool starts, and their messages: one line of JSON each, over the standard streams."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Generic, TypeVar

import msgspec

from ..errors import TierCacheError

__all__ = ["ChildEndedError", "ChildProcess", "child_process", "listen"]

M = TypeVar("M")
R = TypeVar("R")

_LINE_LIMIT: Final = 4 * 1024 * 1024
_MOST_ERROR_BYTES: Final = 4000


class ChildEndedError(TierCacheError):
    """A process ended too early, or sent an unexpected message; the text has its error output."""


class ChildProcess(Generic[M]):
    """A process, as its parent sees it.

    Args:
        name: The name of the process in errors.
        decoder: Decodes the messages of the process.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, decoder: msgspec.json.Decoder[M]) -> None:
        self.name = name
        self._process = process
        self._decode = decoder.decode
        self._errors = asyncio.create_task(self._collect_errors(), name="child-stderr")

    def send(self, command: Any) -> None:
        """Send ``command``. If the process has ended, the next ``receive`` raises."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def receive_any(self) -> M:
        """Return the next message.

        Raises:
            ChildEndedError: The process has ended.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            code = await self._process.wait()
            raise ChildEndedError(f"{self.name} ended with exit code {code}: {await self._errors}")
        return self._decode(line)

    def expect(self, message: M, kind: type[R]) -> R:
        """Return ``message`` if it is a ``kind``.

        Raises:
            ChildEndedError: It is another message.
        """
        if not isinstance(message, kind):
            raise ChildEndedError(f"{self.name} sent {message} instead of a {kind.__name__}")
        return message

    def suspend(self) -> None:
        """Stop the process with SIGSTOP at any point of its work, until ``resume``."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the stopped process."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)

    async def wait(self) -> int:
        """Wait for the end of the process; return its exit code."""
        return await self._process.wait()

    async def kill(self) -> str:
        """Kill the process if it still runs; return the end of its error output."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        return await self._errors

    async def _collect_errors(self) -> str:
        assert self._process.stderr is not None
        output = b""
        while chunk := await self._process.stderr.read(1024):
            output = (output + chunk)[-_MOST_ERROR_BYTES:]
        return output.decode(errors="replace").strip()


@asynccontextmanager
async def child_process(
    name: str, module: str, settings: Any, decoder: msgspec.json.Decoder[M], *, options: Sequence[str] = ()
) -> AsyncIterator[ChildProcess[M]]:
    """Start a process that runs ``module``, and kill the process at the end, in every state.

    The process has its own session: a Ctrl-C in the terminal reaches only the parent.

    Args:
        settings: The first argument of the process, as JSON.
        options: Options of Python.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", *options, "-m", module, msgspec.json.encode(settings).decode()),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
        limit=_LINE_LIMIT,
        # The child imports tiercache from where this process imported it.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    child = ChildProcess(name, process, decoder)
    try:
        yield child
    finally:
        await child.kill()


async def listen(decoder: msgspec.json.Decoder[M], receive: Callable[[M], object]) -> None:
    """In the child: pass each command to ``receive``, and end the process when its standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        receive(decoder.decode(line))
    os._exit(1)  # The parent process is gone.
