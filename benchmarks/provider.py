"""A provider of chat completions: ready bytes for a mock transport, and a small HTTP server, a process of its own.

The path of a request says how a stream arrives: ``/<ms to the first part>/<ms between parts>/chat/completions``. A GET
returns how many chats were asked for.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from benchmarks.server import pin

EVENTS = ("", *(f"word {number} " for number in range(34)), "")
"""The texts of the 36 events of a streamed answer."""
_COMMON = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "gpt-4o"}
_USAGE = {"prompt_tokens": 31, "completion_tokens": 102, "total_tokens": 133}
_JSON, _SSE = "application/json", "text/event-stream"


def _event(number: int, text: str) -> bytes:
    delta = {"role": "assistant", "content": text} if number == 0 else {"content": text}
    finish = "stop" if number == len(EVENTS) - 1 else None
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    event: dict[str, Any] = {**_COMMON, "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(event).encode()


def _whole() -> bytes:
    message = {"role": "assistant", "content": "".join(EVENTS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({**_COMMON, "object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode()


_PARTS = [_event(number, text) for number, text in enumerate(EVENTS)]
_END = b"data: [DONE]\n\n"
_STREAM, _WHOLE = b"".join(_PARTS) + _END, _whole()


def answer(*, stream: bool) -> tuple[str, bytes]:
    """Return the content type and the body of an answer."""
    return (_SSE, _STREAM) if stream else (_JSON, _WHOLE)


class Provider:
    """The server."""

    def __init__(self) -> None:
        self._chats = 0

    async def serve(self) -> None:
        """Listen on a free loopback port, print it, and serve until standard input ends."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        async with server:
            print(server.sockets[0].getsockname()[1], flush=True)
            await asyncio.to_thread(sys.stdin.read)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client may hang up at any time.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._respond(first, body, writer)
        writer.close()

    async def _respond(self, first: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        method, path, _ = first.split(" ")
        if method == "GET":
            _write(writer, _JSON, str(self._chats).encode())
        elif not json.loads(body).get("stream"):
            self._chats += 1
            _write(writer, *answer(stream=False))
        else:
            self._chats += 1
            _, first_ms, between_ms, *_ = path.split("/")
            await self._stream(int(first_ms) / 1000, int(between_ms) / 1000, writer)
        await writer.drain()

    async def _stream(self, first: float, between: float, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % _SSE.encode())
        for number, part in enumerate([*_PARTS, _END]):
            await asyncio.sleep(between if number else first)
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


def _write(writer: asyncio.StreamWriter, kind: str, body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % (kind.encode(), len(body)) + body)


@contextlib.asynccontextmanager
async def running_provider(allowed: Sequence[int] = ()) -> AsyncIterator[str]:
    """Start a provider; yield its URL, without the times in its path; stop it on exit.

    Args:
        allowed: The cores that the provider may use; none: those of this process.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.provider"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pin(process.pid, allowed)
    try:
        port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        await process.wait()


async def chats_asked(url: str) -> int:
    """Return how many chats the provider at ``url`` was asked for."""
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    count = int(await reader.read(32))
    writer.close()
    return count


if __name__ == "__main__":
    asyncio.run(Provider().serve())
