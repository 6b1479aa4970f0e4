"""Live streams: the parts of a recording in Valkey, for readers in other processes, while the recording is made.

A process that wants a key which another process loads asks for a message when that lease ends (``coherence.leases``).
The holder of the lease then shares its recording: it adds the parts so far, and each later part, to a stream of Valkey,
``{name}:__tc:live:{hash}``. If no process asks, nothing is written. One stream entry has the fields, in this order::

    l  the placeholder of the lease, which tells the recordings of one key apart
    n  the number of the entry in its recording, from 0 on: a reader notices a gap
    h  the head of the recording (entry 0), or
    p  bytes of the recording; none, while the provider is silent, or
    c  the last bytes of a recording that is complete, or
    e  the end of any other recording: "ok", or "failed" if it ended with an error

The stream expires twice ``lease_ttl`` after its last entry. It keeps at most the newest ``max_value_bytes`` of a
recording, for readers that are not further behind.

A holder sends three entries in ``lease_ttl`` at least. A reader that receives none for so long takes the holder for
dead, as the lease does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
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
# Entries in one ``lease_ttl`` of a silent recording.
_ENTRIES_PER_TTL: Final = 3


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
        max_bytes: Most bytes of a recording that Valkey has at a time.
    """

    name: str
    form: HeadForm
    lease_ttl: float
    wait: float | None
    max_bytes: float


