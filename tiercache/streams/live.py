"""Live streams: the parts of a recording in Valkey, for readers in other processes, while the recording is made.

A process that wants a key which another process loads asks for a message when that lease ends (``coherence.leases``).
The holder of the lease then shares its recording: it adds the parts so far, and each later part, to a stream of Valkey,
``{name}:__tc:live:{hash}``. If no process asks, nothing is written. One stream entry has the fields, in this order::

    l  the placeholder of the lease, which tells the recordings of one key apart
    n  the number of the entry in its recording, from 0 on: a reader notices a gap
    h  the head of the recording (entry 0), or
    p  bytes of the recording, or
    e  the end: "ok", or "failed" if the recording ended with an error or became too large

The stream ends by itself twice ``lease_ttl`` after its last entry; the holder prolongs it while the provider is silent.
A reader takes a stream that has gone for a holder that has died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from ..engine.entries.rules import UndecodableError
from ..engine.level2.level2 import Level2
from ..engine.level2.writes import Command
from ..errors import L2CommandError, L2UnavailableError, StreamLostError, TierCacheError
from ..log import CacheLog
from .recording import Follower, Recording

__all__ = ["HeadForm", "LiveReader", "LiveWriter", "Sharing", "live_key"]

# Most bytes of one stream entry, and most entries of one read.
_PART_BYTES: Final = 256 * 1024
_READ_COUNT: Final = 64
# Seconds between two reads: the shortest, and the longest while no entry arrives.
_FIRST_POLL: Final = 0.02
_LAST_POLL: Final = 0.05
# Seconds without an entry after which a reader asks whether the stream is still there.
_SILENCE: Final = 1.0
# Seconds without an answer from Valkey after which a reader gives up.
_PATIENCE: Final = 10.0


class HeadForm(Protocol):
    """The form of a recording's head in Valkey."""

    def encode(self, head: Any) -> bytes:
        """Return the bytes of ``head``."""
        ...

    def decode(self, data: bytes) -> Any:
        """Return the head in ``data``.

        Raises:
            UndecodableError: ``data`` is no head.
        """
        ...


class Sharing(NamedTuple):
    """How the recordings of one kind of key are shared between processes.

    Attributes:
        name: The name of the cache.
        form: The form of their heads.
        lease_ttl: ``CoherenceOptions.lease_ttl``.
        wait: ``CoherenceOptions.stream_wait``.
        max_bytes: Most bytes of a recording that is shared.
    """

    name: str
    form: HeadForm
    lease_ttl: float
    wait: float | None
    max_bytes: float


def live_key(name: str, key: str) -> str:
    """Return the key of the live stream of ``key``, which ends in the hash of a request."""
    return f"{name}:__tc:live:{key.rpartition(':')[2]}"


