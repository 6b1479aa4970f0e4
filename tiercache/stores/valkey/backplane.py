"""The backplane: one pub/sub channel a cache name and database, on which its processes hear of each other's changes.

A subscription is a connection of its own. Its pings are answered in the order of its messages (RESP2, which
``Settings`` pins), and the server's own word of what anybody has changed is redirected to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from valkey.exceptions import ResponseError

from ...engine.level2.announcement import Event, Pong, TrackedChange, Unreadable
from ...errors import L2UnavailableError
from .connection import Line, open_line
from .errors import map_error, map_errors
from .messages import decode, own
from .settings import Settings

__all__ = ["BusNames", "ValkeySubscription"]

# Where the server writes which tracked keys have been changed (CLIENT TRACKING with REDIRECT).
_TRACKING_CHANNEL: Final = "__redis__:invalidate"
_TRACKING_CHANNEL_BYTES: Final = _TRACKING_CHANNEL.encode()


@dataclass(frozen=True, slots=True)
class BusNames:
    """Where the processes of one cache meet.

    Attributes:
        channel: The pub/sub channel. It carries the database's number: channels are not divided into databases.
        sequence: The key of the counter of changes.
        probe: A key under which nothing is ever kept.
        tracked: What the keys begin with whose changes by others are of interest.
    """

    channel: str
    sequence: str
    probe: str
    tracked: tuple[str, ...]

    @classmethod
    def of(cls, name: str, db: int) -> BusNames:
        """Return those of the cache ``name`` in database ``db``."""
        tracked = ("llm:", "tool:", "session:", "__tc:kv:", "__tool_policies")
        return cls(
            channel=f"{name}:__tc:bus:{db}",
            sequence=f"{name}:__tc:sequence",
            probe=f"{name}:__tc:probe",
            tracked=tuple(f"{name}:{prefix}" for prefix in tracked),
        )


class ValkeySubscription:
    """A Subscription on a line of its own."""

    def __init__(self, line: Line, client_id: int | None, origin: str, timeout: float) -> None:
        self._line = line
        self._own = own(origin)
        self._timeout = timeout
        self._id = client_id

    @classmethod
    async def open(
        cls, settings: Settings, channel: str, *, origin: str, timeout: float, connecting: float
    ) -> ValkeySubscription:
        """Connect and subscribe.

        Args:
            origin: What this process's own announcements are signed with.
            timeout: Seconds for one exchange.
            connecting: Seconds for making the connection.

        Raises:
            L2UnavailableError: No answer in time.
            L2CommandError: Valkey refused.
        """
        with map_errors("SUBSCRIBE"):
            line = await open_line(settings, connecting, listens=True)
            try:
                (client_id,) = await line.exchange([("CLIENT", "ID")], timeout)
                # One by one: a user who may not have the second is to have the first.
                await _subscribe(line, channel, timeout)
                tracks = await _subscribe(line, _TRACKING_CHANNEL, timeout, may_be_refused=True)
            except BaseException:
                await line.aclose()
                raise
        return cls(line, client_id if isinstance(client_id, int) and tracks else None, origin, timeout)

    @property
    def id(self) -> int | None:
        """The connection's id, None where the server gives none or redirects nothing to it."""
        return self._id

    async def ping(self, stamp: float, number: int) -> None:
        with map_errors("PING on the subscription"):
            await self._line.post(("PING", f"{stamp!r} {number}"), self._timeout)

    async def receive(self) -> Event:
        with map_errors("the subscription"):
            message = await self._line.receive()
        return self._event(message)

    async def follow(self, apply: Callable[[Event], object]) -> None:
        with map_errors("the subscription"):
            await self._line.listen(lambda message: apply(self._event(message)))

    async def aclose(self) -> None:
        await self._line.aclose()

    def _event(self, message: Any) -> Event:
        # Most of what a process hears it has said itself.
        is_text = type(message) is list and len(message) == 3 and type(message[2]) is bytes
        return (self._own(message[2]) if is_text else None) or _event(message)


def _event(message: Any) -> Event:
    """Return what a message on the subscription says."""
    match message:
        case [b"message", channel, payload]:
            if channel != _TRACKING_CHANNEL_BYTES:
                return decode(payload) if isinstance(payload, bytes) else Unreadable("a message that is no text")
            if payload is None:
                return TrackedChange(None)
            return TrackedChange(tuple([key.decode(errors="replace") for key in payload]))
        case [b"pong", bytes(payload)]:
            stamp, _, number = payload.partition(b" ")
            return Pong(float(stamp), int(number))
        case [kind, *_]:
            return Unreadable(f"a message of the kind {kind!r}")
    return Unreadable(f"{type(message).__name__} on the subscription")


async def _subscribe(line: Line, channel: str, timeout: float, *, may_be_refused: bool = False) -> bool:
    """Return whether the channel was subscribed to; raise if it had to be."""
    (reply,) = await line.exchange([("SUBSCRIBE", channel)], timeout)
    if isinstance(reply, ResponseError):
        if not may_be_refused:
            raise map_error(reply, "SUBSCRIBE") or reply
        return False
    if not isinstance(reply, list) or reply[0] != b"subscribe":
        raise L2UnavailableError(f"Valkey answered SUBSCRIBE with {reply!r}")
    return True
