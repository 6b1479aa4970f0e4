"""Changes of pins: set, remove, list, and remove all."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import L2CommandError
from ..engine import Engine
from ..level2.writes import Delete, Release, WriteSet
from ..memory.pins import PINS
from ..runtime.no_l2 import NoL2
from ..runtime.pin_reads import list_pins
from .invalidate import GroupEntries, Index, Invalidations

__all__ = ["PinChanges"]


class PinChanges:
    """The changes of the pins of one cache.

    A change takes effect in this process in the step in which Valkey's answer is known; in every other process as an
    invalidation does.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._invalidations = Invalidations(engine)

    async def pin(self, key: str, data: bytes) -> None:
        """Pin the entry ``key`` to the answer in ``data``, in the form of its tier.

        Raises:
            L2UnavailableError: The pin may or may not have been written; a later lookup finds out.
            L2CommandError: Valkey refused the write.
        """
        runtime, table = await self._engine.open(), self._engine.pins
        pin_key = table.key_of_pin(key)
        await runtime.l2.pipe.wait_room(len(pin_key) + len(data))
        write = WriteSet(pin_key, data, None, indexes=(table.index,), announced=True)

        def done(outcome: object) -> None:
            if isinstance(outcome, L2CommandError):
                # The index may have refused the key although Valkey took the value: no listing would find it.
                runtime.l2.pipe.post(Release(pin_key, data))
            self._settle(key, outcome, lambda: table.set(key, data))

        await runtime.l2.pipe.submit(write, done)

    async def unpin(self, key: str) -> bool:
        """Remove the pin of the entry ``key``; return whether there was one. Errors as for ``pin``."""
        runtime, table = await self._engine.open(), self._engine.pins
        if isinstance(runtime.l2, NoL2):
            return table.remove(key)
        delete = Delete((table.key_of_pin(key),), announced=True, index=table.index)

        def done(outcome: object) -> None:
            self._settle(key, outcome, lambda: table.remove(key))

        count: int = await runtime.l2.pipe.submit(delete, done)
        return count > 0

    async def all(self, prefix: str) -> dict[str, bytes]:
        """Return the bytes of the pins of the entries whose keys begin with ``prefix``, by the keys of the entries.

        Raises:
            L2UnavailableError, L2CommandError: The pins could not be read.
        """
        runtime, table = await self._engine.open(), self._engine.pins
        if isinstance(runtime.l2, NoL2):
            listed = {key: slot.data for key, slot in table.slots.items()}
        else:
            listed = await list_pins(table, runtime.l2.level2)
        return {key: data for key, data in listed.items() if data is not None and key.startswith(prefix)}

    async def look_again(self) -> None:
        """Look at every pin that the index lists again: the index may have got pins that this process does not know.

        Raises:
            L2UnavailableError, L2CommandError: The index could not be read.
        """
        runtime, table = await self._engine.open(), self._engine.pins
        if isinstance(runtime.l2, NoL2):
            return
        for key in await list_pins(table, runtime.l2.level2, most_bytes=0):
            table.note(table.key_of_pin(key))
            self._engine.face.hand_over_key(table.key_of_pin(key))

    async def remove_all(self, index: Index) -> int:
        """Remove all pins of all tiers; return how many there were. Errors as for ``Invalidations.group``.

        Args:
            index: The index of all pins.
        """
        runtime, table = await self._engine.open(), self._engine.pins
        count = table.clear()
        if isinstance(runtime.l2, NoL2):
            return count
        return await self._invalidations.group(GroupEntries(PINS, (table.prefix,), group_index=index))

    def _settle(self, key: str, outcome: object, apply: Callable[[], object]) -> None:
        """Apply a change in the step in which Valkey's answer is known, or look at the pin again after an error."""
        table = self._engine.pins
        pin_key = table.key_of_pin(key)
        if isinstance(outcome, Exception):
            table.note(pin_key)
        else:
            apply()
        self._engine.face.hand_over_key(pin_key)