class LiveWriter:
    """Shares one recording.

    Args:
        placeholder: The placeholder of the lease of the recording's load.
    """

    def __init__(self, level2: Level2, key: str, placeholder: bytes, sharing: Sharing, log: CacheLog) -> None:
        self._level2 = level2
        self._key = key
        self._placeholder = placeholder
        self._sharing = sharing
        self._log = log
        self._count = 0
        self._bytes = 0
        self._ttl_ms = int(sharing.lease_ttl * 2000)

    async def run(self, recording: Recording) -> None:
        """Add every part of ``recording``, a whole one, until it ends. Valkey never makes this raise."""
        follower = recording.follow()
        try:
            await self._begin(recording.head)
            await self._add(b"e", await self._add_all(follower))
        except TierCacheError as error:
            self._log.warn_once("a stream is not shared with other processes any more: %s", error)
            await self._end_early()
        finally:
            follower.close()

    async def _add_all(self, follower: Follower) -> bytes:
        """Add all parts; return the outcome of the recording."""
        while True:
            # The stream must live as long as the recording, also if no part arrives for a while.
            deadline = asyncio.timeout(self._sharing.lease_ttl / 2)
            try:
                async with deadline:
                    parts = await anext(follower)
            except StopAsyncIteration:
                return b"ok"
            # The error with which the recording ended, of any type. It reaches the readers of this process.
            except Exception:
                if not deadline.expired():
                    return b"failed"
                await self._send(("PEXPIRE", self._key, self._ttl_ms))
                continue
            await self._add_parts(b"".join(parts))

    async def _begin(self, head: Any) -> None:
        (number,) = await self._add(b"h", self._sharing.form.encode(head))
        # Entries of earlier recordings under this key. Their readers have them, or have given up.
        oldest = int(bytes(number).partition(b"-")[0]) - self._ttl_ms
        await self._send(("XTRIM", self._key, "MINID", oldest))

    async def _add_parts(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._sharing.max_bytes:
            raise StreamLostError("a stream is larger than TierOptions.max_value_bytes")
        for start in range(0, len(data), _PART_BYTES):
            await self._add(b"p", data[start : start + _PART_BYTES])

    async def _add(self, field: bytes, value: bytes) -> list[Any]:
        replies = await self._send(
            ("XADD", self._key, "*", b"l", self._placeholder, b"n", self._count, field, value),
            ("PEXPIRE", self._key, self._ttl_ms),
        )
        self._count += 1
        return replies[:1]

    async def _end_early(self) -> None:
        # Without this entry the readers in other processes notice that the stream goes.
        with suppress(TierCacheError):
            await self._add(b"e", b"failed")

    async def _send(self, *commands: Command) -> list[Any]:
        replies = await self._level2.execute(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


class LiveReader:
    """Reads the recording of another process: a ``LiveValue`` of the lease search, then an iterator of its parts.

    Attributes:
        head: The head of the recording, once ``has_begun`` has returned True.
    """

    def __init__(self, level2: Level2, key: str, sharing: Sharing, now: Callable[[], float], log: CacheLog) -> None:
        self.head: Any = None
        self._level2 = level2
        self._key = key
        self._sharing = sharing
        self._now = now
        self._log = log
        self._placeholder = b""
        self._last_id: bytes = b"0"
        self._next_number = 0
        self._parts: list[bytes] = []
        self._is_ended = False
        self._is_refused = False

    @property
    def wait(self) -> float | None:
        """Most seconds to wait for the other process, or None for no limit."""
        return self._sharing.wait

    @property
    def pause(self) -> float:
        """Most seconds between two calls of ``has_begun``."""
        return _LAST_POLL

    @property
    def is_begun(self) -> bool:
        """Whether the head has arrived."""
        return self._next_number > 0

    async def has_begun(self, placeholder: bytes) -> bool:
        """Return whether the holder of ``placeholder`` shares its recording. Valkey never makes this raise."""
        if self._is_refused:
            return False
        self._placeholder = placeholder
        try:
            await self._read()
        except (L2UnavailableError, StreamLostError):
            return False  # The load waits for the whole value, as it does without a live stream.
        except L2CommandError as error:
            self._is_refused = True
            self._log.warn_once("the streams of other processes cannot be read live: %s", error)
            return False
        return self.is_begun

    async def parts(self) -> list[bytes]:
        """Wait for further parts and return them; an empty list at the end of the recording.

        Raises:
            StreamLostError: The other process could not finish the recording, or cannot be read any more.
        """
        pause, heard_at, answered_at = _FIRST_POLL, self._now(), self._now()
        while not self._parts and not self._is_ended:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LAST_POLL)
            now = self._now()
            try:
                is_there = await self._read() or now - heard_at < _SILENCE or await self._exists()
            except L2UnavailableError as error:
                if now - answered_at > _PATIENCE:
                    raise StreamLostError(f"the process that streams the answer cannot be read: {error}") from error
                continue
            except L2CommandError as error:
                raise StreamLostError(f"the process that streams the answer cannot be read: {error}") from error
            answered_at = now
            if not is_there and not self._parts and not self._is_ended:
                raise StreamLostError("the process that streams the answer has ended before the stream")
            if now - heard_at >= _SILENCE:
                heard_at = now
        parts, self._parts = self._parts, []
        return parts

    async def _exists(self) -> bool:
        return bool((await self._send(("EXISTS", self._key)))[0])

    async def _read(self) -> bool:
        """Read the entries that have arrived; return whether there were any."""
        is_any = False
        while not self._is_ended:
            command = ("XREAD", "COUNT", _READ_COUNT, "STREAMS", self._key, self._last_id)
            (reply,) = await self._send(command)
            entries = reply[0][1] if reply else []
            for number, fields in entries:
                self._last_id = number
                self._take(fields)
            is_any = is_any or bool(entries)
            if len(entries) < _READ_COUNT:
                break
        return is_any

    def _take(self, fields: Any) -> None:
        try:
            lease, placeholder, count, number, kind, value = fields
            is_ours = lease == b"l" and placeholder == self._placeholder and count == b"n"
        except (TypeError, ValueError):
            return  # Not an entry of a live stream.
        if not is_ours or self._is_ended:
            return
        if number != b"%d" % self._next_number:
            if self.is_begun:
                raise StreamLostError("parts of the stream are missing in Valkey")
            return  # Its beginning has been trimmed.
        if kind == b"h" and not self.is_begun:
            try:
                self.head = self._sharing.form.decode(value)
            except UndecodableError:
                return
        elif kind == b"p" and self.is_begun:
            self._parts.append(value)
        elif kind == b"e" and self.is_begun:
            if value != b"ok":
                raise StreamLostError("the process that streams the answer could not finish the stream")
            self._is_ended = True
        else:
            return
        self._next_number += 1

    async def _send(self, command: Command) -> list[Any]:
        replies = await self._level2.execute([command])
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies
