"""One direction of a connection: a queue between two sockets.

Each chunk that arrives is stamped with the moment at which it may leave, and another task sends the chunks in order.
A delay therefore does not limit the bandwidth: any number of bytes may be delayed at the same time.

The sockets are used directly, without asyncio's transports, for two reasons. A transport whose peer has gone drops the
bytes that it has read, and a transport cannot stop reading after a given number of bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import deque
from typing import Final

from .lanes import Direction, Rule
from .slow_link import Schedule
from .state import ConnectionState

__all__ = ["Stream"]

_CHUNK_BYTES: Final = 64 * 1024
_MAX_HELD_BYTES: Final = 1024 * 1024
# Seconds of a drip that one piece carries.
_DRIP_INTERVAL: Final = 0.01

# No answer begins with these bytes, and no text contains them: they are no UTF-8.
_GARBAGE: Final = b"\xff" * 62 + b"\r\n"


class Stream:
    """One direction: a queue, the task ``receive`` that fills it, and the task ``deliver`` that empties it.

    Args:
        direction: Where the bytes go.
        ends: The socket that the stream reads and the socket that it writes.
        seed: Seeds the delays of this stream alone, so that other connections do not change them.
        state: The state of the connection.

    Attributes:
        held_bytes: Bytes read and not yet sent.
    """

    def __init__(
        self, direction: Direction, ends: tuple[socket.socket, socket.socket], seed: str, state: ConnectionState
    ) -> None:
        self._direction: Direction = direction
        self._source, self._sink = ends
        self._state = state
        self._random = random.Random(f"{seed}:{direction}")
        # Chunks, each with the moment from which it may leave; b"" is the end of the stream.
        self._held: deque[tuple[float, bytes]] = deque()
        self.held_bytes = 0
        self._room = asyncio.Event()
        self._schedule = Schedule(direction)
        self._is_broken = False
        # Set when a chunk has arrived and when a rule has changed.
        self._changed = asyncio.Event()
        state.watch(self._changed)

    async def receive(self) -> None:
        """Read chunks until the end of the source; wait while the queue is full."""
        loop = asyncio.get_running_loop()
        data = b"more"
        while data:
            while self.held_bytes > self._most_held_bytes - _CHUNK_BYTES:
                self._room.clear()
                await self._room.wait()
            try:
                data = await loop.sock_recv(self._source, _CHUNK_BYTES)
            except OSError:  # A reset: the chunks before it are still delivered, and then the end.
                data = b""
            if self._direction == "to_server":
                self._state.inspect(data)
            self._held.append((loop.time() + self._delay(self._state.rule), data))
            self.held_bytes += len(data)
            self._changed.set()

    @property
    def _most_held_bytes(self) -> int:
        link = self._state.rule.link
        return _MAX_HELD_BYTES if link is None else min(_MAX_HELD_BYTES, _CHUNK_BYTES + link.room_bytes)

    def _delay(self, rule: Rule) -> float:
        delay = self._random.uniform(rule.low, rule.high)
        return delay if rule.link is None else delay + rule.link.delay

    async def deliver(self) -> None:
        """Send the held chunks in order, until the end of the stream has been sent or a cut has taken place."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._held:
                await self._wait_change()
            due, data = self._held.popleft()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                await self._allowance(0, due)
                with contextlib.suppress(OSError):
                    self._sink.shutdown(socket.SHUT_WR)
                return
            if not await self._pass(memoryview(data), due):
                return

    async def _pass(self, data: memoryview, due: float) -> bool:
        """Send a chunk; return False if a cut or garbage has ended the connection."""
        while data:
            size = await self._allowance(len(data), due)
            if self._direction == "to_client":
                if self._state.is_garbled:
                    await self._send(memoryview(_GARBAGE))
                    return False
                size = self._state.take(size)
                if not size:
                    self._state.fate = "reset"
                    return False
            await self._send(data[:size])
            data = data[size:]
            self.held_bytes -= size
            self._room.set()
        return True

    async def _send(self, data: memoryview) -> None:
        if self._is_broken:
            return
        try:
            await asyncio.get_running_loop().sock_sendall(self._sink, data)
        except OSError:
            # The receiver has gone. The stream keeps reading and drops the bytes: to close the source with unread bytes
            # would reset it, and the reset would destroy the bytes on their way in the other direction.
            self._is_broken = True

    async def _allowance(self, size: int, due: float) -> int:
        """Wait until the rule lets bytes pass; return how many of ``size``, ready since ``due``, may go now."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            rule = self._state.rule
            if self._is_broken:
                return size
            if self._direction in rule.stalled:
                await self._wait_change()
                due = loop.time()
                continue
            if not size or (rule.link is None and rule.bytes_per_second is None):
                return size
            piece, at = size, began
            if rule.link is not None:
                # Counted from ``due``, so that a timer that is late slows no later byte down.
                piece, at = self._schedule.next_piece(rule.link, due, piece)
            if rule.bytes_per_second is not None:
                piece = min(piece, max(1, int(rule.bytes_per_second * _DRIP_INTERVAL)))
                at = max(at, began + piece / rule.bytes_per_second)
            if (wait := at - loop.time()) <= 0:
                self._schedule.passed(piece, at)
                return piece
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wait_change()

    async def _wait_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