def live_key(name: str, key: str) -> str:
    """Return the key of the live stream of ``key``.

    It ends in the hash of an llm key, or in the SHA-256 of another key.
    """
    prefix = f"{name}:llm:"
    digest = key.removeprefix(prefix) if key.startswith(prefix) else sha256(key.encode()).hexdigest()
    return f"{name}:__tc:live:{digest}"


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
        # The id and the bytes of each entry that the stream must still have.
        self._kept: deque[tuple[bytes, int]] = deque()
        self._kept_bytes = 0
        self._ttl_ms = int(sharing.lease_ttl * 2000)

    async def run(self, recording: Recording) -> None:
        """Add every part of ``recording``, a whole one, until it ends. Valkey never makes this raise."""
        follower = recording.follow()
        try:
            await self._begin(recording.head)
            while await self._add_next(follower):
                pass
        except TierCacheError as error:
            self._log.warn_once("a stream is not shared with other processes any more: %s", error)
            # By this entry the readers in other processes learn it at once, if Valkey takes the entry.
            with suppress(TierCacheError):
                await self._add(b"e", b"failed")
        finally:
            follower.close()

    async def _begin(self, head: Any) -> None:
        number = await self._add(b"h", self._sharing.form.encode(head))
        # Entries of earlier recordings under this key. Their readers have them, or have given up.
        oldest = int(number.partition(b"-")[0]) - self._ttl_ms
        # A refusal is no reason to end: the stream expires in any case.
        await self._level2.execute([("XTRIM", self._key, "MINID", oldest)])

    async def _add_next(self, follower: Follower) -> bool:
        """Add the next parts, or the end; return whether more can follow."""
        deadline = asyncio.timeout(self._sharing.lease_ttl / _ENTRIES_PER_TTL)
        try:
            async with deadline:
                parts = await anext(follower)
        except StopAsyncIteration:
            await self._add(b"e", b"ok")
            return False
        # The error with which the recording ended, of any type. It reaches the readers of this process.
        except Exception:
            if not deadline.expired():
                await self._add(b"e", b"failed")
                return False
            await self._add(b"p", b"")
            return True
        is_complete = follower.recording.is_complete
        data = b"".join(parts)
        last = (len(data) - 1) // _PART_BYTES * _PART_BYTES if data else 0
        for start in range(0, last, _PART_BYTES):
            await self._add(b"p", data[start : start + _PART_BYTES])
        await self._add(b"c" if is_complete else b"p", data[last:])
        return not is_complete

    async def _add(self, field: bytes, value: bytes) -> bytes:
        """Add an entry, and return its id."""
        while len(self._kept) > 1 and self._kept_bytes > self._sharing.max_bytes:
            self._kept_bytes -= self._kept.popleft()[1]
        trim = ("MINID", self._kept[0][0]) if len(self._kept) < self._count else ()
        added, _ = await self._send(
            ("XADD", self._key, *trim, "*", b"l", self._placeholder, b"n", self._count, field, value),
            ("PEXPIRE", self._key, self._ttl_ms),
        )
        number = bytes(added)
        self._count += 1
        self._kept.append((number, len(value)))
        self._kept_bytes += len(value)
        return number

    async def _send(self, *commands: Command) -> list[Any]:
        replies = await self._level2.execute(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


class LiveReader:
    """Reads the recording of another process: a ``LiveValue`` of the lease search, then a source of its parts.

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
        self._loss: str | None = None
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
        """Whether the head has arrived, and every entry since."""
        return self._next_number > 0 and self._loss is None

    async def has_begun(self, placeholder: bytes) -> bool:
        """Return whether the holder of ``placeholder`` shares its recording. Valkey never makes this raise."""
        if self._is_refused:
            return False
        self._placeholder = placeholder
        try:
            await self._read()
        except L2UnavailableError:
            return False
        except L2CommandError as error:
            self._is_refused = True
            self._log.warn_once("the streams of other processes cannot be read live: %s", error)
            return False
        # After a loss the load waits for the whole value, as it does without a live stream.
        return self.is_begun

    async def parts(self) -> list[bytes]:
        """Wait for further parts and return them; an empty list at the end of the recording.

        Raises:
            StreamLostError: The other process could not finish the recording, or cannot be read any more. All parts
                that have arrived have been returned before.
        """
        pause, received_at = _FIRST_POLL, self._now()
        while not self._parts and not self._is_ended:
            if self._loss is not None:
                raise StreamLostError(self._loss)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LAST_POLL)
            before = self._next_number
            try:
                await self._read()
            except L2UnavailableError:
                pass  # Valkey may return, and the stream with it.
            except L2CommandError as error:
                self._loss = f"the process that streams the answer cannot be read: {error}"
            if self._next_number != before:
                received_at = self._now()
            elif self._now() - received_at > self._sharing.lease_ttl:
                self._loss = self._loss or "the process that streams the answer has gone silent before its end"
        parts, self._parts = self._parts, []
        return parts

    async def _read(self) -> None:
        """Read the entries that have arrived."""
        while not self._is_ended and self._loss is None:
            command = ("XREAD", "COUNT", _READ_COUNT, "STREAMS", self._key, self._last_id)
            (reply,) = await self._level2.execute([command])
            if isinstance(reply, Exception):
                raise reply
            entries = _entries(reply)
            for number, fields in entries:
                self._last_id = number
                self._take(fields)
            if len(entries) < _READ_COUNT:
                return

    def _take(self, fields: Any) -> None:
        try:
            lease, placeholder, count, number, kind, value = fields
        except (TypeError, ValueError):
            return  # Not an entry of a live stream.
        if (lease, placeholder, count) != (b"l", self._placeholder, b"n") or self._is_ended or self._loss is not None:
            return
        if number != b"%d" % self._next_number:
            if self._next_number > 0:
                self._loss = "parts of the stream are missing in Valkey"
            return  # Otherwise its beginning has been trimmed.
        if self._next_number == 0:
            self._begin(kind, value)
            return
        self._next_number += 1
        if kind in (b"p", b"c"):
            self._parts += [value] if value else []
            self._is_ended = kind == b"c"
        elif (kind, value) == (b"e", b"ok"):
            self._is_ended = True
        else:
            self._loss = "the process that streams the answer could not finish the stream"

    def _begin(self, kind: bytes, value: bytes) -> None:
        if kind == b"h":
            try:
                self.head = self._sharing.form.decode(value)
            except UndecodableError:
                return
            self._next_number = 1


def _entries(reply: Any) -> list[Any]:
    """Return the entries in the reply to an XREAD of one stream: a map in RESP3, a list of pairs in RESP2."""
    if not reply:
        return []
    entries: list[Any] = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
    return entries
