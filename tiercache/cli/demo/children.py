"""The child processes of the demo: out of reach of the terminal's signals, and always ended with the demo."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NoReturn, TypeVar

from ...errors import TierCacheError
from .messages import decode, encode

M = TypeVar("M")

# The child imports from the parent's ``sys.path``, and never from the current folder.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from importlib import import_module; import_module(sys.argv.pop()).main()"
)
_LINE_LIMIT = 256 * 1024 * 1024  # a worker sends its tally, with every latency, as one line
_MAX_ERROR_BYTES = 4000


class ChildEndedError(TierCacheError):
    """A process of the demo ended before its work was done."""


class Child:
    """A running process that reads commands from its standard input and writes one message a line."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._error_output = b""
        self._errors = asyncio.create_task(self._collect_errors())

    async def receive(self, kind: type[M]) -> M:
        """Return the next message.

        Raises:
            ChildEndedError: The process ended and sent no message.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise ChildEndedError(await self._describe_end())
        return decode(line, kind)

    def send(self, command: bytes) -> None:
        """Write to the process's standard input. If the process has ended, ``receive`` raises."""
        assert self._process.stdin is not None
        self._process.stdin.write(command)

    def end_input(self) -> None:
        """Close the process's standard input, so that the process finishes."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def wait_ended(self) -> str:
        """Wait until the process has ended; return its output on standard error."""
        await self._process.wait()
        await self._errors
        return self._error_output.decode(errors="replace").strip()

    async def fail_when_ended(self) -> NoReturn:
        """Wait until the process ends too early.

        Raises:
            ChildEndedError: The process has ended.
        """
        raise ChildEndedError(await self._describe_end())

    async def stop(self) -> None:
        """Kill the process if it still runs. The process holds no resource that needs an orderly end."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self.wait_ended()

    async def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(1024):
            self._error_output = (self._error_output + chunk)[-_MAX_ERROR_BYTES:]

    async def _describe_end(self) -> str:
        error_output = await self.wait_ended()
        code = self._process.returncode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last_line = error_output.splitlines()[-1].strip() if error_output else ""
        return f"{self.name} {how} before its work was done" + (f": {last_line}" if last_line else "")


@asynccontextmanager
async def running(name: str, module: str, settings: object) -> AsyncIterator[Child]:
    """Run ``main`` of ``module``, a module of this package, in a new process; kill the process at the end.

    The process gets its own session: a Ctrl-C in the terminal reaches the demo alone, which then ends its children.
    """
    arguments = [encode(settings), f"{__package__}.{module}", json.dumps(sys.path)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _BOOT, *arguments),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
        limit=_LINE_LIMIT,
    )
    child = Child(name, process)
    try:
        yield child
    finally:
        await child.stop()
