"""The proxy itself: listens, and applies the failures that a test asks for."""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self

from ...errors import UsageError
from .connection import close_socket
from .connections import Connections
from .lanes import BOTH, Lanes, Rule, bus_or_commands
from .slow_link import SlowLink
from .target import Target

__all__ = ["ChaosProxy"]


class ChaosProxy:
    """A proxy on a free port of 127.0.0.1, from ``async with`` on. It passes all bytes until a method changes that.

    Args:
        target: URL of the server, without TLS: ``valkey://host:port``, ``redis://host:port`` or ``unix:///path``.
            A host name resolves to IPv4.
        seed: Seeds the random delays. None draws a seed, which the attribute ``seed`` shows.
        lane_of: Returns the lane of a connection from the first bytes of its client, at most 4 KiB. The constructor
            calls it with ``b""`` once, and the proxy calls it again whenever more of these bytes arrive. The default
            returns ``"bus"`` for a connection that has sent SUBSCRIBE, PSUBSCRIBE or SSUBSCRIBE, else ``"commands"``.

    Raises:
        UsageError: ``target`` has another form.

    Every method except ``connection_count`` and ``held_bytes`` changes the proxy at once, and none waits. A method
    with ``lane`` changes this lane, or every lane if ``lane`` is None; of two calls for a lane the later call counts.
    Latency, stall, drip and slow link belong to a lane: they apply to its present and its later connections, and they
    add up.
    ``half_open``, ``cut_after``, ``garble`` and ``kill`` apply to the present connections only.

    Each connection has its own delays. The bytes of two connections may therefore arrive in another order than their
    senders sent them; the bytes of one connection keep their order. The proxy holds at most 1 MiB for each direction of
    a connection. Then it stops reading: the sender fills the kernel's buffers and waits, as with a slow receiver.

    Bytes that a client sent before it closed or reset its connection still reach the server. If one end resets a
    connection, the other end sees an orderly close. If the proxy cannot reach the server, it resets the client's
    connection.
    """

    def __init__(self, target: str, *, seed: int | None = None, lane_of: Callable[[bytes], str] | None = None) -> None:
        self.seed = random.getrandbits(32) if seed is None else seed
        self._target = Target(target)
        lanes = Lanes(bus_or_commands if lane_of is None else lane_of)
        self._connections = Connections(self._target, lanes, self.seed)
        self._refused = False
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        if self._listener is not None:
            raise UsageError("cannot start the proxy: it is in use already")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        # A callback, because a task that is cancelled right after it has accepted would lose the connection.
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every connection and every task, and drop the held bytes.

        Raises:
            Exception: The first error of ``lane_of``, unless the body of ``async with`` raised; the connection of this
                error was reset.
        """
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        errors = await self._connections.close_all()
        if errors and error is None:
            raise errors[0]

    @property
    def url(self) -> str:
        """The URL for clients, inside ``async with``: ``valkey://127.0.0.1:<port>/<db>``.

        Credentials, db number and options come from the target.
        """
        if self._listener is None:
            raise UsageError("cannot read url: the proxy listens inside 'async with' only")
        return self._target.url_through(self._listener.getsockname()[1])

    def connection_count(self, lane: str | None = None) -> int:
        """Return how many connections are open, without half-open ones."""
        return len(self._connections.present(lane))

    def held_bytes(self, lane: str | None = None) -> int:
        """Return how many bytes the proxy has read and not yet passed on, in both directions."""
        return sum(connection.held_bytes for connection in self._connections.present(lane))

    def latency(self, low: float, high: float | None = None, *, lane: str | None = None) -> None:
        """Delay the bytes that arrive from now on, in each direction.

        Args:
            low: Seconds, at least 0.
            high: Seconds. Each chunk of bytes gets its own random delay between ``low`` and ``high``. None: every
                delay is ``low``.
            lane: The lane; None means all.

        Bytes that already wait keep their delay. The delays of the n-th connection are the same for the same ``seed``,
        and do not depend on other connections.
        """
        high = low if high is None else high
        if not 0 <= low <= high < math.inf:
            raise UsageError(f"latency must go from a number of seconds up to another, not from {low!r} to {high!r}")
        self._connections.change(lane, lambda rule: replace(rule, low=low, high=high))

    def stall(self, direction: Literal["to_server", "to_client", "both"] = "both", *, lane: str | None = None) -> None:
        """Hold all bytes, and the end of a connection, until ``heal`` passes them on. No byte is lost."""
        if direction not in (*BOTH, "both"):
            raise UsageError(f"direction must be to_server, to_client or both, not {direction!r}")
        directions = BOTH if direction == "both" else (direction,)
        self._connections.change(lane, lambda rule: replace(rule, stalled=rule.stalled.union(directions)))

    def drip(self, bytes_per_second: float, *, lane: str | None = None) -> None:
        """Pass bytes slowly, a few at a time, in each direction of each connection separately.

        Args:
            bytes_per_second: Above 0. A piece has the bytes of 10 ms, and at least one byte.
            lane: The lane; None means all.
        """
        if not 0 < bytes_per_second < math.inf:
            raise UsageError(f"bytes_per_second must be above 0 and finite, not {bytes_per_second!r}")
        self._connections.change(lane, lambda rule: replace(rule, bytes_per_second=bytes_per_second))

    def slow_link(
        self, bytes_per_second: float, round_trip: float = 0.0, *, shared: bool = False, lane: str | None = None
    ) -> None:
        """Pass bytes as a link of limited speed does, in each direction of each connection separately.

        Args:
            bytes_per_second: Above 0. 100 Mbit/s are 12.5 million bytes a second.
            round_trip: Seconds, at least 0: half of them in each direction.
            shared: Whether the connections share the speed of each direction, as those of one machine share its line.
            lane: The lane; None means all.

        Bytes also wait as TCP lets them wait: a burst begins with ten packets in the first round trip, and each further
        round trip carries twice as many. The proxy holds only the bytes that such a link has on its way, and 64 KiB,
        in each direction, so that the sender notices the speed. Bytes that already wait for the round trip still wait
        for it after ``heal``.
        """
        if not 0 < bytes_per_second < math.inf:
            raise UsageError(f"bytes_per_second must be above 0 and finite, not {bytes_per_second!r}")
        if not 0 <= round_trip < math.inf:
            raise UsageError(f"round_trip must be a number of seconds, at least 0 and finite, not {round_trip!r}")
        link = SlowLink(bytes_per_second, round_trip, defaultdict(float) if shared else None)
        self._connections.change(lane, lambda rule: replace(rule, link=link))

    def half_open(self, *, lane: str | None = None) -> None:
        """Silence the present connections forever: neither bytes nor the close of one end reach the other end.

        An end can detect this only by a timeout, because the proxy's kernel still answers TCP keepalives. No count
        includes these connections, and no later call affects them, ``heal`` and ``kill`` included. New connections
        work.
        """
        for connection in self._connections.present(lane):
            self._connections.drop(connection, "silent")

    def cut_after(self, byte_count: int, *, lane: str | None = None) -> None:
        """Let ``byte_count`` more bytes pass to the client of each present connection; its next byte is a reset.

        Args:
            byte_count: At least 0. With 0 the server executes a command and the client never receives the answer. The
                client gets as many of the last bytes before the reset as its receive window had room for, as with TCP
                everywhere: all of about ten KiB, and of more bytes perhaps only a part.
            lane: The lane; None means all.

        ``heal`` cancels a cut that has not taken place yet.
        """
        if byte_count < 0:
            raise UsageError(f"byte_count must be at least 0, not {byte_count!r}")
        for connection in self._connections.present(lane):
            connection.state.cut_in = byte_count

    def garble(self, *, lane: str | None = None) -> None:
        """Replace the next bytes to the client of each present connection by 64 bytes of garbage, and end it.

        The garbage is no answer of Valkey and no UTF-8; an orderly close follows. ``heal`` cancels garbage that no
        client has received yet.
        """
        for connection in self._connections.present(lane):
            connection.state.is_garbled = True

    def kill(self, *, lane: str | None = None) -> int:
        """Reset the present connections towards both ends and drop their held bytes; return how many there were.

        No byte passes after this call; the event loop sends the resets in its next step. A server on a Unix socket sees
        a close, because Unix sockets have no resets.
        """
        present = self._connections.present(lane)
        for connection in present:
            self._connections.drop(connection, "reset")
        return len(present)

    def refuse(self, refused: bool = True) -> None:
        """Refuse new connections, or accept them again.

        The proxy accepts a refused connection and resets it at once: the client's connect may succeed, and its first
        read or write fails.
        """
        self._refused = refused

    def heal(self, *, lane: str | None = None) -> None:
        """Pass all bytes again: end stalls, drips, slow links and latency, and cancel pending cuts and garbage.

        Args:
            lane: The lane; None means all lanes, and ends ``refuse`` too.

        Bytes that already wait for their latency still wait for it. Half-open connections stay half-open.
        """
        if lane is None:
            self._refused = False
        for connection in self._connections.present(lane):
            connection.state.cut_in = None
            connection.state.is_garbled = False
        self._connections.change(lane, lambda _: Rule())

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # The client has gone before this callback.
        if self._refused:
            close_socket(client, reset=True)
        else:
            self._connections.add(client)
