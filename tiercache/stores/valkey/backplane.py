"""The backplane: one pub/sub channel for each cache name and database, on which processes announce their changes.

A subscription has a connection of its own. The server answers its pings in order with its messages (RESP2, which
``Settings`` selects), and redirects tracking invalidations to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from valkey.exceptions import NoPermissionError, ResponseError

from ...engine.level2.announcement import Event, KeysDeclined, Pong, TrackedChange, Unreadable
from ...engine.level2.writes import Command
from ...errors import L2UnavailableError
from ...text import shown
from .connection import Connection, open_connection
from .errors import map_error, map_errors
from .messages import decode, reader_of_own
from .settings import Settings

__all__ = ["BackplaneNames", "ValkeySubscription"]

# The channel to which the server sends the names of changed keys (CLIENT TRACKING with REDIRECT).
_TRACKING_CHANNEL: Final = "__redis__:invalidate"
# Digits of the number of a change, which counts up from the clock in microseconds.
_NUMBER_DIGITS: Final = 18
_TRACKING_CHANNEL_BYTES: Final = _TRACKING_CHANNEL.encode()


@dataclass(frozen=True, slots=True)
class BackplaneNames:
    """The channel and the keys that the processes of one cache share.

    Attributes:
        channel: The pub/sub channel. Its name has the database's number, because channels do not belong to a database.
        declined: The channel of the processes that decline announcements of single keys. It has no messages: its
            subscribers are counted.
        sequence: The key of the counter of changes.
        probe: A key that never has a value.
        indexes: The key of the register of indexes.
        tracked: Prefixes of the keys whose changes by other clients this process must know.
        watched: Those of ``tracked`` under which there are few keys, which all processes hold and clients seldom write.
    """

    channel: str
    declined: str
    sequence: str
    probe: str
    indexes: str
    tracked: tuple[str, ...]
    watched: tuple[str, ...]

    @classmethod
    def of(cls, name: str, db: int) -> BackplaneNames:
        """Return the names of the cache ``name`` in database ``db``."""
        entries = ("llm:", "tool:", "session:", "__tc:kv:", "__tc:kvs:")
        # A prefix too, although it is one key: other caches have heartbeats under names that begin with this name.
        heartbeat = f"__betterdb:heartbeat:{name}"
        watched = (*(f"{name}:{prefix}" for prefix in ("__tc:pin:", "__tc:settings", "__tool_policies")), heartbeat)
        channel = f"{name}:__tc:bus:{db}"
        return cls(
            channel=channel,
            # Its name begins with that of the channel: one rule of an ACL can permit both.
            declined=f"{channel}:declined",
            sequence=f"{name}:__tc:sequence",
            probe=f"{name}:__tc:probe",
            indexes=f"{name}:__tc:indexes",
            tracked=(*(f"{name}:{prefix}" for prefix in entries), *watched),
            watched=watched,
        )


class ValkeySubscription:
    """A Subscription on a connection of its own."""

    def __init__(
        self, connection: Connection, names: BackplaneNames, origin: str, timeout: float, *, watches: bool
    ) -> None:
        self._connection = connection
        self._names = names
        self.watches = watches
        self.declines_keys = False
        self._read_own = reader_of_own(origin)
        self._timeout = timeout
        # The server's id of the connection, or None if the server gives no id or cannot redirect reports here.
        self.id: int | None = None

    @classmethod
    async def open(
        cls,
        settings: Settings,
        names: BackplaneNames,
        *,
        watches: bool,
        origin: str,
        timeout: float,
        connect_timeout: float,
    ) -> ValkeySubscription:
        """Connect and subscribe.

        Args:
            watches: See ``Level2.subscribe``.
            origin: Signs the announcements of this process.
            timeout: Seconds for one exchange.
            connect_timeout: Seconds to open the connection.

        Raises:
            L2UnavailableError: The server did not answer in time.
            L2CommandError: The server refused.
        """
        with map_errors("SUBSCRIBE"):
            connection = await open_connection(settings, connect_timeout, listens=True)
            try:
                (client_id,) = await connection.exchange([("CLIENT", "ID")], timeout)
                # Before the subscriptions: a connection that subscribes sends no other command.
                watches = (
                    watches
                    and isinstance(client_id, int)
                    and await _watch(connection, client_id, names.watched, timeout)
                )
                tracks = await _subscribe(connection, names.channel, timeout)
            except BaseException:
                await connection.aclose()
                raise
        subscription = cls(connection, names, origin, timeout, watches=watches)
        if isinstance(client_id, int) and tracks:
            subscription.id = client_id
        return subscription

    async def ping(self, stamp: float, number: int) -> None:
        with map_errors("PING on the subscription"):
            await self._connection.post(("PING", f"{stamp!r} {number}"), self._timeout)

    async def decline_keys(self, declines: bool) -> None:
        self.declines_keys = declines
        command: Command = ("SUBSCRIBE" if declines else "UNSUBSCRIBE", self._names.declined)
        with map_errors("SUBSCRIBE"):
            await self._connection.post(command, self._timeout)

    async def receive(self) -> Event:
        with map_errors("the subscription"):
            message = await self._connection.receive()
        return self._event(message)

    async def follow(self, apply: Callable[[Event], object]) -> None:
        with map_errors("the subscription"):
            await self._connection.listen(lambda message: apply(self._event(message)))

    async def aclose(self) -> None:
        await self._connection.aclose()

    def _event(self, message: Any) -> Event:
        # Most messages are this process's own announcements, of which it needs the number alone.
        has_text = type(message) is list and len(message) == 3 and type(message[2]) is bytes
        own = self._read_own(message[2]) if has_text else None
        return own or self._answer_to_decline(message) or _event(message)

    def _answer_to_decline(self, message: Any) -> KeysDeclined | None:
        if type(message) is list:
            channel = self._names.declined.encode()
            return KeysDeclined(message[0] == b"subscribe") if message[1:2] == [channel] else None
        if not isinstance(message, NoPermissionError):
            return None
        if "'unsubscribe'" in str(message):
            raise L2UnavailableError("the server goes on counting this subscription as one that declines") from message
        # SUBSCRIBE was refused, as no other command here is for a channel: announcements go on.
        return KeysDeclined(False) if "channel" in str(message) else None


def _event(message: Any) -> Event:
    """Return the event for a message on the subscription."""
    match message:
        case [b"message", channel, payload]:
            if channel != _TRACKING_CHANNEL_BYTES:
                return decode(payload) if isinstance(payload, bytes) else Unreadable("a message that is not text")
            if payload is None:
                return TrackedChange(None)
            # Any client with the right to publish on this channel can send other messages than the server does.
            if not isinstance(payload, list) or not all(type(key) is bytes for key in payload):
                return Unreadable("a message of tracking that is no list of keys")
            return TrackedChange(tuple([key.decode(errors="replace") for key in payload]))
        case [b"pong", bytes(payload)]:
            return _pong(payload)
        case [kind, *_]:
            return Unreadable(f"a message of the kind {shown(kind)}")
    return Unreadable(f"{type(message).__name__} on the subscription")


def _pong(payload: bytes) -> Pong | Unreadable:
    """Return the Pong with the arguments that ``ping`` has sent."""
    stamp, _, number = payload.partition(b" ")
    try:
        if len(number) <= _NUMBER_DIGITS and number.isdigit() and math.isfinite(sent_at := float(stamp)):
            return Pong(sent_at, int(number))
    except ValueError:
        pass
    return Unreadable("a PONG that answers no PING of this process")


async def _watch(connection: Connection, client_id: Any, prefixes: Sequence[str], timeout: float) -> bool:
    """Let the server report all changes under ``prefixes`` on ``connection``; return whether it does.

    The connection is the target of its own reports, so that they end only with the connection.
    """
    options = [part for prefix in prefixes for part in ("PREFIX", prefix)]
    command: Command = ("CLIENT", "TRACKING", "ON", "REDIRECT", client_id, "BCAST", *options)
    (reply,) = await connection.exchange([command], timeout)
    return not isinstance(reply, ResponseError)


async def _subscribe(connection: Connection, channel: str, timeout: float) -> bool:
    """Subscribe to the messages of tracking and to ``channel``; return whether the server allowed the former."""
    # One command each: a user without permission for the channel of tracking still gets the other one. Sent together,
    # because a message may arrive in front of the answer to a later SUBSCRIBE. Such an answer ends this attempt.
    tracking, backplane = await connection.exchange([("SUBSCRIBE", _TRACKING_CHANNEL), ("SUBSCRIBE", channel)], timeout)
    if isinstance(backplane, ResponseError):
        raise map_error(backplane, "SUBSCRIBE") or backplane
    for reply in (tracking, backplane):
        if not isinstance(reply, ResponseError) and (not isinstance(reply, list) or reply[0] != b"subscribe"):
            raise L2UnavailableError(f"Valkey answered SUBSCRIBE with {reply!r}")
    return not isinstance(tracking, ResponseError)
