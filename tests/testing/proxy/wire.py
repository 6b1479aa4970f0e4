"""Helpers of the proxy's tests: a client that reads and writes bytes, and looks at the server and the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import valkey
import valkey.asyncio

from tiercache.testing import ChaosProxy

# The fixture ``connect``.
Connect: TypeAlias = Callable[..., Any]

# Seconds after which a missing event fails a test.
PATIENCE = 30.0
# Seconds without a byte after which a test counts a connection as silent.
SILENCE = 0.2
# The bound on the held bytes in one direction of a connection.
HELD_BYTES = 1024 * 1024


def command(*words: str | bytes) -> bytes:
    """Return a command in RESP."""
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class Client:
    """A connection through the proxy, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *words: str | bytes) -> None:
        """Send a command."""
        self.writer.write(command(*words))

    async def line(self) -> bytes:
        """Return the next line, without its end."""
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.readline()).removesuffix(b"\r\n")

    async def bulk(self) -> bytes:
        """Return the next bulk string."""
        size = int((await self.line()).removeprefix(b"$"))
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.readexactly(size + 2))[:-2]

    async def ask(self, *words: str | bytes) -> bytes:
        """Send a command and return its answer of one line."""
        self.send(*words)
        return await self.line()

    async def is_silent(self) -> bool:
        """Return whether neither a byte nor a close arrives for ``SILENCE`` seconds."""
        try:
            async with asyncio.timeout(SILENCE):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    async def rest(self) -> bytes:
        """Return the bytes that arrive before the reset of the connection; fail at an orderly close."""
        received = b""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    data = await self.reader.read(65_536)
                except ConnectionResetError:
                    return received
                assert data, "the connection was closed, not reset"
                received += data

    def reset(self) -> None:
        """Reset the connection."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the connection in an orderly way."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the condition may change in another process
            await asyncio.sleep(0.005)


def ids(plain: valkey.Valkey) -> set[str]:
    """Return the ids of the server's connections."""
    listed: Any = plain.client_list()
    return {entry["id"] for entry in listed}


def library(url: str) -> Any:
    """Return a client of the usual library."""
    return valkey.asyncio.from_url(url)  # type: ignore[no-untyped-call]


async def most_held(proxy: ChaosProxy) -> int:
    """Wait until the proxy holds many bytes, and return the largest number within the next half second."""
    await until(lambda: proxy.held_bytes() > HELD_BYTES // 2)
    seen = []
    for _ in range(50):
        seen.append(proxy.held_bytes())
        await asyncio.sleep(0.01)
    return max(seen)


def by_word(opening: bytes) -> str:
    """Return the lane that a client names: left, right or none."""
    return next((name for name in ("left", "right") if name.encode() in opening), "none")
