"""Checkpoints in Valkey: each change is one script, so that a thread never has half of a checkpoint.

A blob may be a delta on an earlier blob, and a record names blobs that earlier checkpoints have stored. The race: while
a graph runs, another process removes the thread, or the thread ends. ``checkpoint_put.lua`` therefore stores nothing if
a blob is gone that the new checkpoint needs; the checkpoint is then put a second time, with all its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...engine.engine import Engine
from ...engine.entries.rules import TierRules, UndecodableError
from ...engine.level2.writes import Command
from ...engine.operations.state import StateCommands
from ...errors import UnreadableCheckpointError
from ...ttl import to_milliseconds
from .checkpoint import NewCheckpoint, PendingWrite, Place, StoredCheckpoint, TypedBytes, sorted_writes
from .codec import Blob, CheckpointCodec, Record, RecordField
from .in_l1 import CheckpointsInL1, Content
from .key import CheckpointKeys, ThreadKeys, decode_part, encode_part, field_of, member_of, place_of
from .scripts import checkpoint_script, list_script
from .store import CheckpointStore

__all__ = ["ValkeyCheckpoints"]


class _Packed(NamedTuple):
    """A checkpoint as it is sent.

    Attributes:
        content: The content for L1.
        needed: The fields of blobs that must exist already.
        stored: The new fields and their bytes.
        blobs: The new blobs by field.
    """

    content: Content
    needed: Sequence[bytes]
    stored: Sequence[bytes]
    blobs: Mapping[bytes, Blob]


class ValkeyCheckpoints(CheckpointStore):
    """The checkpoint store in Valkey."""

    def __init__(self, engine: Engine, rules: TierRules, keys: CheckpointKeys, codec: CheckpointCodec) -> None:
        self._engine = engine
        self._state = StateCommands(engine)
        self._rules = rules
        self._keys = keys
        self._codec = codec
        self._l1 = CheckpointsInL1(engine, rules)
        lifetime = rules.default_lifetime()
        self._ttl = 0 if lifetime is None else to_milliseconds(lifetime)

    # Changes

    async def put(self, thread: ThreadKeys, new: NewCheckpoint) -> None:
        runtime = await self._engine.open()
        fence = self._l1.open_fence(thread, runtime)
        try:
            before = None if new.parent is None else self._l1.content(thread, Place(new.place.ns, new.parent))
            packed = self._pack(thread, new, new.fresh, before)
            is_stored, *rest = await self._send(thread, new, packed)
            if not is_stored:
                packed = self._pack(thread, new, {**new.dump_unchanged(), **new.fresh}, None)
                is_stored, *rest = await self._send(thread, new, packed)
            added_count, runs = rest
            if added_count < len(packed.stored) // 2:
                # A field held another value. L1 of this and of other processes may have it.
                await self._state.change_group(thread.group, ())
            else:
                found = new.place, packed.content, packed.blobs
                self._l1.keep(thread, found, fence, runtime, is_latest=True)
                if before is not None:
                    self._l1.drop_earlier(thread, before, packed.content)
        finally:
            runtime.fences.close(fence)
        await self._renew_runs(thread, runs)

    async def _send(self, thread: ThreadKeys, new: NewCheckpoint, packed: _Packed) -> Any:
        head = (thread.writes_prefix, self._ttl, member_of(new.place), _encode_run(new.run_id), len(packed.needed))
        commands = [
            _script("put", thread, *head, *packed.needed, *packed.stored),
            self._listing(self._keys.threads, thread),
        ]
        if new.run_id:
            commands.append(self._listing(self._keys.run(new.run_id), thread))
        return (await self._state.run_all(commands))[0]

    def _pack(
        self, thread: ThreadKeys, new: NewCheckpoint, values: Mapping[str, TypedBytes], before: Content | None
    ) -> _Packed:
        """Pack a checkpoint with ``values``, which may become deltas on the values of ``before``."""
        stem = b"b\0" + encode_part(new.place.ns) + b"\0"
        suffixes = {c: field_of(c, version) for c, version in new.versions.items() if c not in new.cleared}
        needed: dict[bytes, None] = dict.fromkeys(stem + suffixes[c] for c in new.unchanged if c not in values)
        stored: list[bytes] = []
        blobs: dict[bytes, Blob] = {}
        for channel, value in values.items():
            field = stem + suffixes[channel]
            plain = self._codec.plain(value)
            base = None if before is None else before.fields.get(channel)
            earlier = None if base is None or base == field else self._l1.blob(thread, base)
            version = b"" if base is None else base[len(stem) + len(encode_part(channel)) + 1 :]
            data, blobs[field] = self._codec.pack_blob(plain, None if earlier is None else (version, earlier))
            if blobs[field].depth and base is not None:
                needed[base] = None
            stored += [field, data]
        fields = [RecordField(s, c in values or c in new.unchanged) for c, s in suffixes.items()]
        record = self._codec.pack_record(
            Record(_encode_run(new.run_id), fields, new.parent, new.checkpoint, new.metadata)
        )
        stored += [b"c\0" + member_of(new.place), record]
        empty = {stem + field_of(c, new.versions[c]) for c in new.cleared}
        if before is not None:
            empty |= before.empty.intersection(stem + suffix for suffix in suffixes.values())
        known = {c: stem + suffix for c, suffix in suffixes.items()}
        parts = new.parent, new.checkpoint, new.metadata
        content = Content(self._codec.digest_of(record), *parts, known, frozenset(empty))
        return _Packed(content, tuple(needed), stored, blobs)

    async def put_writes(self, thread: ThreadKeys, place: Place, writes: Sequence[PendingWrite]) -> None:
        member = member_of(place)
        key = thread.writes_prefix.encode() + member
        packed: list[str | bytes] = []
        for write in writes:
            packed += [*self._codec.pack_write(write), "1" if write.number < 0 else "0"]
        command = checkpoint_script("put_writes"), 3, thread.index_key, thread.content_key, key
        commands: list[Command] = [("EVAL", *command, thread.writes_prefix, self._ttl, member, *packed)]
        if self._ttl:
            commands.append(self._listing(self._keys.threads, thread))
        runs = (await self._state.run_all(commands))[0]
        await self._renew_runs(thread, runs)

    # Reads

    async def get(self, thread: ThreadKeys, ns: str, checkpoint_id: str | None) -> StoredCheckpoint | None:
        runtime = await self._engine.open()
        known_id = self._l1.latest(thread, ns) if checkpoint_id is None else checkpoint_id
        known = None if known_id is None else self._l1.content(thread, Place(ns, known_id))
        values = None if known is None else self._l1.values(thread, known)
        asked = ("", b"") if known is None or values is None else (known_id or "", known.digest)
        script = checkpoint_script("get"), 2, thread.index_key, thread.content_key, thread.writes_prefix
        fence = self._l1.open_fence(thread, runtime)
        try:
            reply = await self._state.ask(("EVAL_RO", *script, encode_part(ns), checkpoint_id or "", *asked))
            if not reply:
                return None
            id_bytes, record, blobs, writes = reply
            place = Place(ns, id_bytes.decode(errors="replace"))
            try:
                if record:
                    known, values, found = self._unpack(ns, record[1:], _pairs(blobs))
                    kept = place, known, found
                    self._l1.keep(thread, kept, fence, runtime, is_latest=checkpoint_id is None)
                pending = [self._codec.unpack_write(*each) for each in _pairs(writes).items()]
            except UndecodableError as error:
                raise UnreadableCheckpointError(
                    f"checkpoint {place.id!r} of thread {thread.id!r}, namespace {ns!r}, cannot be read: {error}"
                ) from error
        finally:
            runtime.fences.close(fence)
        assert known is not None
        assert values is not None
        parts = known.parent, known.checkpoint, known.metadata, values
        return StoredCheckpoint(place, *parts, sorted_writes(pending))

    def _unpack(
        self, ns: str, record: bytes, stored: Mapping[bytes, bytes]
    ) -> tuple[Content, dict[str, TypedBytes], dict[bytes, Blob]]:
        """Return the content, the values and the blobs of a checkpoint."""
        unpacked = self._codec.unpack_record(record)
        stem = b"b\0" + encode_part(ns) + b"\0"
        done: dict[bytes, Blob] = {}
        fields: dict[str, bytes] = {}
        values: dict[str, TypedBytes] = {}
        for each in unpacked.fields:
            channel, field = each.channel, stem + each.suffix
            fields[channel] = field
            if field in stored:
                values[channel] = self._codec.unpack_blob(field, stored, done).value
            elif each.has_value:
                raise UndecodableError(f"the value of channel {channel!r} is gone")
        digest = self._codec.digest_of(record)
        parts = unpacked.parent, unpacked.checkpoint, unpacked.metadata
        empty = frozenset(field for channel, field in fields.items() if channel not in values)
        content = Content(digest, *parts, fields, empty)
        # Bases of the values are not kept: nothing reads them again.
        return content, values, {field: done[field] for field in fields.values() if field in done}

    async def places(self, thread: ThreadKeys) -> list[Place]:
        members = await self._state.ask(("ZRANGE", thread.index_key, 0, -1))
        try:
            places = [place_of(member) for member in members if not member.startswith(b"\xff")]
        except UnicodeDecodeError as error:
            raise UnreadableCheckpointError(f"the index of thread {thread.id!r} is damaged: {error}") from error
        if not members:
            # Other software, or an eviction, may have removed the thread.
            await self._leave_threads(thread)
        return places

    async def threads(self) -> list[str]:
        return await self._listed(self._keys.threads)

    async def _listed(self, key: str) -> list[str]:
        return [member.decode() for member in await self._state.run(("EVAL", list_script("live"), 1, key))]

    # Removing

    async def destroy(self, thread: ThreadKeys) -> int:
        # In this order: if another process puts a checkpoint between the two, the thread is gone or in the list.
        commands = ("ZREM", self._keys.threads, thread.id), _script("destroy", thread, thread.writes_prefix)
        _, (count, runs) = await self._state.change_group(thread.group, commands)
        await self._leave_runs(thread, runs)
        return int(count)

    async def copy(self, source: ThreadKeys, target: ThreadKeys) -> int:
        keys = source.index_key, source.content_key, target.index_key, target.content_key
        args = target.writes_prefix, self._ttl, source.writes_prefix
        command = "EVAL", checkpoint_script("copy"), len(keys), *keys, *args
        ((count, runs, before),) = await self._state.change_group(target.group, [command])
        if count:
            await self._leave_runs(target, before)
            await self._state.run(self._listing(self._keys.threads, target))
            await self._renew_runs(target, runs)
        return int(count)

    async def remove(self, thread: ThreadKeys, places: Sequence[Place]) -> int:
        return await self._remove(thread, "", [member_of(place) for place in places])

    async def remove_run(self, run_id: str) -> int:
        count = 0
        for thread_id in await self._listed(self._keys.run(run_id)):
            count += await self._remove(self._keys.thread(thread_id), _encode_run(run_id), ())
        return count

    async def _remove(self, thread: ThreadKeys, run: str, members: Sequence[bytes]) -> int:
        command = _script("remove", thread, thread.writes_prefix, run, *members)
        ((count, runs, is_empty),) = await self._state.change_group(thread.group, [command])
        if is_empty:
            await self._leave_threads(thread)
        await self._leave_runs(thread, runs)
        return int(count)

    # The lists of threads

    def _listing(self, key: str, thread: ThreadKeys) -> Command:
        return "EVAL", list_script("add"), 1, key, thread.id, self._ttl

    async def _leave_threads(self, thread: ThreadKeys) -> None:
        """Remove a thread from the list of threads, unless another process has put a checkpoint in the meantime."""
        commands = ("ZREM", self._keys.threads, thread.id), ("EXISTS", thread.index_key)
        _, is_there = await self._state.run_all(commands)
        if is_there:
            await self._state.run(self._listing(self._keys.threads, thread))

    async def _renew_runs(self, thread: ThreadKeys, runs: bytes) -> None:
        if runs:
            await self._state.run_all([self._listing(self._keys.run(run), thread) for run in _runs_in(runs)])

    async def _leave_runs(self, thread: ThreadKeys, runs: bytes) -> None:
        """Remove a thread from the lists of runs, unless a run has put a checkpoint in the meantime."""
        if runs:
            gone = _runs_in(runs)
            leaving: list[Command] = [("ZREM", self._keys.run(run), thread.id) for run in gone]
            *_, there = await self._state.run_all([*leaving, ("HGET", thread.content_key, "r")])
            again = [self._listing(self._keys.run(run), thread) for run in _runs_in(there or b"") if run in gone]
            if again:
                await self._state.run_all(again)


def _script(name: str, thread: ThreadKeys, *args: str | bytes | int) -> Command:
    return "EVAL", checkpoint_script(name), 2, thread.index_key, thread.content_key, *args


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _encode_run(run_id: str) -> str:
    """Return a run for the list of runs of a thread, where NUL ends each."""
    return encode_part(run_id).decode()


def _runs_in(data: bytes) -> list[str]:
    return [decode_part(run) for run in data.split(b"\0") if run]
