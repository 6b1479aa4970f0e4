"""The floor of an invalidation: DEL and one published message to each of three subscribers, on plain connections.

A cache cannot remove a key, and let its three holders know, with less work of the server. DEL and the three PUBLISH
are in one packet. The subscribers are in another process, as the caches that hold the keys are.
"""

import asyncio

from benchmarks.peers import Endpoint
from benchmarks.peers.floor import command
from benchmarks.works.work import WrongAnswerError

HOLDERS = 3
_VALUE = b"x" * 300
_TIMEOUT = 5.0


class BareWriter:
    """A connection that removes keys, and publishes each of them on three channels."""

    async def open(self, endpoint: Endpoint, count: int) -> None:
        """Connect, and store ``count`` keys."""
        self._reader, self._writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        self._writer.write(b"".join(command(b"SET", key, _VALUE) for key in _keys(0, count)))
        await _expect(self._reader, b"+OK\r\n" * count)

    async def invalidate(self, first: int, count: int) -> None:
        """Remove keys one after the other; return when the server has answered.

        Raises:
            WrongAnswerError: A reply is wrong.
        """
        for key in _keys(first, count):
            published = (command(b"PUBLISH", channel, key) for channel in _channels())
            self._writer.write(command(b"DEL", key) + b"".join(published))
            await _expect(self._reader, b":1\r\n" * (1 + HOLDERS))

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


class BareSubscribers:
    """Three connections that subscribe, each to a channel of its own."""

    async def open(self, endpoint: Endpoint, count: int) -> None:
        """Connect, subscribe, and begin to read the messages of ``count`` keys."""
        self._writers: list[asyncio.StreamWriter] = []
        self._reading: list[asyncio.Task[None]] = []
        for channel in _channels():
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            self._writers.append(writer)
            writer.write(command(b"SUBSCRIBE", channel))
            await _expect(reader, b"*3\r\n" + _bulk(b"subscribe", channel) + b":1\r\n")
            self._reading.append(asyncio.create_task(_read(reader, channel, count)))

    async def finish(self) -> None:
        """Return when each connection has read each message.

        Raises:
            WrongAnswerError: A message is wrong.
        """
        await asyncio.wait_for(asyncio.gather(*self._reading), _TIMEOUT)

    def close(self) -> None:
        """Disconnect."""
        for reading in self._reading:
            reading.cancel()
        for writer in self._writers:
            writer.close()


async def _read(reader: asyncio.StreamReader, channel: bytes, count: int) -> None:
    for key in _keys(0, count):
        await _expect(reader, b"*3\r\n" + _bulk(b"message", channel, key), timeout=None)


def _keys(first: int, count: int) -> list[bytes]:
    return [b"bare:%d" % number for number in range(first, first + count)]


def _channels() -> list[bytes]:
    return [b"bare-%d" % number for number in range(HOLDERS)]


def _bulk(*parts: bytes) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


async def _expect(reader: asyncio.StreamReader, wanted: bytes, timeout: float | None = _TIMEOUT) -> None:
    async with asyncio.timeout(timeout):
        found = await reader.readexactly(len(wanted))
    if found != wanted:
        raise WrongAnswerError(f"the server answered {found!r}, not {wanted!r}")
