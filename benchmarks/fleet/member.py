"""The processes of a fleet: `Members` on the side of the driver, `Member` in the process itself.

A request names a method of the member, and its arguments. A member ends when its standard input ends, also during a
request. So no member outlives the driver, even if the driver was killed.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable
from time import process_time
from types import TracebackType
from typing import Any, TextIO

from benchmarks.process import CaseFailedError, Process
from benchmarks.server import raise_file_limit


class Members:
    """Processes of one module, which work at the same time; they end with the ``with`` block."""

    def __init__(self, module: str, count: int) -> None:
        self._stack = contextlib.ExitStack()
        self._processes: list[Process] = []
        with self._stack:
            for _ in range(count):
                process = Process(module)
                self._stack.callback(process.stop)
                self._processes.append(process)
            self._stack = self._stack.pop_all()

    def __enter__(self) -> "Members":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            for process in self._processes:
                process.end_input()  # All members end at the same time, and then the stack waits for each.

    def ask(self, do: str, **arguments: Any) -> list[Any]:
        """Let each member do the same request at the same time; return the answers.

        Raises:
            CaseFailedError: A member was wrong, ended, or took too long.
        """
        return self.ask_each(do, [arguments] * len(self._processes))

    def ask_each(self, do: str, arguments: Iterable[dict[str, Any]]) -> list[Any]:
        """Let the first members do a request at the same time, each with its own arguments. Errors as for `ask`."""
        asked = [(process, each) for process, each in zip(self._processes, arguments, strict=False)]
        for process, each in asked:
            process.send({"do": do, **each})
        answers, failures = [], []
        for process, _ in asked:  # Every answer is read, so that no later request gets it.
            try:
                answers.append(process.receive()["answer"])
            except CaseFailedError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return answers

    def ask_first(self, do: str, **arguments: Any) -> Any:
        """Let the first member do a request, and return its answer. Errors as for `ask`."""
        return self.ask_each(do, [arguments])[0]

    def cpu(self) -> float:
        """Return the CPU seconds that all members have used so far."""
        return float(sum(self.ask("cpu")))


class Member:
    """A process of a fleet. Each public async method is a request, whose answer is JSON."""

    async def cpu(self) -> float:
        """Return the CPU seconds of this process."""
        return process_time()

    async def close(self) -> None:
        """Close all caches."""


def run(member: Member) -> None:
    """Answer requests until standard input ends, and then close the member."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the driver ends the members.
    # Output that a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    raise_file_limit()
    with contextlib.suppress(asyncio.CancelledError, BrokenPipeError):
        asyncio.run(_serve(member, answers))


async def _serve(member: Member, answers: TextIO) -> None:
    requests: asyncio.Queue[str] = asyncio.Queue()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(requests.put_nowait, line)
        loop.call_soon_threadsafe(task.cancel)

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            print(json.dumps(await _answer(member, json.loads(await requests.get()))), file=answers, flush=True)
    finally:
        await member.close()


async def _answer(member: Member, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": await getattr(member, request.pop("do"))(**request)}
    except Exception as error:
        # Any error of a cache or its library fails this case, and the driver reports which case that was.
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
