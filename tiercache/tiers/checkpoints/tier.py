"""The checkpoint tier: the states of graphs, for savers of frameworks, under the keys that ``key`` describes.

A thread lives for the TTL of the session tier after its last write, and ``SessionTier.destroy_thread`` removes its
checkpoints too.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.engine import Engine
from ...engine.entries.operation import Operation
from ...engine.entries.rules import TierRules
from ...engine.level2.writes import Command
from ...identity import KeepsIdentity
from ..values.compression import Compression
from .checkpoint import NewCheckpoint, PendingWrite, Place, StoredCheckpoint
from .codec import CheckpointCodec
from .in_memory import MemoryCheckpoints
from .in_valkey import ValkeyCheckpoints
from .key import CheckpointKeys, check_namespace, check_place, field_of
from .store import CheckpointStore

__all__ = ["CheckpointTier"]


class CheckpointTier(KeepsIdentity):
    """``cache.checkpoints``: the checkpoints of threads, in the bytes of their framework's serializer.

    The adapters of frameworks use it. A checkpoint is state: if Valkey is unavailable, a call is an error.

    Every method raises:
        UsageError: An argument is wrong, and nothing was changed; or the cache is closed.
        WrongLoopError: The cache belongs to another event loop.
        L2UnavailableError: Valkey did not answer. The cache does not repeat the call; a change may or may not have
            happened.
        L2CommandError: Valkey refused.

    A cache without Valkey keeps checkpoints in dicts that evict nothing.
    """

    def __init__(self, engine: Engine, rules: TierRules, name: str, *, in_memory: bool) -> None:
        self._engine = engine
        self._rules = rules
        self._keys = CheckpointKeys(name)
        codec = CheckpointCodec(Compression(above=None, max_bytes=None, as_text=False, log=engine.log))
        self._store: CheckpointStore = (
            MemoryCheckpoints(engine, rules) if in_memory else ValkeyCheckpoints(engine, rules, self._keys, codec)
        )

    async def put(self, thread_id: str, new: NewCheckpoint) -> None:
        """Store a checkpoint; return once Valkey has acknowledged it. The thread's lifetime begins again."""
        thread = self._keys.thread(thread_id)
        check_place(*new.place)
        if new.parent is not None:
            check_place(new.place.ns, new.parent)
        for channel, version in new.versions.items():
            field_of(channel, version)
        for channel, value in new.fresh.items():
            self._rules.check_size(value.data, f"the value of channel {channel!r}")
        if new.run_id:
            self._keys.run(new.run_id)
        with self._operation("put", thread.id):
            await self._store.put(thread, new)

    async def put_writes(self, thread_id: str, place: Place, writes: Sequence[PendingWrite]) -> None:
        """Store pending writes of a checkpoint, which may be stored later. The thread's lifetime begins again."""
        thread = self._keys.thread(thread_id)
        check_place(*place)
        for write in writes:
            self._rules.check_size(write.value.data, f"the write to channel {write.channel!r}")
        if writes:
            with self._operation("put_writes", thread.id):
                await self._store.put_writes(thread, place, writes)

    async def get(self, thread_id: str, ns: str = "", checkpoint_id: str | None = None) -> StoredCheckpoint | None:
        """Return a checkpoint with its pending writes, or None if there is none.

        One question to Valkey, in every case: a copy in L1 spares the content of the answer, and not the question.

        Args:
            ns: The namespace.
            checkpoint_id: None for the latest checkpoint of the namespace.

        Raises:
            UnreadableCheckpointError: The checkpoint is damaged, incomplete or of another form.
        """
        thread = self._keys.thread(thread_id)
        check_namespace(ns) if checkpoint_id is None else check_place(ns, checkpoint_id)
        with self._operation("get", thread.id) as operation:
            found = await self._store.get(thread, ns, checkpoint_id)
            operation.set("hit", found is not None)
        return found

    async def places(self, thread_id: str) -> list[Place]:
        """Return the places of all checkpoints of the thread, by namespace and then by id."""
        thread = self._keys.thread(thread_id)
        with self._operation("places", thread.id):
            return await self._store.places(thread)

    async def threads(self) -> list[str]:
        """Return the ids of all threads that have checkpoints. A thread that has just ended may be among them."""
        with self._engine.operation("checkpoints.threads"):
            return await self._store.threads()

    async def destroy_thread(self, thread_id: str) -> int:
        """Remove all checkpoints of the thread, and their pending writes; return how many checkpoints there were."""
        thread = self._keys.thread(thread_id)
        with self._operation("destroy_thread", thread.id) as operation:
            count = await self._store.destroy(thread)
            operation.set("deleted_count", count)
        return count

    async def copy_thread(self, source_id: str, target_id: str) -> int:
        """Replace the checkpoints of a thread by those of another; return how many.

        A source without checkpoints, and a source that is the target, changes nothing.
        """
        source, target = self._keys.thread(source_id), self._keys.thread(target_id)
        if source == target:
            return 0
        with self._operation("copy_thread", target.id):
            return await self._store.copy(source, target)

    async def remove(self, thread_id: str, places: Sequence[Place]) -> int:
        """Remove checkpoints, their pending writes, and the values that no other checkpoint has; return how many."""
        thread = self._keys.thread(thread_id)
        for place in places:
            check_place(*place)
        if not places:
            return 0
        with self._operation("remove", thread.id) as operation:
            count = await self._store.remove(thread, places)
            operation.set("deleted_count", count)
        return count

    async def remove_run(self, run_id: str) -> int:
        """Remove the checkpoints that a run has made, in all threads, as ``remove``; return how many."""
        self._keys.run(run_id)
        with self._engine.operation("checkpoints.remove_run") as operation:
            count = await self._store.remove_run(run_id)
            operation.set("deleted_count", count)
        return count

    async def clear(self) -> int:
        """Remove the checkpoints of all threads; return how many there were. If it raises, some may be left."""
        count = 0
        for thread_id in await self.threads():
            count += await self.destroy_thread(thread_id)
        return count

    def presence(self, thread_id: str) -> Command:
        """Return the command that replies 1 if Valkey has checkpoints of the thread, for the session tier to send."""
        return ("EXISTS", self._keys.thread(thread_id).index_key)

    def _operation(self, name: str, thread_id: str) -> Operation:
        return self._engine.operation(f"checkpoints.{name}", thread_id=thread_id)
