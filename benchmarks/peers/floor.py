"""The floor, which is no cache: a dict lookup behind one await, and a bare GET and SET on a raw socket.

The key is the question itself (the last message), not a digest of the request, and the bytes to store are ready. Every
cache does more work than this, so no cache in Python can be faster. The socket is an asyncio.Protocol that writes each
command at once and hands the replies to the callers in order.
"""

import asyncio
import json
import socket
from collections import deque
from typing import Any

from benchmarks.data import TTL, Answer, Params
from benchmarks.peers.protocol import Load, Peer, Setting

_OK = b"+OK"


class _Replies(asyncio.Protocol):
    """GET and SET on one connection; any other reply fails the caller."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[bytes | None]] = deque()
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self.transport = transport

    def ask(self, *parts: bytes) -> "asyncio.Future[bytes | None]":
        future = self._loop.create_future()
        self._waiting.append(future)
        self.transport.write(command(*parts))
        return future

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        start = 0
        while (end := buffer.find(b"\r\n", start)) >= 0:
            line = buffer[start:end]
            value: bytes | None = line
            start_of_next = end + 2
            if line[:1] == b"$":
                length = int(line[1:])
                value = None
                if length >= 0:
                    start_of_next += length + 2
                    if len(buffer) < start_of_next:
                        break
                    value = buffer[end + 2 : end + 2 + length]
            start = start_of_next
            self._waiting.popleft().set_result(value)
        self._buffer = buffer[start:]

    def connection_lost(self, error: Exception | None) -> None:
        for future in self._waiting:
            future.set_exception(error or ConnectionResetError())


def command(*parts: bytes) -> bytes:
    """Return the bytes of a command in RESP, the protocol of the server."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class Floor(Peer):
    title = "floor: bare dict, GET, SET"
    levels = frozenset({"l1", "l2", "memory"})
    is_cache = False
    works = frozenset({"l1-hit", "l2-hit", "miss-store", "store-batch", "stampede", "pipeline", "entries", "length"})

    async def open(self, setting: Setting) -> None:
        self._endpoint = setting.endpoint
        self._entries: dict[str, Any] = {}
        self._task: asyncio.Task[Answer] | None = None
        self._uses_valkey = setting.use != "memory"
        self.check = self._lookup if setting.use in ("l1", "memory") else self._get
        where = (setting.endpoint.host, setting.endpoint.port)
        _, self._replies = await asyncio.get_running_loop().create_connection(_Replies, *where)

    async def close(self) -> None:
        self._replies.transport.close()

    async def store(self, params: Params, answer: Answer) -> None:
        key = _key(params)
        self._entries[key] = answer
        if self._uses_valkey:
            data = json.dumps(answer.as_dict()).encode()
            done = await self._replies.ask(b"SET", key.encode(), data, b"EX", str(TTL).encode())
            if done != _OK:
                raise RuntimeError(f"SET was answered {done!r}")

    async def get_or_load(self, params: Params, load: Load) -> Answer:
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(load(params))
        return await self._task

    def answer(self, found: Any) -> Answer | None:
        return Answer.of_dict(json.loads(found)) if isinstance(found, bytes) else found

    async def pipelined(self, key: bytes, value: bytes, depth: int) -> "Pipeline":
        """Store ``value`` and return a blocking socket that sends ``depth`` GETs of it in one packet."""
        await self._replies.ask(b"SET", key, value)
        return Pipeline(socket.create_connection((self._endpoint.host, self._endpoint.port)), key, value, depth)

    async def _lookup(self, params: Params) -> Any:
        return self._entries.get(_key(params))

    async def _get(self, params: Params) -> Any:
        return await self._replies.ask(b"GET", _key(params).encode())


class Pipeline:
    """A client that does almost nothing, to measure the speed of the server; `valkey-benchmark -P` in Python."""

    def __init__(self, connection: socket.socket, key: bytes, value: bytes, depth: int) -> None:
        self._connection = connection
        self._packet = command(b"GET", key) * depth
        self._expected = (b"$%d\r\n%b\r\n" % (len(value), value)) * depth

    def ask(self) -> None:
        """Send the packet once and read all replies.

        Raises:
            ValueError: A reply is wrong.
        """
        self._connection.sendall(self._packet)
        parts, left = [], len(self._expected)
        while left:
            part = self._connection.recv(1 << 20)
            if not part:
                raise ConnectionResetError("the server has closed the connection")
            parts.append(part)
            left -= len(part)
        if b"".join(parts) != self._expected:
            raise ValueError("the server gave a wrong reply")

    def close(self) -> None:
        self._connection.close()


def _key(params: Params) -> str:
    key: str = params["messages"][-1]["content"]
    return key
