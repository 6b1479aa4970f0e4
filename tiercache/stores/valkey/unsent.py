"""The bytes of a connection that are written and that the other end has not received yet."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows. The transport's own buffer is counted all the same.

    def _kernel_bytes(socket: Any) -> int:
        return 0

else:

    def _kernel_bytes(socket: Any) -> int:
        try:
            (count,) = struct.unpack("i", ioctl(socket.fileno(), TIOCOUTQ, b"\0\0\0\0"))
        except (OSError, ValueError):  # The system does not count, or the socket is closed.
            return 0
        return int(count)


__all__ = ["unsent_bytes_of"]


def unsent_bytes_of(transport: Any) -> Callable[[], int]:
    """Return a function that counts the unsent bytes of ``transport``: in its buffer and in the kernel's queue.

    The kernel takes megabytes from a process long before the network has carried them. On Linux it tells how many bytes
    of a TCP connection the other end has not acknowledged (SIOCOUTQ in tcp(7)). Elsewhere only the buffer counts.
    """
    # With TLS, asyncio encrypts into a second transport, which has the buffer.
    inner: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    sizes: list[Callable[[], int]] = [
        each.get_write_buffer_size for each in (transport, inner) if hasattr(each, "get_write_buffer_size")
    ]
    socket = transport.get_extra_info("socket") if hasattr(transport, "get_extra_info") else None

    def count() -> int:
        kernel_bytes = 0 if socket is None else _kernel_bytes(socket)
        return kernel_bytes + sum([size() for size in sizes])

    return count
