"""The demo's own processes: started away from the terminal's signals, ended with the demo whatever happens to it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NoReturn, TypeVar

from ...errors import TierCacheError
from .messages import decode, encode

M = TypeVar("M")

# The child finds its modules where the parent found them, and never in the current folder.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from importlib import import_module; import_module(sys.argv.pop()).main()"
)
_LINE_LIMIT = 256 * 1024 * 1024  # a worker's tally is one line and holds every latency
_LAST_WORDS = 4000


class ChildEndedError(TierCacheError):
    """A process of the demo ended before its work was done."""


class Child:
    """A running process that reads commands from its standard input and writes one message a line."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._said = b""
        self._errors = asyncio.create_task(self._collect_errors())

    async def receive(self, kind: type[M]) -> M:
        """Return the next message.

        Raises:
            ChildEndedError: The process ended in place of sending one.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise ChildEndedError(await self._obituary())
        return decode(line, kind)

    def send(self, command: bytes) -> None:
        """Write to the process's standard input; one that has ended is noticed by ``receive``."""
        assert self._process.stdin is not None
        self._process.stdin.write(command)

    def end_input(self) -> None:
        """Close the process's standard input, which asks it to finish."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def wait_ended(self) -> str:
        """Wait until the process has ended, and return what it wrote to standard error."""
        await self._process.wait()
        await self._errors
        return self._said.decode(errors="replace").strip()

    async def fail_when_ended(self) -> NoReturn:
        """Wait until the process ends although nobody asked it to.

        Raises:
            ChildEndedError: It did.
        """
        raise ChildEndedError(await self._obituary())

    async def stop(self) -> None:
        """End the process at once, if it still runs. Nothing it holds needs more care than that."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self.wait_ended()

    async def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(1024):
            self._said = (self._said + chunk)[-_LAST_WORDS:]

    async def _obituary(self) -> str:
        said = await self.wait_ended()
        code = self._process.returncode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last_line = said.splitlines()[-1].strip() if said else ""
        return f"{self.name} {how} before its work was done" + (f": {last_line}" if last_line else "")


@asynccontextmanager
async def running(name: str, module: str, settings: object) -> AsyncIterator[Child]:
    """Run ``main`` of ``module``, a module of this package, in a process of its own; end it on the way out.

    The process gets a session of its own: a Ctrl-C in the terminal reaches the demo alone, which then ends the others.
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
