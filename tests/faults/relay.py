"""A TCP relay in front of a Valkey that breaks exchanges: before the command, after it, or by garbage as the answer.

``ChaosProxy`` fails by bytes and by time; this relay fails by exchanges, for as long as a mode lasts.
"""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import suppress
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

__all__ = ["Mode", "Relay"]

Mode: TypeAlias = Literal["pass", "cut before", "cut after", "garbage"]

# Commands with which a connection begins, and the key of the probes of a writer. They pass in the mode "cut after", so
# that later commands reach the server.
_FIRST_COMMANDS = {b"AUTH", b"HELLO", b"CLIENT", b"SELECT", b"SUBSCRIBE", b"ROLE"}
_PROBE = b"__tc:probe"
_COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n")


class Relay:
    """A relay on a free port of 127.0.0.1, in ``async with``.

    Args:
        url: The URL of a server on a Unix socket.

    Attributes:
        mode: "pass": all bytes pass. "cut before": the relay ends a connection when its client sends a command, which
            does not reach the server. "cut after": the server carries the command out, and the relay ends the
            connection before the answer. "garbage": random bytes replace the answers.
        url: The URL for clients.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.mode: Mode = "pass"
        self._random = random.Random(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        credentials, at, _ = self._parts.netloc.rpartition("@")
        self.url = f"valkey://{credentials}{at}127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._parts.path)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, inner_writer)
        is_cut = asyncio.Event()
        passing = [
            asyncio.ensure_future(self._to_server(reader, inner_writer, is_cut)),
            asyncio.ensure_future(self._to_client(inner_reader, writer, is_cut)),
        ]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in passing:
                task.cancel()
            for end in ends:
                end.transport.abort()
            await asyncio.gather(*passing, *(end.wait_closed() for end in ends), return_exceptions=True)

    async def _to_server(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self.mode == "cut before":
                    return
                if self.mode == "cut after" and _PROBE not in data and set(_COMMAND.findall(data)) - _FIRST_COMMANDS:
                    is_cut.set()
                writer.write(data)
                await writer.drain()

    async def _to_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if is_cut.is_set():
                    return
                writer.write(self._random.randbytes(len(data)) if self.mode == "garbage" else data)
                await writer.drain()
