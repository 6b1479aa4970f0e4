"""The floor of an invalidation: DEL and one published message to each of three subscribers, on plain connections.

A cache cannot remove a key, and let its three holders know, with less work of the server. DEL and the three PUBLISH
are in one packet.
"""

import asyncio

from benchmarks.peers import Endpoint
from benchmarks.peers.floor import command
from benchmarks.works.work import WrongAnswerError

HOLDERS = 3
_VALUE = b"x" * 300
_TIMEOUT = 5.0


class Bare:
    """One connection that removes keys, and three connections that subscribe, each to a channel of its own."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, endpoint: Endpoint, count: int) -> None:
        """Connect, subscribe, and store ``count`` keys."""
        self._reader, self._writer = await self._connect(endpoint)
        self._subscribers: list[asyncio.StreamReader] = []
        for channel in _channels():
            reader, writer = await self._connect(endpoint)
            writer.write(command(b"SUBSCRIBE", channel))
            await _expect(reader, b"*3\r\n" + _bulk(b"subscribe", channel) + b":1\r\n")
            self._subscribers.append(reader)
        self._writer.write(b"".join(command(b"SET", key, _VALUE) for key in _keys(0, count)))
        await _expect(self._reader, b"+OK\r\n" * count)

    async def _connect(self, endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        self._writers.append(writer)
        return reader, writer

    async def invalidate(self, first: int, count: int) -> None:
        """Remove keys one after the other; return when each subscriber has read each message.

        Raises:
            WrongAnswerError: A reply or a message is wrong.
        """
        channels = _channels()
        for key in _keys(first, count):
            published = (command(b"PUBLISH", channel, key) for channel in channels)
            self._writer.write(command(b"DEL", key) + b"".join(published))
            await _expect(self._reader, b":1\r\n" * (1 + HOLDERS))
            for reader, channel in zip(self._subscribers, channels, strict=True):
                await _expect(reader, b"*3\r\n" + _bulk(b"message", channel, key))

    def close(self) -> None:
        """Disconnect."""
        for writer in self._writers:
            writer.close()


def _keys(first: int, count: int) -> list[bytes]:
    return [b"bare:%d" % number for number in range(first, first + count)]


def _channels() -> list[bytes]:
    return [b"bare-%d" % number for number in range(HOLDERS)]


def _bulk(*parts: bytes) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


async def _expect(reader: asyncio.StreamReader, wanted: bytes) -> None:
    async with asyncio.timeout(_TIMEOUT):
        found = await reader.readexactly(len(wanted))
    if found != wanted:
        raise WrongAnswerError(f"the server answered {found!r}, not {wanted!r}")
