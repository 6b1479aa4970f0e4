"""TierCacheSaver: LangGraph's checkpoints in the checkpoint tier of a cache.

The saver keeps the state of each thread once per channel and version, and gives the results of LangGraph's own
``InMemorySaver``. Methods whose names begin with ``a`` use the async face of the cache, the others ``cache.sync``.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ...errors import UsageError
from ...text import shown
from ...tiers.checkpoints.checkpoint import NewCheckpoint, PendingWrite, Place, StoredCheckpoint, TypedBytes
from ..extras import missing_extra
from .classes import refuse_pickle, strict_serializer, watching_classes
from .selection import Config, Pruning, Selection, check_strategy, config_of, names_of

try:
    from langgraph.checkpoint.base import (
        WRITES_IDX_MAP,
        BaseCheckpointSaver,
        CheckpointTuple,
        get_checkpoint_metadata,
    )
except ImportError as error:
    raise missing_extra("langgraph", error) from error

if TYPE_CHECKING:
    from ...agent_cache import AgentCache

__all__ = ["TierCacheSaver"]

# LangGraph's Checkpoint, CheckpointMetadata and versions: dicts.
_Fields: TypeAlias = Any

# A version is a step and random bits: it rises, and two forks that write a channel at the same step get two versions.
_RANDOM_BITS: Final = 40


class TierCacheSaver(BaseCheckpointSaver[int]):
    """A LangGraph checkpoint saver on a cache: ``builder.compile(checkpointer=TierCacheSaver(cache))``.

    A thread lives for the TTL of the session tier after its last write. ``cache.session.destroy_thread`` removes its
    checkpoints too. A cache of process memory alone keeps checkpoints in that memory.

    Args:
        cache: The cache. Its session options give the TTL and the bound of a value.
        serde: LangGraph's serializer, such as an ``EncryptedSerializer``. None takes a ``JsonPlusSerializer`` that
            restores the classes that LangGraph takes for safe, among them messages, and those in ``allow``.
        allow: Further classes of states that may be restored: the classes, or pairs of module and name. Only without
            ``serde``, which has its own list.

    Raises:
        UsageError: ``cache`` is no cache, ``serde`` would restore pickles, or ``serde`` and ``allow`` are both given.

    Every method raises:
        L2UnavailableError: Valkey did not answer. A change may or may not have happened; the saver does not repeat it.
        L2CommandError: Valkey refused.
        UnreadableCheckpointError: A checkpoint is damaged, or contains a class that is not allowed.
        UsageError: An id is empty or too long, or a value is larger than ``SessionOptions.max_value_bytes``.
    """

    def __init__(self, cache: AgentCache, *, serde: Any = None, allow: Iterable[type | tuple[str, str]] = ()) -> None:
        if not hasattr(cache, "checkpoints") or not hasattr(cache, "sync"):
            raise UsageError(f"cache must be an AgentCache, not {shown(cache)}")
        allowed = tuple(allow)
        if serde is not None and allowed:
            raise UsageError("allow must be empty where serde is given: the serializer has its own list of classes")
        refuse_pickle(serde)
        super().__init__(serde=strict_serializer(allowed) if serde is None else serde)
        self._cache = cache

    def get_next_version(self, current: Any, channel: None = None) -> int:
        """Return the version of a channel that follows ``current``, or the first one for None."""
        if current is None:
            return 1 << _RANDOM_BITS | random.getrandbits(_RANDOM_BITS)
        if isinstance(current, bool) or not isinstance(current, int | float):
            raise UsageError(f"a version must be a number, not {shown(current)}: another saver has made it")
        # The versions of other savers are small numbers.
        return (int(current) >> _RANDOM_BITS) + 1 << _RANDOM_BITS | random.getrandbits(_RANDOM_BITS)

    # Reading

    async def aget_tuple(self, config: Config) -> CheckpointTuple | None:
        """Return the checkpoint that ``config`` names, or the latest one of its thread, or None."""
        thread, ns, checkpoint_id = names_of(config)
        found = await self._cache.checkpoints.get(thread, ns, checkpoint_id)
        return None if found is None else self._tuple(thread, found, config if checkpoint_id else None)

    def get_tuple(self, config: Config) -> CheckpointTuple | None:
        """Return the checkpoint that ``config`` names, or the latest one of its thread, or None."""
        thread, ns, checkpoint_id = names_of(config)
        found = self._cache.sync.checkpoints.get(thread, ns, checkpoint_id)
        return None if found is None else self._tuple(thread, found, config if checkpoint_id else None)

    async def alist(
        self,
        config: Config | None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        before: Config | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield the checkpoints of a thread, or of all threads for None, the latest of each namespace first.

        Args:
            config: May name a namespace and a checkpoint.
            filter: Values that the metadata must have.
            before: Only checkpoints with smaller ids than the one that this config names.
            limit: Most checkpoints to yield.
        """
        tier = self._cache.checkpoints
        wanted = Selection(config, filter, before, limit)
        for thread in wanted.threads or await tier.threads():
            for place in wanted.select(await tier.places(thread)):
                if wanted.is_done:
                    return
                found = await tier.get(thread, *place)
                if found is not None and wanted.takes((each := self._tuple(thread, found)).metadata):
                    yield each

    def list(
        self,
        config: Config | None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        before: Config | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield checkpoints, as ``alist``."""
        tier = self._cache.sync.checkpoints
        wanted = Selection(config, filter, before, limit)
        for thread in wanted.threads or tier.threads():
            for place in wanted.select(tier.places(thread)):
                if wanted.is_done:
                    return
                found = tier.get(thread, *place)
                if found is not None and wanted.takes((each := self._tuple(thread, found)).metadata):
                    yield each

    def _tuple(self, thread: str, found: StoredCheckpoint, config: Config = None) -> CheckpointTuple:
        place, parent = found.place, found.parent
        with watching_classes(thread, place):
            load = self.serde.loads_typed
            checkpoint = load(found.checkpoint)
            checkpoint["channel_values"] = {channel: load(value) for channel, value in found.values.items()}
            writes = [(write.task_id, write.channel, load(write.value)) for write in found.writes]
            metadata = load(found.metadata)
        return CheckpointTuple(
            config=config_of(thread, place) if config is None else config,
            checkpoint=checkpoint,
            metadata=metadata,
            parent_config=None if parent is None else config_of(thread, Place(place.ns, parent)),
            pending_writes=writes,
        )

    # Writing

    async def aput(self, config: Config, checkpoint: _Fields, metadata: _Fields, new_versions: _Fields) -> Config:
        """Store a checkpoint; return its config once Valkey has acknowledged it."""
        thread, new = self._new(config, checkpoint, metadata, new_versions)
        await self._cache.checkpoints.put(thread, new)
        return config_of(thread, new.place)

    def put(self, config: Config, checkpoint: _Fields, metadata: _Fields, new_versions: _Fields) -> Config:
        """Store a checkpoint; return its config once Valkey has acknowledged it."""
        thread, new = self._new(config, checkpoint, metadata, new_versions)
        self._cache.sync.checkpoints.put(thread, new)
        return config_of(thread, new.place)

    def _new(
        self, config: Config, checkpoint: _Fields, metadata: _Fields, new_versions: Mapping[str, Any]
    ) -> tuple[str, NewCheckpoint]:
        thread, ns, parent = names_of(config)
        values = checkpoint["channel_values"]
        head = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        full_metadata = get_checkpoint_metadata(config, metadata)
        versions = {**checkpoint["channel_versions"], **new_versions}
        unchanged = frozenset(c for c in versions if c in values and c not in new_versions)
        run_id = full_metadata.get("run_id")
        return thread, NewCheckpoint(
            place=Place(ns, checkpoint["id"]),
            parent=parent,
            checkpoint=self._dump(head),
            metadata=self._dump(full_metadata),
            versions=versions,
            fresh={channel: self._dump(values[channel]) for channel in new_versions if channel in values},
            cleared=frozenset(channel for channel in new_versions if channel not in values),
            unchanged=unchanged,
            dump_unchanged=lambda: {channel: self._dump(values[channel]) for channel in unchanged},
            run_id="" if run_id is None else str(run_id),
        )

    async def aput_writes(
        self, config: Config, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the writes of a task, which belong to the step behind the checkpoint that ``config`` names."""
        thread, place, pending = self._pending(config, writes, task_id, task_path)
        await self._cache.checkpoints.put_writes(thread, place, pending)

    def put_writes(self, config: Config, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """Store the writes of a task, as ``aput_writes``."""
        thread, place, pending = self._pending(config, writes, task_id, task_path)
        self._cache.sync.checkpoints.put_writes(thread, place, pending)

    def _pending(
        self, config: Config, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> tuple[str, Place, Sequence[PendingWrite]]:
        thread, ns, _ = names_of(config)
        pending = [
            PendingWrite(task_id, WRITES_IDX_MAP.get(channel, number), channel, self._dump(value), task_path)
            for number, (channel, value) in enumerate(writes)
        ]
        return thread, Place(ns, config["configurable"]["checkpoint_id"]), pending

    def _dump(self, value: Any) -> TypedBytes:
        kind, data = self.serde.dumps_typed(value)
        return TypedBytes(kind, bytes(data))

    # Removing and copying

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove the checkpoints of a thread. The fields of its session stay."""
        await self._cache.checkpoints.destroy_thread(str(thread_id))

    def delete_thread(self, thread_id: str) -> None:
        """Remove the checkpoints of a thread. The fields of its session stay."""
        self._cache.sync.checkpoints.destroy_thread(str(thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that runs have made, and their pending writes, in all threads."""
        for run_id in run_ids:
            await self._cache.checkpoints.remove_run(str(run_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that runs have made, and their pending writes, in all threads."""
        for run_id in run_ids:
            self._cache.sync.checkpoints.remove_run(str(run_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Replace the checkpoints of a thread by those of another, all of them."""
        await self._cache.checkpoints.copy_thread(str(source_thread_id), str(target_thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Replace the checkpoints of a thread by those of another, all of them."""
        self._cache.sync.checkpoints.copy_thread(str(source_thread_id), str(target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove earlier checkpoints of threads.

        Args:
            thread_ids: The threads.
            strategy: "keep_latest" keeps the latest checkpoint of each namespace, and those before it from which the
                values of its delta channels are made. "delete" removes all checkpoints.
        """
        check_strategy(strategy)
        tier = self._cache.checkpoints
        for thread in map(str, thread_ids):
            if strategy == "delete":
                await tier.destroy_thread(thread)
                continue
            pruning = Pruning(await tier.places(thread))
            while (place := pruning.next_place()) is not None:
                found = await tier.get(thread, *place)
                pruning.visit(None if found is None else self._tuple(thread, found))
            await tier.remove(thread, pruning.removed)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove earlier checkpoints of threads, as ``aprune``."""
        check_strategy(strategy)
        tier = self._cache.sync.checkpoints
        for thread in map(str, thread_ids):
            if strategy == "delete":
                tier.destroy_thread(thread)
                continue
            pruning = Pruning(tier.places(thread))
            while (place := pruning.next_place()) is not None:
                found = tier.get(thread, *place)
                pruning.visit(None if found is None else self._tuple(thread, found))
            tier.remove(thread, pruning.removed)
