"""The second level on one Valkey server: reads, ordered writes, scans, subscriptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Final

from valkey.exceptions import NoPermissionError, ResponseError

from ...engine.entries.key_pattern import escape
from ...engine.level2.level2 import Stored
from ...engine.level2.writes import Command, Write, WriteResult
from ...errors import L2CommandError
from ...indexes.scripts import members_script, register_script
from .backplane import BackplaneNames, ValkeySubscription
from .errors import checked, map_error, map_errors
from .pool import open_pool
from .reads import BatchReader
from .registering import RegisteringReads
from .roles import ASK_ROLE, ReplicaError, check_role
from .scripts import script
from .settings import Settings
from .writer import Writer

__all__ = ["ValkeyLevel2"]

_SCAN_COUNT: Final = 1000
# Indexes trimmed in one exchange, and the most exchanges of one trim.
_TRIMMED_COUNT: Final = 50
_MAX_TRIMS: Final = 100
# Opening a connection has this many times the deadline of an exchange: the process resolves names, negotiates TLS and
# authenticates.
_CONNECT_DEADLINES: Final = 4
# Digits of the counter of changes: the clock in microseconds has 16.
_NUMBER_DIGITS: Final = 18
_MAPPED_GET: Final = map_errors("GET")


class ValkeyLevel2:
    """A Level2 on connections of its own, bound to the running loop from the first call on.

    There is one connection for writes, one for each subscription, and a connection pool for everything else.

    Args:
        settings: Options for the connections.
        timeout: Seconds without a byte in one exchange, counted from the moment when a connection is free.
        name: The cache's name.
        origin: Signs the announcements of this process.
    """

    def __init__(self, settings: Settings, *, timeout: float, name: str = "betterdb_ac", origin: str = "") -> None:
        self._settings = settings = settings.named(name)
        self._timeout = timeout
        self._connect_timeout = timeout * _CONNECT_DEADLINES
        self._names = BackplaneNames.of(name, settings.db)
        self._origin = origin
        self._read_number: Command = ("GET", self._names.sequence)
        self._pool = open_pool(settings, timeout=timeout, connect_timeout=self._connect_timeout)
        self._writer = Writer(settings, self._names, origin, timeout=timeout, connect_timeout=self._connect_timeout)
        self._batch_reader = BatchReader()
        self._registering_reads = RegisteringReads(self._writer, self._pool, timeout)
        self._role_refusal: L2CommandError | None = None

    async def ping(self) -> None:
        reply = await self._ask_primary(("PING",), self._connect_timeout)
        checked(reply, "PING")

    async def get(self, key: str) -> Stored | None:
        with _MAPPED_GET:
            connection = self._writer.registering
            registered = None if connection is None else await self._registering_reads.get(connection, key)
            value, ttl = registered or await self._pool.read(key, self._timeout)
        if isinstance(value, ResponseError):
            if str(value).startswith("WRONGTYPE"):
                return Stored(None, None)
            raise map_error(value, "GET") or value
        if isinstance(ttl, ResponseError):
            raise map_error(ttl, "PTTL") or ttl
        if value is None or ttl == -2:
            return None  # -2: the key expired between the two commands.
        return Stored(value, None if ttl == -1 else ttl / 1000, registered is not None)

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        with map_errors("a read of many keys"):
            is_registered = await self._registering_reads.register(keys)
            found = await self._batch_reader.read(
                keys, lambda commands: self._pool.exchange(commands, self._timeout, may_repeat=True)
            )
        if not is_registered:
            return found
        return [None if each is None else Stored(each.value, each.ttl, True) for each in found]

    async def get_values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with map_errors("MGET"):
            (values,) = await self._pool.exchange([("MGET", *keys)], self._timeout, may_repeat=True)
        return list(checked(values, "MGET"))

    def apply(self, writes: Sequence[Write]) -> Awaitable[list[WriteResult]]:
        return self._writer.write(writes)

    async def scan(self, *prefixes: str, match: str | None = None) -> AsyncIterator[list[bytes]]:
        pattern = escape(_common_start(prefixes)) + "*" if match is None else match
        starts = tuple(prefix.encode() for prefix in prefixes)
        cursor: int | bytes = 0
        while True:
            command: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            with map_errors("SCAN"):
                (reply,) = await self._pool.exchange([command], self._timeout, may_repeat=True)
            cursor, found = checked(reply, "SCAN")
            keys = found if len(starts) <= 1 else [key for key in found if key.startswith(starts)]
            if keys:
                yield keys
            if int(cursor) == 0:
                return

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        with map_errors("a batch of commands"):
            replies = await self._pool.exchange(commands, self._timeout)
        return [_mapped(reply) for reply in replies]

    async def trim_indexes(self) -> None:
        self._writer.forget_listed()
        register = self._names.indexes
        again: list[bytes] = []
        for _ in range(_MAX_TRIMS):
            page = again
            if not page:
                (page,) = await self.execute([("EVAL", register_script("due"), 1, register, _TRIMMED_COUNT)])
                if isinstance(page, Exception):
                    raise page
                if not page:
                    return
            replies = await self.execute([("EVAL", members_script("trim"), 1, index) for index in page])
            # members_trim.lua replies 1 if the index must be trimmed again at once, 2 if it does not exist.
            again = [index for index, reply in zip(page, replies, strict=True) if reply == 1]
            gone = [index for index, reply in zip(page, replies, strict=True) if reply == 2]
            if gone:
                await self.execute([("ZREM", register, *gone)])

    async def subscribe(self, *, watches: bool = False) -> ValkeySubscription:
        return await ValkeySubscription.open(
            self._settings,
            self._names,
            watches=watches,
            origin=self._origin,
            timeout=self._timeout,
            connect_timeout=self._connect_timeout,
        )

    async def start_numbers(self) -> int:
        (number,) = await self.execute([("EVAL", script("start_numbers"), 1, self._names.sequence)])
        return _number(number)

    async def last_number(self) -> int:
        return _number(_mapped(await self._ask_primary(self._read_number, self._timeout)))

    @property
    def role_refusal(self) -> L2CommandError | None:
        return self._role_refusal

    async def _ask_primary(self, command: Command, timeout: float) -> Any:
        """Return the reply to ``command``; leave the server and raise L2ReplicaError if it is no primary."""
        with map_errors(str(command[0])):
            try:
                # A new connection may raise by itself.
                reply, role = await self._pool.exchange([command, ASK_ROLE], timeout)
                check_role(role)
            except ReplicaError as error:
                self._leave(error)
                raise
        refused = isinstance(role, NoPermissionError)
        self._role_refusal = L2CommandError(f"Valkey refused ROLE: {role}") if refused else None
        return reply

    def _leave(self, error: ReplicaError) -> None:
        # The name of the server may lead to another server by now, and each new connection asks for the role.
        self._pool.leave(error)
        self._writer.leave(error)

    async def aclose(self) -> None:
        await self._pool.aclose()
        await self._writer.aclose()


def _common_start(texts: Sequence[str]) -> str:
    """Return the characters with which all ``texts`` begin."""
    first, last = min(texts), max(texts)
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _number(reply: Any) -> int:
    """Return the counter of changes from the reply to its GET, 0 if it is missing or not a number; raise an error."""
    if isinstance(reply, Exception):
        raise reply
    # Other clients can write the counter. Its length first: Python refuses an int of thousands of digits.
    return int(reply) if isinstance(reply, bytes) and len(reply) <= _NUMBER_DIGITS and reply.isdigit() else 0


def _mapped(reply: Any) -> Any:
    """Return ``reply``, or the tiercache error for a refusal."""
    return (map_error(reply, "a command") or reply) if isinstance(reply, ResponseError) else reply
