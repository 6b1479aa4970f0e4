"""A connection through the proxy: the client's socket, the server's socket, and a stream in each direction."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

from .lanes import Lanes
from .state import ConnectionState
from .stream import Stream
from .target import Target

__all__ = ["Connection", "close_socket"]

_CONNECT_TIMEOUT: Final = 10.0
_RECEIVE_BUFFER_BYTES: Final = 64 * 1024
# l_onoff and l_linger of socket(7): close() sends a reset and drops the unsent bytes.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Connection:
    """A client's connection and the proxy's own connection to the server.

    Args:
        client: The accepted socket.
        seed: Seeds the delays of this connection alone.

    Attributes:
        task: Runs ``carry``.
        state: The lane, the pending cut and the fate.
    """

    task: asyncio.Task[None]

    def __init__(self, client: socket.socket, target: Target, seed: str, lanes: Lanes) -> None:
        self._target = target
        self.state = ConnectionState(lanes)
        self._client = client
        self._server = socket.socket(target.family, socket.SOCK_STREAM)
        for end in (self._client, self._server):
            end.setblocking(False)
            if end.family in (socket.AF_INET, socket.AF_INET6):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Otherwise the kernel takes megabytes from a sender while the proxy reads nothing.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._to_server = Stream("to_server", (self._client, self._server), seed, self.state)
        self._to_client = Stream("to_client", (self._server, self._client), seed, self.state)
        self._other_tasks: list[asyncio.Task[None]] = []

    @property
    def held_bytes(self) -> int:
        """Bytes read and not yet sent, in both directions."""
        return self._to_server.held_bytes + self._to_client.held_bytes

    def cancel(self) -> None:
        """Cancel every task of the connection; no byte passes after this call."""
        self.task.cancel()
        # ``task`` cancels these when it next runs, but each of them may run before it and pass bytes.
        for task in self._other_tasks:
            task.cancel()

    def close(self) -> None:
        """Close both sockets, if they are open, with a reset if that is the connection's fate."""
        for end in (self._client, self._server):
            close_socket(end, reset=self.state.fate == "reset")

    async def carry(self) -> None:
        """Carry bytes both ways until the server has ended the connection and the client has all its bytes."""
        # Also here: an eager task reads its first bytes before its creation returns, and ``lane_of`` may cancel it.
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(self._server, self._target.address)
        except OSError:  # The server is absent, or does not answer in time: the client gets a reset.
            self.state.fate = "reset"
            return
        async with asyncio.TaskGroup() as group:
            # ``deliver`` first: if ``lane_of`` kills the connection in the first step of an eager ``receive``, no byte
            # passes afterwards.
            for work in (self._to_server.deliver(), self._to_server.receive(), self._to_client.receive()):
                self._other_tasks.append(group.create_task(work, name="chaos-proxy"))
            await self._to_client.deliver()
            for task in self._other_tasks:
                task.cancel()


def close_socket(end: socket.socket, *, reset: bool) -> None:
    """Close a socket, orderly or with a reset. Do nothing if it is closed."""
    if reset and end.fileno() >= 0:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.close()
