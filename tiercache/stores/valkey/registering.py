"""Registering reads: reads on the writer's connection, whose keys the server then tracks by interest.

The server reports the next change of a key that this connection has read, also of a key that was absent. The connection
carries all writes of the process, so no large reply may stand in front of their answers. Therefore a read asks for the
first bytes of a value only (``LARGEST_BYTES``), and reads a larger value on a connection of the pool. That is safe: the
key was registered before the value was read, so a later change is reported. For many keys at once there are two round
trips for the same reason: EXISTS registers them, and the pool reads them.

Many reads at once could add up to a large reply, too. So the more exchanges are in flight, the fewer bytes a read asks
for: 64 KiB while fewer than 8 are, 32 KiB from 8 on, 16 KiB from 16 on, and so on down to 1 KiB. The replies to a
thousand reads are therefore 2.6 MB or less, which a write waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import NoPermissionError

from .multiplexed import MultiplexedConnection
from .pool import ConnectionPool
from .writer import Writer

__all__ = ["LARGEST_BYTES", "RegisteringReads"]

# The largest reply on the writer's connection. At 100 Mbit/s it takes 5 ms.
LARGEST_BYTES: Final = 64 * 1024
# Each number of bytes that a read may ask for, with the end of its GETRANGE.
_RANGES: Final = [
    (size, b"\r\n$1\r\n0\r\n$%d\r\n%d\r\n" % (len(str(size - 1)), size - 1))
    for size in (LARGEST_BYTES >> step for step in range(7))
]
_WIDEST: Final = _RANGES[0]
# The replies to GET and PTTL of an absent key.
_ABSENT: Final = [None, -2]


class RegisteringReads:
    """The reads of one process that register their keys.

    Args:
        writer: Has the connection that is tracked.
        pool: Reads large values.
        timeout: Seconds without a byte in one exchange.
    """

    def __init__(self, writer: Writer, pool: ConnectionPool, timeout: float) -> None:
        self._writer = writer
        self._pool = pool
        self._timeout = timeout

    async def get(self, connection: MultiplexedConnection, key: str) -> list[Any] | None:
        """Return the replies to GET and PTTL of ``key``; None if the key could not be registered.

        Args:
            connection: ``Writer.registering``.
        """
        try:
            if connection.is_full:
                await connection.wait_room()
            pending = connection.pending_count
            largest, packed_range = _WIDEST if pending < 8 else _narrower(pending)
            replies = await connection.send(_packed_read(key, packed_range), 2, self._timeout)
        except ValkeyConnectionError:
            return None  # The server may have ended the connection before; the pool's may be open.
        value, ttl = replies
        if type(value) is bytes:
            if 0 < len(value) < largest:
                return replies
            # No value, or an empty one. The race "write between": if another client has set the key since, PTTL shows
            # the newer value, and GETRANGE none.
            if not value and ttl == -2:
                return _ABSENT
            return await self._pool.read(key, self._timeout)
        # The user may have lost the right to GETRANGE. GET may still be permitted.
        return None if isinstance(value, NoPermissionError) else replies

    async def register(self, keys: Sequence[str]) -> bool:
        """Register ``keys``; return whether that was possible."""
        connection = self._writer.registering
        if connection is None or not keys:
            return False
        try:
            if connection.is_full:
                await connection.wait_room()
            (reply,) = await connection.exchange([("EXISTS", *keys)], self._timeout)
        except ValkeyConnectionError:
            return False
        return type(reply) is int


def _narrower(pending: int) -> tuple[int, bytes]:
    """Return how many bytes to ask for while ``pending`` exchanges are in flight, and the end of the GETRANGE."""
    step = (pending >> 3).bit_length()
    return _RANGES[step] if step < len(_RANGES) else _RANGES[-1]


def _packed_read(key: str, packed_range: bytes) -> bytes:
    """Return GETRANGE and PTTL of ``key`` as they are sent."""
    data = key.encode()
    size = len(data)
    return b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b%b*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n" % (
        size,
        data,
        packed_range,
        size,
        data,
    )
