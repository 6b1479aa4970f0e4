"""ValkeyLevel2: reads, ordered writes and scans on one Valkey server."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Final

from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import ResponseError

from ...engine.level2.level2 import Position, Stored
from ...engine.level2.writes import Command, Write, WriteResult
from .backplane import BusNames, ValkeySubscription
from .errors import checked, map_error, map_errors
from .pool import open_exchanges
from .reads import CHUNK_COUNT, BatchReader
from .scripts import script
from .settings import Settings
from .writer import Writer

__all__ = ["ValkeyLevel2"]

_SCAN_COUNT: Final = 1000
# Indexes trimmed in one exchange, and exchanges at most.
_TRIMMED_COUNT: Final = 20
_MAX_TRIMS: Final = 100
# Above the deadline that an empty exchange has: a slow network must still be able to carry a large batch.
_BYTES_PER_SECOND: Final = 16 * 1024 * 1024
# A first connection resolves names, does a TLS handshake and authenticates.
_CONNECT_DEADLINES: Final = 4
_MAPPED_GET: Final = map_errors("GET")


class ValkeyLevel2:
    """A Level2 on connections of its own, bound to the running loop from the first call on.

    One for writes, one for each subscription, and one or several for everything else.

    Args:
        settings: How to connect.
        timeout: Seconds for one exchange, from the moment a connection is free.
        name: The cache's.
        origin: What its announcements are signed with.
    """

    def __init__(self, settings: Settings, *, timeout: float, name: str = "betterdb_ac", origin: str = "") -> None:
        self._settings = settings
        self._timeout = timeout
        self._connecting = timeout * _CONNECT_DEADLINES
        self._names = BusNames.of(name, settings.db)
        self._origin = origin
        self._ask_number: Command = ("GET", self._names.sequence)
        self._exchanges = open_exchanges(settings, timeout=timeout, connecting=self._connecting)
        self._writer = Writer(settings, self._names, origin, timeout=timeout, connecting=self._connecting)
        self._batch_reader = BatchReader()

    async def ping(self) -> None:
        with map_errors("PING"):
            (reply,) = await self._exchanges.exchange([("PING",)], self._connecting)
        checked(reply, "PING")

    async def get(self, key: str) -> Stored | None:
        with _MAPPED_GET:
            # As ``exchange`` does, with less around it: this is what most calls past process memory come to.
            under_way = self._exchanges.begin(_packed_get(key), 2, self._timeout)
            replies: list[Any] | None = None
            if under_way is not None:
                try:
                    replies = await under_way
                except ValkeyConnectionError:
                    replies = None  # It may have ended without anybody noticing: once more, on another connection.
            if replies is None:
                commands: list[Command] = [("GET", key), ("PTTL", key)]
                replies = await self._exchanges.exchange(commands, self._timeout, may_repeat=under_way is None)
        value, ttl = replies
        if isinstance(value, ResponseError):
            if str(value).startswith("WRONGTYPE"):
                return Stored(None, None)
            raise map_error(value, "GET") or value
        if isinstance(ttl, ResponseError):
            raise map_error(ttl, "PTTL") or ttl
        if value is None or ttl == -2:
            return None  # Gone; -2: between the two commands.
        return Stored(value, None if ttl == -1 else ttl / 1000)

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        # What the answer weighs is not known beforehand: each chunk has the time of one exchange.
        timeout = self._timeout * max(1, math.ceil(len(keys) / CHUNK_COUNT))
        with map_errors("a read of many keys"):
            return await self._batch_reader.read(
                keys, lambda commands: self._exchanges.exchange(commands, timeout, may_repeat=True)
            )

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with map_errors("MGET"):
            (values,) = await self._exchanges.exchange([("MGET", *keys)], self._timeout, may_repeat=True)
        return list(checked(values, "MGET"))

    def apply(self, writes: Sequence[Write]) -> Awaitable[list[WriteResult]]:
        size_bytes = sum([write.size_bytes for write in writes])
        return self._writer.write(writes, self._timeout + size_bytes / _BYTES_PER_SECOND)

    async def scan(self, prefix: str) -> AsyncIterator[list[bytes]]:
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
        cursor: int | bytes = 0
        while True:
            command: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            with map_errors("SCAN"):
                (reply,) = await self._exchanges.exchange([command], self._timeout, may_repeat=True)
            cursor, keys = checked(reply, "SCAN")
            if keys:
                yield keys
            if int(cursor) == 0:
                return

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        with map_errors("a batch of commands"):
            replies = await self._exchanges.exchange(commands, self._timeout)
        return [_mapped(reply) for reply in replies]

    async def trim_indexes(self) -> None:
        indexes = self._writer.indexes
        later: list[str] = []
        for _ in range(_MAX_TRIMS):
            page = [indexes.pop() for _ in range(min(_TRIMMED_COUNT, len(indexes)))]
            if not page:
                break
            replies = await self.execute([("EVAL", script("trim"), 1, index) for index in page])
            # Where there is more to do, it is done next.
            indexes.update(index for index, more in zip(page, replies, strict=True) if more == 1)
            later += [index for index, more in zip(page, replies, strict=True) if more == 2]
        indexes.update(later)

    async def subscribe(self) -> ValkeySubscription:
        return await ValkeySubscription.open(
            self._settings,
            self._names.channel,
            origin=self._origin,
            timeout=self._timeout,
            connecting=self._connecting,
        )

    async def position(self) -> Position:
        info, number = await self.execute([("INFO", "server"), ("EVAL", script("position"), 1, self._names.sequence)])
        # Without permission to ask it is not known which server answers: nothing is proved then.
        server = re.search(rb"run_id:(\w+)", info) if isinstance(info, bytes) else None
        return Position(None if server is None else server[1].decode(), _number(number))

    async def last_number(self) -> int:
        (number,) = await self.execute([self._ask_number])
        return _number(number)

    async def aclose(self) -> None:
        await self._exchanges.aclose()
        await self._writer.aclose()


def _packed_get(key: str) -> bytes:
    """Return GET and PTTL of ``key`` as they are sent: a third of the time that packing takes them."""
    data = key.encode()
    size = len(data)
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n" % (size, data, size, data)


def _number(reply: Any) -> int:
    """Return what the counter of changes holds, 0 for nothing or for what is no number; raise if it may not be read."""
    if isinstance(reply, Exception):
        raise reply
    return int(reply) if isinstance(reply, bytes) and reply.isdigit() else 0


def _mapped(reply: Any) -> Any:
    return (map_error(reply, "a command") or reply) if isinstance(reply, ResponseError) else reply
