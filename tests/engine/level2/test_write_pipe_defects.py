"""The write pipe after a defect: a callback that raises neither repeats a write nor leaves its caller waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Run, Write
from tiercache.options import WriteOptions


class _Recorder:
    """A Level2 that answers every write, and records the commands it was sent."""

    def __init__(self) -> None:
        self.commands: list[Any] = []

    async def apply(self, writes: Sequence[Write]) -> list[int]:
        self.commands += [write.command for write in writes if isinstance(write, Run)]
        return [1] * len(writes)


def raise_defect(outcome: object) -> None:
    raise ZeroDivisionError


async def test_write_pipe_sends_no_command_twice_after_a_callback_raises() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    recorder = _Recorder()
    pipe = WritePipe(recorder, WriteOptions())  # type: ignore[arg-type]
    pipe.post(Run(("INCR", "a")), raise_defect)
    async with asyncio.timeout(5):
        assert await pipe.submit(Run(("INCR", "b"))) == 1
        await pipe.flush()
    assert recorder.commands == [("INCR", "a"), ("INCR", "b")]


async def test_write_pipe_answers_the_caller_whose_callback_raises() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    pipe = WritePipe(_Recorder(), WriteOptions())  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        assert await pipe.submit(Run(("INCR", "a")), raise_defect) == 1
