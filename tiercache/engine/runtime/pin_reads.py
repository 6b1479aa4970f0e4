"""Reads of pins: the answer of a pinned key, and the listing of all pins.

::

    is a listing due? ──> list all pins          no slot for the key? ──> the key has no pin
            │ no                                        │ slot
            └────────────────────────────────────> current? ──> that answer
                                                        │ no
                                                        └──> read the pin, and look again

While Valkey does not answer, the pins that this process knows go on being served, and no listing is made.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import Context
from typing import Final

from ...clock import Clock
from ...errors import PASSING, TierCacheError
from ...log import CacheLog
from ..call import Call
from ..entries.lookup import Lookup
from ..entries.rules import UndecodableError
from ..level2.breaker import Breaker, GuardedLevel2
from ..memory.pins import MOST_PINNED_BYTES, PINNED_TIERS, PinTable, Slot

__all__ = ["PinReads", "list_pins"]

# Reads of one pin, and listings, of one lookup: changes without end must not keep a lookup from an answer.
_MOST_READS: Final = 3
# Seconds between two looks of the background job.
_LOOK_SECONDS: Final = 1.0
_PAGE_COUNT: Final = 500
# Values read at once: large answers must fit into the deadline of one exchange.
_READ_COUNT: Final = 50


class PinReads:
    """The reads of pins of one runtime.

    Args:
        level2: The Valkey, or None for a cache of process memory alone.
    """

    def __init__(
        self, table: PinTable, level2: GuardedLevel2 | None, clock: Clock, breaker: Breaker, log: CacheLog
    ) -> None:
        self._table = table
        self._level2 = level2
        self._clock = clock
        self._breaker = breaker
        self._log = log
        self._listing: asyncio.Task[None] | None = None
        # A refusal lasts: lookups must not pay for a listing each.
        self._retry_at = -math.inf

    async def find(self, call: Call) -> Lookup | None:
        """Return the pinned answer of ``call.key``, or None if the key has no pin. Raises no error of Valkey."""
        if call.rules.tier not in PINNED_TIERS:
            return None
        await self.refresh()
        table = self._table
        slot = table.slots.get(call.key)
        for _ in range(_MOST_READS):
            if slot is None or slot.is_current or not await self._read(call.key, slot):
                break
            slot = table.slots.get(call.key)
        # Without an answer of Valkey, the older answer: a change of it may have been lost.
        return None if slot is None or slot.data is None else self._lookup(call, slot)

    async def refresh(self) -> None:
        """List the pins if a listing is due and Valkey answers."""
        for _ in range(_MOST_READS):
            now = self._clock.monotonic()
            if self._level2 is None or self._breaker.is_open or now < self._retry_at or self._table.is_listed(now):
                return
            if self._listing is None or self._listing.done():
                # Many lookups share one listing. It belongs to none of them, and inherits no context.
                run = self._list(self._level2)
                self._listing = asyncio.get_running_loop().create_task(run, name="tiercache-pins", context=Context())
            listing = self._listing
            await asyncio.shield(listing)

    async def open(self) -> None:
        """List the pins before the first lookup, in the task that opens the cache."""
        if self._level2 is not None and not self._breaker.is_open:
            await self._list(self._level2)

    async def run(self) -> None:
        """List the pins whenever a listing is due, also where L1 answers every lookup, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.refresh()

    async def aclose(self) -> None:
        """Cancel the listing in progress."""
        if self._listing is not None:
            self._listing.cancel()
            await asyncio.gather(self._listing, return_exceptions=True)

    async def _read(self, key: str, slot: Slot) -> bool:
        """Read the pin of ``key``; return whether Valkey answered."""
        if self._level2 is None:
            return False
        try:
            (data,) = await self._level2.get_values([self._table.key_of_pin(key).encode()])
        except TierCacheError as error:
            self._note(error)
            return False
        self._table.answered(key, slot, data)
        return True

    async def _list(self, level2: GuardedLevel2) -> None:
        table, began = self._table, self._clock.monotonic()
        version = table.begin_listing()
        try:
            listed = await list_pins(table, level2, most_bytes=MOST_PINNED_BYTES)
        except TierCacheError as error:
            self._note(error)
            if not isinstance(error, PASSING):
                self._retry_at = self._clock.monotonic() + _LOOK_SECONDS
        else:
            table.end_listing(version, listed, began)

    def _note(self, error: TierCacheError) -> None:
        """Log, once, that Valkey refused a read of pins. The breaker logs an outage."""
        if not isinstance(error, PASSING):
            self._log.warn_once("Valkey refuses reads of pins: the pins that this process knows stay: %s", error)

    def _lookup(self, call: Call, slot: Slot) -> Lookup | None:
        if slot.is_void:
            return None
        if slot.entry is None:
            assert slot.data is not None
            try:
                value = call.rules.codec.decode(slot.data).value
            except UndecodableError:
                call.counters.undecodable += 1
                slot.is_void = True
                return None
            now = self._clock.monotonic()
            slot.entry = call.entry(value, None, self._clock, since=now, began=now)
        return Lookup(slot.entry, "pin")


async def list_pins(table: PinTable, level2: GuardedLevel2, *, most_bytes: float = math.inf) -> dict[str, bytes | None]:
    """Return the bytes of every pin in Valkey, by the key of its entry.

    Pins that this process knows are looked for even if the index lacks them: Valkey may have evicted the index.

    Args:
        most_bytes: Bytes after which no further values are read: the others are None.

    Raises:
        L2UnavailableError, L2CommandError: The pins could not be read.
    """
    keys = dict.fromkeys(table.key_of_pin(key) for key in table.slots)
    cursor: bytes | int = 0
    while True:
        (reply,) = await level2.execute([("ZSCAN", table.index, cursor, "COUNT", _PAGE_COUNT)])
        if isinstance(reply, Exception):
            raise reply
        cursor, pairs = reply
        # Any client can write into an index.
        members = [member.decode(errors="replace") for member in pairs[::2]]
        keys |= dict.fromkeys(member for member in members if member.startswith(table.prefix))
        if int(cursor) == 0:
            break
    listed: dict[str, bytes | None] = {}
    found, size = list(keys), 0
    for start in range(0, len(found), _READ_COUNT):
        page = found[start : start + _READ_COUNT]
        if size >= most_bytes:
            listed |= dict.fromkeys(map(table.key_of_entry, page))
            continue
        values = await level2.get_values([key.encode() for key in page])
        for key, value in zip(page, values, strict=True):
            if value is not None:
                size += len(value)
                listed[table.key_of_entry(key)] = value
    return listed
