"""CheckpointStore: the place where the checkpoints of a cache are, Valkey or process memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .checkpoint import NewCheckpoint, PendingWrite, Place, StoredCheckpoint
from .key import ThreadKeys

__all__ = ["CheckpointStore"]


class CheckpointStore(Protocol):
    """The store of checkpoints.

    Every method raises:
        UsageError, WrongLoopError: As for ``Engine.open``.
        L2UnavailableError: Valkey did not answer; a change may or may not have happened.
        L2CommandError: Valkey refused.
    """

    async def put(self, thread: ThreadKeys, new: NewCheckpoint) -> None:
        """Store a checkpoint."""
        ...

    async def put_writes(self, thread: ThreadKeys, place: Place, writes: Sequence[PendingWrite]) -> None:
        """Store pending writes of a checkpoint."""
        ...

    async def get(self, thread: ThreadKeys, ns: str, checkpoint_id: str | None) -> StoredCheckpoint | None:
        """Return a checkpoint, or None if there is none. Without an id: the latest of the namespace.

        Raises:
            UnreadableCheckpointError: The checkpoint is damaged, or of another form.
        """
        ...

    async def places(self, thread: ThreadKeys) -> list[Place]:
        """Return the places of all checkpoints of a thread, in the order of namespaces and ids."""
        ...

    async def threads(self) -> list[str]:
        """Return the threads that have checkpoints."""
        ...

    async def destroy(self, thread: ThreadKeys) -> int:
        """Remove every checkpoint and pending write of a thread; return how many checkpoints there were."""
        ...

    async def copy(self, source: ThreadKeys, target: ThreadKeys) -> int:
        """Replace the target by a copy of the source; return the number of checkpoints. An empty source: no change."""
        ...

    async def remove(self, thread: ThreadKeys, places: Sequence[Place]) -> int:
        """Remove checkpoints and their pending writes, and the values that only they had; return how many."""
        ...

    async def remove_run(self, run_id: str) -> int:
        """Remove the checkpoints that a run has made, as ``remove``, in every thread; return how many."""
        ...
