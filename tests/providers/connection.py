"""One HTTP/1.1 connection of the server: reads requests, writes answers, notices that the client hangs up."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

__all__ = ["Connection", "HungUpError", "RequestHead"]


class HungUpError(Exception):
    """The client has closed the connection."""


@dataclass(frozen=True)
class RequestHead:
    """The first part of a request.

    Attributes:
        method: In capital letters.
        path: The path, still percent-encoded.
        query: The text after the question mark.
        headers: Names in small letters and values, in their order.
    """

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None."""
        return next((value for header, value in self.headers if header == name), None)


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        number: The number of the connection at its server, from 1.
        begin: Called when the connection is there.
        end: Called when it is gone.
    """

    def __init__(self, number: int, begin: Callable[[Connection], None], end: Callable[[Connection], None]) -> None:
        self.number = number
        self._begin = begin
        self._end = end
        self._received = bytearray()
        self._change = asyncio.Event()
        self._gone = asyncio.Event()
        self._may_write = True
        self._transport: asyncio.Transport

    # The protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # ``write`` returns when the kernel has all bytes, so that a reset afterwards loses none of them.
        transport.set_write_buffer_limits(0)
        self._begin(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._change.set()

    def eof_received(self) -> bool:
        self._gone.set()
        self._change.set()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        self._gone.set()
        self._change.set()
        self._end(self)

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._change.set()

    # Reading

    async def read_head(self) -> RequestHead:
        """Read the next request up to its empty line.

        Raises:
            HungUpError: The client has closed the connection.
        """
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            await self._wait_for_data()
        first, *lines = self._take(end + 4)[:-4].decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        headers = [line.partition(":") for line in lines]
        return RequestHead(method, path, query, tuple((name.lower(), value.strip()) for name, _, value in headers))

    async def read_body(self, head: RequestHead) -> bytes:
        """Read the body of a request, chunked or not."""
        if (head.header("transfer-encoding") or "").lower() != "chunked":
            return await self._read(int(head.header("content-length") or 0))
        body = bytearray()
        while size := int((await self._read_line()).partition(b";")[0], 16):
            body += await self._read(size)
            await self._read_line()
        while await self._read_line():  # Trailers.
            pass
        return bytes(body)

    async def _read_line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            await self._wait_for_data()
        return self._take(end + 2)[:-2]

    async def _read(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._wait_for_data()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    async def _wait_for_data(self) -> None:
        self._check()
        self._change.clear()
        await self._change.wait()

    # Writing

    async def write(self, data: bytes) -> None:
        """Write ``data``; return when the kernel has taken it.

        Raises:
            HungUpError: The client has closed the connection.
        """
        self._check()
        self._transport.write(data)
        # The loop calls ``connection_lost`` in a later step than the write that failed, and other connections wait.
        await asyncio.sleep(0)
        self._check()
        while not self._may_write:
            self._change.clear()
            await self._change.wait()
            self._check()

    def _check(self) -> None:
        if self._gone.is_set() or self._transport.is_closing():
            raise HungUpError

    async def write_head(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Write the status line and the headers."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in set(HTTPStatus) else 'Unknown'}"]
        lines += [f"{name}: {value}" for name, value in headers]
        await self.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def pause(self, seconds: float) -> None:
        """Wait for ``seconds``.

        Raises:
            HungUpError: The client closes the connection before.
        """
        if seconds > 0:
            try:
                await asyncio.wait_for(self._gone.wait(), seconds)
            except TimeoutError:
                return
        self._check()

    def close(self) -> None:
        """Close the connection when all bytes are written."""
        self._transport.close()

    def reset(self) -> None:
        """Close the connection by RST."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
