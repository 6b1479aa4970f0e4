"""The checkpoint tier for plain code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..identity import KeepsIdentity
from ..tiers.checkpoints.checkpoint import NewCheckpoint, PendingWrite, Place, StoredCheckpoint
from ..tiers.checkpoints.tier import CheckpointTier
from .face import SyncFace

__all__ = ["SyncCheckpointTier"]


class SyncCheckpointTier(KeepsIdentity):
    """``cache.sync.checkpoints``: the methods of ``CheckpointTier`` for plain code, with its results and errors."""

    def __init__(self, face: SyncFace, tier: CheckpointTier) -> None:
        self._face = face
        self._tier = tier

    def put(self, thread_id: str, new: NewCheckpoint) -> None:
        """Store a checkpoint, as ``CheckpointTier.put``."""
        self._face.run(partial(self._tier.put, thread_id, new))

    def put_writes(self, thread_id: str, place: Place, writes: Sequence[PendingWrite]) -> None:
        """Store pending writes of a checkpoint, as ``CheckpointTier.put_writes``."""
        self._face.run(partial(self._tier.put_writes, thread_id, place, writes))

    def get(self, thread_id: str, ns: str = "", checkpoint_id: str | None = None) -> StoredCheckpoint | None:
        """Return a checkpoint, or None, as ``CheckpointTier.get``."""
        return self._face.run(partial(self._tier.get, thread_id, ns, checkpoint_id))

    def places(self, thread_id: str) -> list[Place]:
        """Return the places of all checkpoints of the thread, as ``CheckpointTier.places``."""
        return self._face.run(partial(self._tier.places, thread_id))

    def threads(self) -> list[str]:
        """Return the ids of all threads that have checkpoints, as ``CheckpointTier.threads``."""
        return self._face.run(self._tier.threads)

    def destroy_thread(self, thread_id: str) -> int:
        """Remove all checkpoints of the thread; return how many, as ``CheckpointTier.destroy_thread``."""
        return self._face.run(partial(self._tier.destroy_thread, thread_id))

    def copy_thread(self, source_id: str, target_id: str) -> int:
        """Replace the checkpoints of a thread by those of another, as ``CheckpointTier.copy_thread``."""
        return self._face.run(partial(self._tier.copy_thread, source_id, target_id))

    def remove(self, thread_id: str, places: Sequence[Place]) -> int:
        """Remove checkpoints; return how many, as ``CheckpointTier.remove``."""
        return self._face.run(partial(self._tier.remove, thread_id, places))

    def remove_run(self, run_id: str) -> int:
        """Remove the checkpoints that a run has made; return how many, as ``CheckpointTier.remove_run``."""
        return self._face.run(partial(self._tier.remove_run, run_id))

    def clear(self) -> int:
        """Remove the checkpoints of all threads; return how many there were, as ``CheckpointTier.clear``."""
        return self._face.run(self._tier.clear)
