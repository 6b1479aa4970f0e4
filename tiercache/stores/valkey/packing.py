"""Packed commands: commands as they are sent. The frequent ones are formatted here, in half of libvalkey's time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from libvalkey import pack_command

from ...engine.level2.writes import Command, TakeLease, WriteSet
from ...ttl import to_milliseconds

__all__ = ["TRANSACTION_COUNT", "Sendable", "pack", "packed_pttl", "packed_set", "packed_take"]

# A command, or the bytes of packed ones.
Sendable: TypeAlias = Command | bytes

_SET: Final = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b"
_PTTL: Final = b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"
_TRANSACTION: Final = b"".join([pack_command(("MULTI",)), _SET, _PTTL, pack_command(("EXEC",))])
# The commands of ``_TRANSACTION``, and so the replies to it.
TRANSACTION_COUNT: Final = 4
_TAKE: Final = b"*7\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nNX\r\n$3\r\nGET\r\n%b"


def pack(commands: Sequence[Sendable]) -> bytes:
    """Return ``commands`` as they are sent."""
    packed = [command if isinstance(command, bytes) else pack_command(command) for command in commands]
    return packed[0] if len(packed) == 1 else b"".join(packed)


def packed_set(write: WriteSet, *, registers: bool) -> bytes:
    """Return the SET of ``write``, for a server with SET ... IFEQ.

    Args:
        registers: Whether the server registers the key, in one step with the SET: MULTI, SET, PTTL, EXEC.
    """
    key, value = write.key.encode(), write.value
    size, count, options = len(key), 3, b""
    if (replaced := write.replaces) is not None:
        count, options = 5, b"$4\r\nIFEQ\r\n$%d\r\n%b\r\n" % (len(replaced), replaced)
    if write.keeps_expiry:
        count, options = count + 1, options + b"$7\r\nKEEPTTL\r\n"
    elif write.ttl is not None:
        count, options = count + 2, options + _px(write.ttl)
    if registers:
        return _TRANSACTION % (count, size, key, len(value), value, options, size, key)
    return _SET % (count, size, key, len(value), value, options)


def packed_take(write: TakeLease) -> bytes:
    """Return the SET ... NX GET of ``write``."""
    key, placeholder = write.key.encode(), write.placeholder
    return _TAKE % (len(key), key, len(placeholder), placeholder, _px(write.ttl))


def packed_pttl(key: str) -> bytes:
    """Return the PTTL of ``key``."""
    data = key.encode()
    return _PTTL % (len(data), data)


def _px(ttl: float) -> bytes:
    milliseconds = b"%d" % to_milliseconds(ttl)
    return b"$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(milliseconds), milliseconds)
