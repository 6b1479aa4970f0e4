"""The answer to one request, written to its connection as the script demands."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from email.utils import formatdate
from typing import Protocol

from tests.providers.apis.api import Api, Reply
from tests.providers.connection import Connection
from tests.providers.script import Place, Script

__all__ = ["Answering", "DiedError", "Progress"]

_GATE_SECONDS = 0.002


class DiedError(Exception):
    """The connection died, as the script demands."""


class Progress(Protocol):
    """Learns how far an answer has come."""

    def head_sent(self, response_headers: list[tuple[str, str]]) -> None:
        """The status line and the headers are sent."""

    def part_sent(self) -> None:
        """One more part is sent."""

    def ending_sent(self) -> None:
        """The last event is sent."""


class Answering:
    """Writes one answer.

    Args:
        progress: Is called after each step.
    """

    def __init__(self, connection: Connection, script: Script, progress: Progress) -> None:
        self._connection = connection
        self._script = script
        self._progress = progress
        self._squeeze = zlib.compressobj(wbits=31) if script.gzip else None

    async def send_whole(self, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Write an answer that is no stream.

        Raises:
            HungUpError: The client has closed the connection.
            DiedError: The connection died, as the script demands.
        """
        script = self._script
        if script.gzip:
            body = self._compressed(body) + self._rest()
        await self._send_head(script.status, "application/json", headers, len(body))
        await self._wait_at(0, script.delay_first)
        if script.dies_after is not None:
            await self._connection.write(body[: len(body) // 2])
            self._die()
        await self._connection.write(body)
        self._progress.ending_sent()

    async def send_stream(self, api: Api, reply: Reply, headers: list[tuple[str, str]]) -> None:
        """Write a stream.

        Raises:
            HungUpError: The client has closed the connection.
            DiedError: The connection died, as the script demands.
        """
        script = self._script
        await self._send_head(200, api.stream_type, headers, None)
        for number, (events, is_ending) in enumerate(_with_last(api.stream(reply))):
            if number == script.dies_after:
                self._die()
            if number == script.error_after:
                await self._send([api.error_event(script.message)])
                self._progress.ending_sent()
                break
            delay = script.delay_part if number else script.delay_first
            await self._wait_at("ending" if is_ending else number, delay)
            if is_ending:
                await self._send(events[:-1] if script.omits_terminal else events)
                self._progress.ending_sent()
            else:
                await self._send(events)
                self._progress.part_sent()
        await self._wait_at("eof", script.delay_eof)
        if rest := self._rest():
            await self._send_chunk(rest)
        await self._connection.write(b"0\r\n\r\n")

    async def _send_head(self, status: int, kind: str, headers: list[tuple[str, str]], size: int | None) -> None:
        await self._wait_at("head", self._script.delay_head)
        every = [("date", formatdate(usegmt=True)), ("server", "tests"), ("content-type", kind), *headers]
        every.append(("transfer-encoding", "chunked") if size is None else ("content-length", str(size)))
        if self._script.gzip:
            every.append(("content-encoding", "gzip"))
        replaced = {name.lower() for name, _ in self._script.headers}
        every = [(name, value) for name, value in every if name not in replaced]
        every += self._script.headers
        await self._connection.write_head(status, every)
        self._progress.head_sent(every)

    async def _wait_at(self, place: Place, delay: float) -> None:
        await self._connection.pause(delay)
        for gate in self._script.gates_at(place):
            gate.held.set()
            while not gate.is_released:
                await self._connection.pause(_GATE_SECONDS)

    async def _send(self, events: list[bytes]) -> None:
        for event in events:
            await self._send_chunk(self._compressed(event) if self._squeeze else event)

    async def _send_chunk(self, data: bytes) -> None:
        size = self._script.chunk_bytes or len(data)
        for begin in range(0, len(data), size):
            piece = data[begin : begin + size]
            await self._connection.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _compressed(self, data: bytes) -> bytes:
        assert self._squeeze is not None
        return self._squeeze.compress(data) + self._squeeze.flush(zlib.Z_SYNC_FLUSH)

    def _rest(self) -> bytes:
        """Return the end of the compressed body."""
        return self._squeeze.flush() if self._squeeze else b""

    def _die(self) -> None:
        if self._script.death == "reset":
            self._connection.reset()
        else:
            self._connection.close()
        raise DiedError


def _with_last(groups: Iterator[list[bytes]]) -> Iterator[tuple[list[bytes], bool]]:
    """Yield each list of events, and whether it is the last."""
    last = next(groups)
    for group in groups:
        yield last, False
        last = group
    yield last, True
