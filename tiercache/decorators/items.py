"""The items of a cached generator: their bytes in a recording, and the iterators of its readers.

A recording has one line of JSON for each item. An item that is not JSON reaches the readers of this process alone: its
line is ``!``, and the items are not stored. Readers of another process receive bytes that are split at other places
than the items, and put the lines together again.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from ..engine.entries.rules import UndecodableError
from ..errors import StreamLostError, UsageError
from ..portal.call import CURRENT_CALL
from ..tiers.keys.canonical_json import compact_json
from ..tiers.values.unstorable import own_copy

__all__ = [
    "Begun",
    "ItemHead",
    "ItemHeadForm",
    "ItemIterator",
    "Source",
    "Unshared",
    "direct",
    "encode_item",
    "items_of",
]

T = TypeVar("T")

_NOT_JSON: Final = b"!\n"
_HEAD: Final = b"items"


class Unshared(bytes):
    """The line of an item that is not JSON.

    Attributes:
        item: The item.
    """

    item: Any

    @classmethod
    def of(cls, item: Any) -> Unshared:
        """Return the line of ``item``."""
        line = cls(_NOT_JSON)
        line.item = item
        return line


class ItemHead:
    """The head of a recording of items.

    Attributes:
        asker: The call of ``cache.sync`` that waits for the next item, or None.
    """

    asker: Any = None


class ItemHeadForm:
    """The form of the head in a live stream: the text ``items``."""

    def encode(self, head: ItemHead) -> bytes:
        return _HEAD

    def decode(self, data: bytes) -> ItemHead:
        if data != _HEAD:
            raise UndecodableError("the head is not that of a generator")
        return ItemHead()


def encode_item(item: Any) -> bytes:
    """Return the line of an item."""
    try:
        return compact_json(item, "an item") + b"\n"
    # An object of the generator's own may raise any exception. The load counts the items as ``unstorable``.
    except Exception:
        return Unshared.of(own_copy(item))


def _decode(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(line)  # NaN, infinities, and floats that overflow to them.


def items_of(lines: Sequence[bytes]) -> list[Any]:
    """Return new items from their lines, of this process."""
    return [own_copy(line.item) if type(line) is Unshared else _decode(line) for line in lines]


async def direct(generator: Source, encode: Callable[[Any], bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the line of each item of a generator that runs for one reader alone."""
    async with aclosing(generator):
        async for item in generator:
            yield [encode(item)]


class Source(Protocol):
    """A generator as the load sees it."""

    def __aiter__(self) -> AsyncIterator[Any]: ...

    async def aclose(self) -> None:
        """Close the generator."""
        ...


class Begun(NamedTuple):
    """The beginning of an iterator.

    Attributes:
        items: The items that are there already.
        parts: Brings the lines of all further items, or None.
        leave: Ends the reading of ``parts``.
        head: The head of the recording of ``parts``, or None.
    """

    items: list[Any]
    parts: AsyncIterator[list[bytes]] | None = None
    leave: Callable[[], object] = bool
    head: ItemHead | None = None


class ItemIterator(AsyncIterator[T], Generic[T]):
    """The items of one call of a cached generator, for one reader. Cached generators make it.

    The first step looks the items up, or starts the generator. ``aclose`` ends the reading, and so does the last
    reference to the iterator. The generator is closed when its last reader has left, and its items are not stored,
    unless ``TierOptions.on_abandon`` is "finish".

    Args:
        begin: Looks the items up, or starts the generator.
        on_error: Called when the iterator raises an error.
    """

    _leave: Callable[[], object] | None = None

    def __init__(self, begin: Callable[[], Awaitable[Begun]], on_error: Callable[[], object]) -> None:
        self._begin: Callable[[], Awaitable[Begun]] | None = begin
        self._on_error = on_error
        self._items: deque[Any] = deque()
        self._parts: AsyncIterator[list[bytes]] | None = None
        self._head: ItemHead | None = None
        self._rest = b""
        self._error: Exception | None = None
        self._is_reading = False

    def __aiter__(self) -> ItemIterator[T]:
        return self

    async def __anext__(self) -> T:
        """Return the next item.

        Raises:
            StopAsyncIteration: There is no further item.
            UsageError: Another task reads this iterator now; or the cache was closed.
            StreamLostError: The generator runs in another process, and its further items cannot be had: it raised, its
                process ended, or an item is not JSON.
            Exception: The generator raised it.
        """
        while not self._items:
            if self._is_reading:
                raise UsageError("another task reads this iterator now: call the generator once for each task")
            self._is_reading = True
            try:
                has_more = await self._read()
            except BaseException as error:
                self._end()
                if isinstance(error, Exception):
                    self._on_error()
                raise
            finally:
                self._is_reading = False
            if not has_more:
                self._end()
                raise StopAsyncIteration
        return self._items.popleft()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """End the reading. A second call does nothing."""
        parts = self._parts
        self._end()
        self._items.clear()
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()

    async def _read(self) -> bool:
        """Read further items; return False at the end."""
        if self._error is not None:
            raise self._error
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begun = await begin()
            self._items.extend(begun.items)
            self._parts, self._leave, self._head = begun.parts, begun.leave, begun.head
            self._loop = asyncio.get_running_loop()
            return bool(begun.items) or begun.parts is not None
        if self._parts is None:
            return False
        if self._head is not None:
            self._head.asker = CURRENT_CALL.get()
        try:
            parts = await anext(self._parts)
        except StopAsyncIteration:
            return False
        self._take(parts)
        return True

    def _take(self, parts: list[bytes]) -> None:
        for part in parts:
            if type(part) is Unshared:
                self._items.append(own_copy(part.item))
                continue
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                if line == _NOT_JSON[:-1]:
                    self._error = StreamLostError("an item is not JSON, and cannot reach another process")
                    return
                self._items.append(_decode(line))

    def _end(self) -> None:
        leave, self._leave = self._leave, None
        self._begin = self._parts = self._error = None
        if leave is not None:
            leave()

    def __del__(self) -> None:
        # A reader that leaves its loop early drops the iterator without closing it. Any thread may collect it.
        if self._leave is not None:
            # The loop may be closed: its end has closed the cache too.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._leave)
