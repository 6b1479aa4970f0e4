"""A TCP proxy in front of a Valkey that misbehaves as networks do, on demand: one long class, mostly its documentation.

Bytes pass each direction of a connection through a queue. What arrives is stamped with the moment at which it may go
on; another task lets it go, in order. So a delay does not narrow the wire: as much is under way as the sender likes.

The sockets are used as they are, without asyncio's transports: a transport whose peer has gone throws away what it has
read, and it cannot be told to stop being read at a given count of bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from ..errors import UsageError

__all__ = ["ChaosProxy"]

Direction: TypeAlias = Literal["to_server", "to_client"]

_BOTH: Final[tuple[Direction, ...]] = ("to_server", "to_client")
_CHUNK_BYTES: Final = 64 * 1024
_MAX_HELD_BYTES: Final = 1024 * 1024
_OPENING_BYTES: Final = 4096
_CONNECT_TIMEOUT: Final = 10.0
# A drip is cut into pieces of so many seconds.
_DRIP_INTERVAL: Final = 0.01
# l_onoff, l_linger of socket(7): close() sends a reset and drops what was not sent.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
# A RESP array whose first element is one of the commands that subscribe.
_SUBSCRIBES: Final = re.compile(rb"\*\d+\r\n\$\d+\r\n[PS]?SUBSCRIBE\r\n", re.IGNORECASE)


class ChaosProxy:
    """A proxy on a free port of 127.0.0.1, from ``async with`` on; a plain wire until told otherwise.

    Args:
        target: URL of the server, without TLS: ``valkey://host:port``, ``redis://host:port`` or ``unix:///path``.
            A host name is resolved to IPv4.
        seed: Where the random delays come from. None draws one, shown by ``seed``.
        lane_of: Names the lane of a connection from what its client has sent so far, at most its first 4 KiB. Asked
            with ``b""`` once, by the constructor, and again whenever more of these bytes arrive. The default says
            ``"bus"`` for a connection that has sent SUBSCRIBE, PSUBSCRIBE or SSUBSCRIBE, else ``"commands"``.

    Raises:
        UsageError: ``target`` is no such URL.

    Every method but ``connection_count`` and ``held_bytes`` changes what the proxy does, at once and without waiting.
    Those with ``lane`` do so for one lane, or for all of them where it is None; of two calls about the same lane the
    later one counts. Latency, stall and drip are properties of a lane, and hold for its present and later connections.
    They add up. ``half_open``, ``cut_after`` and ``kill`` happen to the connections that are there.

    Each connection has delays of its own, so the bytes of two may arrive in another order than they were sent;
    those of one never do. At most 1 MiB is held for each direction of a connection: beyond that the proxy does not
    read, and the sender fills the kernel's buffers and then waits, as with a receiver that does not read.

    What a client sent before it closed, or was killed by its own side, reaches the server all the same. A connection
    that one end has reset ends in an orderly way for the other. Where the server cannot be reached, the client's
    connection is reset.
    """

    def __init__(self, target: str, *, seed: int | None = None, lane_of: Callable[[bytes], str] | None = None) -> None:
        self.seed = random.getrandbits(32) if seed is None else seed
        self._target = _checked(target)
        self._lane_of = _bus_or_commands if lane_of is None else lane_of
        self._first_lane = self._lane_of(b"")
        self._everywhere = _Rule()
        self._lanes: dict[str, _Rule] = {}
        self._refused = False
        self._listener: socket.socket | None = None
        self._accepted_count = 0
        # In the order in which they came.
        self._connections: dict[_Connection, None] = {}
        self._silent: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []

    async def __aenter__(self) -> Self:
        if self._listener is not None:
            raise UsageError("the proxy is in use already")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        # Accepting in a callback leaves no moment at which a cancelled task could lose an accepted connection.
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every connection and every task, and drop what is held.

        Raises:
            Exception: What ``lane_of`` raised, if anything; its connection was reset.
        """
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in [*self._connections, *self._silent]:
            connection.close()
        self._connections.clear()
        self._silent.clear()
        errors, self._errors = self._errors, []
        if errors and error is None:
            raise errors[0]

    @property
    def url(self) -> str:
        """Where clients connect to, inside of ``async with``: ``valkey://127.0.0.1:<port>/<db>``.

        Credentials, db number and options are those of the target.
        """
        if self._listener is None:
            raise UsageError("url: the proxy listens inside of 'async with' only")
        port = self._listener.getsockname()[1]
        credentials, at, _ = self._target.netloc.rpartition("@")
        options = dict(parse_qsl(self._target.query))
        path = "" if self._target.scheme == "unix" else self._target.path.strip("/")
        db = options.pop("db", path or "0")
        query = f"?{urlencode(options)}" if options else ""
        return f"valkey://{credentials}{at}127.0.0.1:{port}/{db}{query}"

    def connection_count(self, lane: str | None = None) -> int:
        """Return how many connections are open, half-open ones not counted."""
        return len(self._present(lane))

    def held_bytes(self, lane: str | None = None) -> int:
        """Return how many bytes the proxy has read and not yet passed on, both directions together."""
        return sum(connection.held_bytes for connection in self._present(lane))

    def latency(self, low: float, high: float | None = None, *, lane: str | None = None) -> None:
        """Delay what arrives from now on, each way.

        Args:
            low: Seconds, at least 0.
            high: Seconds. With it each chunk of bytes is delayed by a time of its own between the two, drawn anew.
                None: all alike.
            lane: None means all.

        What waits already is not affected, and goes on when its own time has come. The delays of the n-th connection
        are the same for the same ``seed``, whatever other connections do.
        """
        high = low if high is None else high
        if not 0 <= low <= high < math.inf:
            raise UsageError(f"latency: from {low!r} to {high!r} seconds is no range of delays")
        self._change(lane, lambda rule: replace(rule, low=low, high=high))

    def stall(self, direction: Literal["to_server", "to_client", "both"] = "both", *, lane: str | None = None) -> None:
        """Hold all bytes, and the end of a connection, until ``heal``; then they go on. Nothing is lost."""
        if direction not in (*_BOTH, "both"):
            raise UsageError(f"direction: one of to_server, to_client and both, not {direction!r}")
        directions = _BOTH if direction == "both" else (direction,)
        self._change(lane, lambda rule: replace(rule, stalled=rule.stalled.union(directions)))

    def drip(self, bytes_per_second: float, *, lane: str | None = None) -> None:
        """Let bytes pass slowly and a few at a time, each way of each connection by itself.

        Args:
            bytes_per_second: Above 0. Pieces are as large as 10 ms allow, and at least one byte.
            lane: None means all.
        """
        if not 0 < bytes_per_second < math.inf:
            raise UsageError(f"bytes_per_second: above 0 and finite, not {bytes_per_second!r}")
        self._change(lane, lambda rule: replace(rule, bytes_per_second=bytes_per_second))

    def half_open(self, *, lane: str | None = None) -> None:
        """Silence the present connections for ever: neither bytes nor the end of one end pass to the other.

        Neither end can tell, except by waiting: the proxy's kernel still answers TCP's own keepalive. They are counted
        no more, and no later call affects them, ``heal`` and ``kill`` included. New connections work.
        """
        for connection in self._present(lane):
            self._drop(connection, "silent")

    def cut_after(self, byte_count: int, *, lane: str | None = None) -> None:
        """Reset each present connection in the place of a byte to its client, after so many further ones.

        Args:
            byte_count: At least 0. With 0 the server carries out a command and the client never hears of it. Of the
                last bytes before the reset the client gets what its receive window had room for, as with TCP
                everywhere: all of some ten KiB, at most that many of more.
            lane: None means all.

        ``heal`` calls it off for the connections that are still there.
        """
        if byte_count < 0:
            raise UsageError(f"byte_count: at least 0, not {byte_count!r}")
        for connection in self._present(lane):
            connection.cut_in = byte_count

    def kill(self, *, lane: str | None = None) -> int:
        """Reset the present connections towards both ends, and return how many. What is held is lost.

        No byte passes after this; the reset itself goes out when the event loop runs next. A server on a Unix socket
        sees its end closed: there are no resets.
        """
        present = self._present(lane)
        for connection in present:
            self._drop(connection, "reset")
        return len(present)

    def refuse(self, refused: bool = True) -> None:
        """Refuse new connections, or accept them again.

        A refused connection is accepted and reset at once: connecting may succeed, the first read or write fails.
        """
        self._refused = refused

    def heal(self, *, lane: str | None = None) -> None:
        """Go back to a plain wire: what is stalled or drips goes on at once, a pending cut is called off.

        Args:
            lane: None means all, and also ends ``refuse``.

        What waits for its latency still waits for it. Half-open connections stay as they are.
        """
        if lane is None:
            self._refused = False
        for connection in self._present(lane):
            connection.cut_in = None
        self._change(lane, lambda _: _Rule())

    def _rule_of(self, lane: str) -> _Rule:
        return self._lanes.get(lane, self._everywhere)

    def _change(self, lane: str | None, change: Callable[[_Rule], _Rule]) -> None:
        if lane is None:
            self._everywhere = change(self._everywhere)
            self._lanes = {name: change(rule) for name, rule in self._lanes.items()}
        else:
            self._lanes[lane] = change(self._rule_of(lane))
        for connection in self._connections:
            connection.wake()

    def _present(self, lane: str | None) -> list[_Connection]:
        return [connection for connection in self._connections if lane is None or lane == connection.lane]

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # It has gone again.
        if self._refused:
            _close(client, reset=True)
            return
        self._accepted_count += 1
        connection = _Connection(client, self._target, f"{self.seed}:{self._accepted_count}", self)
        self._connections[connection] = None
        task = connection.task = asyncio.get_running_loop().create_task(connection.carry(), name="chaos-proxy")
        self._tasks.add(task)
        # Not in the task itself: one that is cancelled before its first step never runs.
        task.add_done_callback(lambda task: self._ended(connection, task))

    def _ended(self, connection: _Connection, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._connections.pop(connection, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The group holds what lane_of raised, the one thing here that is not ours.
            self._errors += error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
            connection.fate = "reset"
        if connection.fate != "silent":
            connection.close()

    def _drop(self, connection: _Connection, fate: Literal["reset", "silent"]) -> None:
        del self._connections[connection]
        connection.fate = fate
        if fate == "silent":
            self._silent.append(connection)
        connection.cancel()


@dataclass(frozen=True, slots=True)
class _Rule:
    """What happens to the bytes of a lane."""

    low: float = 0.0
    high: float = 0.0
    stalled: frozenset[Direction] = frozenset()
    bytes_per_second: float | None = None


class _Connection:
    """A client's connection and the one to the server that belongs to it.

    Attributes:
        lane: What ``lane_of`` said last.
        cut_in: How many bytes may still go to the client before it is reset; None: any number.
        fate: What becomes of the sockets when the task ends.
    """

    task: asyncio.Task[None]

    def __init__(self, client: socket.socket, target: SplitResult, seed: str, proxy: ChaosProxy) -> None:
        self._target = target
        self._proxy = proxy
        self._opening = b""
        self.lane = proxy._first_lane
        self.cut_in: int | None = None
        self.fate: Literal["closed", "reset", "silent"] = "closed"
        self._client = client
        self._server = socket.socket(_family(target), socket.SOCK_STREAM)
        for end in (self._client, self._server):
            end.setblocking(False)
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._to_server = _Way("to_server", self._client, self._server, seed, self)
        self._to_client = _Way("to_client", self._server, self._client, seed, self)
        self._others: list[asyncio.Task[None]] = []

    @property
    def rule(self) -> _Rule:
        return self._proxy._rule_of(self.lane)

    @property
    def held_bytes(self) -> int:
        return self._to_server.held_bytes + self._to_client.held_bytes

    def wake(self) -> None:
        """Have both ways look at the rules again."""
        self._to_server.stirred.set()
        self._to_client.stirred.set()

    def cancel(self) -> None:
        """End all that runs for this connection; no byte passes after this."""
        self.task.cancel()
        # The task would do this when it runs next. One of these may run before it.
        for task in self._others:
            task.cancel()

    def close(self) -> None:
        """Close both sockets, if they are open."""
        for end in (self._client, self._server):
            _close(end, reset=self.fate == "reset")

    async def carry(self) -> None:
        """Carry bytes both ways until the server has ended the connection and the client has all of it."""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(self._server, _address(self._target))
        except OSError:  # Nobody there, or no answer in time: the client is told by a reset.
            self.fate = "reset"
            return
        async with asyncio.TaskGroup() as group:
            self._others = [
                group.create_task(work, name="chaos-proxy")
                for work in (self._to_server.receive(), self._to_server.deliver(), self._to_client.receive())
            ]
            await self._to_client.deliver()
            for task in self._others:
                task.cancel()

    def seen(self, data: bytes) -> None:
        """Let ``lane_of`` look at what the client has sent."""
        room = _OPENING_BYTES - len(self._opening)
        if room > 0 and data:
            self._opening += data[:room]
            lane, self.lane = self.lane, self._proxy._lane_of(self._opening)
            if lane != self.lane:
                self.wake()

    def cut(self, byte_count: int) -> int:
        """Return how many of so many bytes the client may still get, and count them off."""
        if self.cut_in is None:
            return byte_count
        allowed = min(byte_count, self.cut_in)
        self.cut_in -= allowed
        return allowed


class _Way:
    """One direction of a connection: a queue, a task that fills it and one that empties it."""

    def __init__(
        self, direction: Direction, source: socket.socket, sink: socket.socket, seed: str, connection: _Connection
    ) -> None:
        self._direction: Direction = direction
        self._source = source
        self._sink = sink
        self._connection = connection
        # Of its own, so that what the other connections do changes nothing here.
        self._random = random.Random(f"{seed}:{direction}")
        # Chunks with the moments from which on they may go; b"" is the end.
        self._held: deque[tuple[float, bytes]] = deque()
        self.held_bytes = 0
        self._room = asyncio.Event()
        self._is_broken = False
        # Something has arrived, or a rule has changed.
        self.stirred = asyncio.Event()

    async def receive(self) -> None:
        """Read until the end, as long as there is room."""
        loop = asyncio.get_running_loop()
        data = b"more"
        while data:
            while self.held_bytes > _MAX_HELD_BYTES - _CHUNK_BYTES:
                self._room.clear()
                await self._room.wait()
            try:
                data = await loop.sock_recv(self._source, _CHUNK_BYTES)
            except OSError:  # Reset. What came before goes on, and then the end.
                data = b""
            if self._direction == "to_server":
                self._connection.seen(data)
            rule = self._connection.rule
            self._held.append((loop.time() + self._random.uniform(rule.low, rule.high), data))
            self.held_bytes += len(data)
            self.stirred.set()

    async def deliver(self) -> None:
        """Pass on what is held, in order, until the end has been passed on or the connection has been cut."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._held:
                await self._stir()
            due, data = self._held.popleft()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                await self._allowance(0)
                with contextlib.suppress(OSError):
                    self._sink.shutdown(socket.SHUT_WR)
                return
            if not await self._pass(memoryview(data)):
                return

    async def _pass(self, data: memoryview) -> bool:
        """Send a chunk, and return whether the connection is still whole."""
        while data:
            size = await self._allowance(len(data))
            if self._direction == "to_client":
                size = self._connection.cut(size)
                if not size:
                    self._connection.fate = "reset"
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
            # This end has gone. The rest is read and thrown away: closing the other end with unread bytes in it would
            # reset it, and what is on its way there would be lost.
            self._is_broken = True

    async def _allowance(self, size: int) -> int:
        """Return how many of so many bytes may go now, waiting until the rules allow for some."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            rule = self._connection.rule
            if self._is_broken:
                return size
            if self._direction in rule.stalled:
                await self._stir()
            elif rule.bytes_per_second is None or not size:
                return size
            else:
                piece = min(size, max(1, int(rule.bytes_per_second * _DRIP_INTERVAL)))
                wait = begun + piece / rule.bytes_per_second - loop.time()
                if wait <= 0:
                    return piece
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._stir()

    async def _stir(self) -> None:
        self.stirred.clear()
        await self.stirred.wait()


def _bus_or_commands(opening: bytes) -> str:
    return "bus" if _SUBSCRIBES.search(opening) else "commands"


def _checked(target: str) -> SplitResult:
    url = urlsplit(target)
    if url.scheme in ("valkeys", "rediss"):
        raise UsageError(f"target: TLS cannot be looked into; point the proxy at a plain port instead of {url.scheme}")
    try:
        is_server = (
            url.scheme in ("valkey", "redis") and url.hostname is not None and (url.port is None or url.port > 0)
        )
    except ValueError as error:
        raise UsageError(f"target: {error}") from error
    if not is_server and not (url.scheme == "unix" and url.path):
        raise UsageError("target: a URL like valkey://host:port, redis://host:port or unix:///path")
    return url


def _family(target: SplitResult) -> socket.AddressFamily:
    if target.scheme == "unix":
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in (target.hostname or "") else socket.AF_INET


def _address(target: SplitResult) -> str | tuple[str, int]:
    return unquote(target.path) if target.scheme == "unix" else (target.hostname or "", target.port or 6379)


def _close(end: socket.socket, *, reset: bool) -> None:
    if reset and end.fileno() >= 0:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.close()
