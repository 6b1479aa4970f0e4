"""SessionStore: the place where the fields of a cache's sessions are, Valkey or process memory."""

from __future__ import annotations

from typing import Protocol

from ...engine.call import LoadFunction
from ...engine.level2.writes import Command
from .entry import FieldValue
from .key import FieldKey, ThreadKeys, Threads

__all__ = ["Checkpoints", "SessionStore"]


class Checkpoints(Protocol):
    """The checkpoints of the same threads, which end with the fields of a thread."""

    def presence(self, thread_id: str) -> Command:
        """Return the command that replies 1 if Valkey has checkpoints of the thread."""
        ...

    async def destroy_thread(self, thread_id: str) -> int:
        """Remove the checkpoints of the thread; return how many there were."""
        ...

    async def clear(self) -> int:
        """Remove the checkpoints of all threads; return how many there were."""
        ...


class SessionStore(Protocol):
    """The store of session fields.

    Windows are in seconds, inf for no end. A window of None keeps the window of the field; a new field then gets the
    tier's window.

    ``append``, ``incr`` and ``compare_and_set`` are one step each, no matter which other processes change the field,
    and always use the value in Valkey. ``sweep`` also looks for keys that the thread's hash does not have.

    Every async method raises:
        UsageError, WrongLoopError: As for ``Engine.open``.
        L2UnavailableError: Valkey did not answer; a change may or may not have happened.
        L2CommandError: Valkey refused; a change of several fields may have happened in part.
    """

    def hit(self, key: FieldKey) -> FieldValue | None:
        """Return the value in process memory, or None if there is none or only an async method can look."""
        ...

    async def get(self, key: FieldKey, *, fresh: bool) -> FieldValue | None:
        """Return the value of the field, or None if the field is absent. With ``fresh`` L1 is skipped."""
        ...

    async def get_or_load(self, key: FieldKey, load: LoadFunction, window: float) -> FieldValue:
        """Return the value of the field, or else the value that ``load`` returns.

        The loaded value is stored, unless the field is changed during the load.
        """
        ...

    async def set(self, key: FieldKey, text: str, window: float) -> None:
        """Set the field."""
        ...

    async def delete(self, key: FieldKey) -> bool:
        """Delete the field; return whether it existed."""
        ...

    async def append(self, key: FieldKey, item: str, window: float | None) -> int | None:
        """Append JSON to the JSON list in the field; return the new length, or None if the field holds no list."""
        ...

    async def incr(self, key: FieldKey, by: int, window: float | None) -> int | None:
        """Add to the integer in the field; return the sum.

        None if the field holds no integer, or the sum does not fit into 64 bits.
        """
        ...

    async def compare_and_set(self, key: FieldKey, expected: str | None, text: str, window: float | None) -> bool:
        """Set the field if it holds ``expected``, or with None if it is absent; return whether it was set."""
        ...

    async def get_all(self, thread: ThreadKeys, *, sweep: bool) -> dict[str, str]:
        """Return the fields of the thread with their values."""
        ...

    async def touch(self, thread: ThreadKeys, *, sweep: bool) -> int:
        """Restart the windows of the thread's fields; return the number of fields."""
        ...

    async def destroy(self, thread: ThreadKeys, *, sweep: bool) -> int:
        """Delete the fields and the checkpoints of the thread; return how many there were."""
        ...

    async def clear(self, threads: Threads) -> int:
        """Delete every field of every thread; return how many there were."""
        ...
