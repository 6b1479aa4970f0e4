"""Checkpoints as a caller gives and gets them: the bytes of its own serializer, and the names around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from msgspec import Struct

__all__ = ["NewCheckpoint", "PendingWrite", "Place", "StoredCheckpoint", "TypedBytes", "Version", "sorted_writes"]

# The version of a channel. A saver chooses the type.
Version: TypeAlias = str | int | float


class TypedBytes(NamedTuple):
    """A serialized value.

    Attributes:
        kind: The form of ``data``, by the serializer's own name.
    """

    kind: str
    data: bytes


class Place(NamedTuple):
    """The place of a checkpoint in its thread.

    Attributes:
        ns: The namespace: "" for the graph itself, another text for each of its subgraphs.
        id: The id of the checkpoint. Later checkpoints have greater ids.
    """

    ns: str
    id: str


class PendingWrite(NamedTuple):
    """A write of one task, for the step that follows a checkpoint.

    Attributes:
        number: The number of the write in its task. A write with a negative number replaces an earlier write of the
            same task and number; any other write that exists already stays.
    """

    task_id: str
    number: int
    channel: str
    value: TypedBytes
    task_path: str = ""


class NewCheckpoint(Struct, frozen=True):
    """A checkpoint to store.

    Attributes:
        parent: The id of the checkpoint before it in the same namespace, or None.
        checkpoint: The checkpoint without the values of its channels.
        versions: The version of every channel.
        fresh: The values of the channels whose versions are new.
        cleared: The channels whose versions are new and which have no value.
        unchanged: The other channels that have a value. The value was stored with an earlier checkpoint.
        dump_unchanged: Returns the values of ``unchanged``. Called if the store has lost one of them.
        run_id: The run that made the checkpoint, or "" if it has no id.
    """

    place: Place
    parent: str | None
    checkpoint: TypedBytes
    metadata: TypedBytes
    versions: Mapping[str, Version]
    fresh: Mapping[str, TypedBytes]
    cleared: frozenset[str]
    unchanged: frozenset[str]
    dump_unchanged: Callable[[], Mapping[str, TypedBytes]]
    run_id: str = ""


class StoredCheckpoint(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        parent: As for ``NewCheckpoint``.
        values: The values of the channels that have one.
        writes: The pending writes, in the order of ``sorted_writes``.
    """

    place: Place
    parent: str | None
    checkpoint: TypedBytes
    metadata: TypedBytes
    values: Mapping[str, TypedBytes]
    writes: Sequence[PendingWrite]


def sorted_writes(writes: Sequence[PendingWrite]) -> list[PendingWrite]:
    """Return ``writes`` in the order in which a step applies them: by path, task and number."""
    return sorted(writes, key=lambda write: (write.task_path, write.task_id, write.number))
