"""Sessions in Valkey: each change is one script, sent through the write pipe, with L1 in front of the reads.

A script sees the thread's hash and the field's value in one step. The two keys do not share a slot: in a cluster a
script would have to become two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from ...engine.call import Call, Loaded, LoadFunction
from ...engine.engine import Engine
from ...engine.entries.entry import Entry
from ...engine.entries.policy import TierPolicy
from ...engine.level2.writes import Command
from ...engine.memory.fences import Fence
from ...engine.operations.get_or_load import Loads
from ...engine.operations.invalidate import GroupEntries, Invalidations
from ...engine.operations.state import StateCommands
from ...engine.runtime.l2 import L2
from ...indexes.names import IndexNames
from ...ttl import NO_EXPIRY, to_milliseconds
from .entry import FieldValue, SessionValue
from .fields import FieldKey, ThreadKeys, Threads
from .scripts import session_script, thread_script
from .sliding import SlidingTtl

__all__ = ["ValkeySessions"]

# Fields a script: it bounds how long the server does nothing else.
_CHUNK_COUNT: Final = 250


class _Part(NamedTuple):
    """What was done of a thread in one step.

    Attributes:
        is_complete: Whether the thread's hash has all its fields. If not, nothing was done.
        reply: The script's, None where there is no field.
        left: Fields for which it is still to be done.
    """

    is_complete: bool
    reply: Any = None
    left: Sequence[bytes] = ()


_NONE: Final = _Part(is_complete=False)


class ValkeySessions:
    """A SessionStore in Valkey. Windows and lives are in seconds, inf for no end."""

    def __init__(self, engine: Engine, policy: TierPolicy, name: str) -> None:
        self._engine = engine
        self._loads = Loads(engine)
        self._invalidations = Invalidations(engine)
        self._state = StateCommands(engine)
        self._name = name
        self._names = IndexNames.of(name)
        self._policy = policy
        self._counters = policy.counters.of(policy.tier)
        self._sliding = SlidingTtl()
        lifetime = policy.default_lifetime()
        self._tier_window = 0 if lifetime is None else to_milliseconds(lifetime)

    # Reading

    def peek(self, place: FieldKey) -> FieldValue | None:
        entry = self._engine.hit(place.key, self._engine.now(), self._counters)
        return None if entry is None else self._read(place, entry, "l1")

    async def get(self, place: FieldKey, *, fresh: bool) -> FieldValue | None:
        found = await self._engine.find(self._call(place), fresh=fresh)
        if found.entry is None:
            self._sliding.forget(place.key)
            return None
        return self._read(place, found.entry, found.source)

    async def get_or_load(self, place: FieldKey, load: LoadFunction, window: float) -> FieldValue:
        call = self._call(place)

        async def fill(fence: Fence, entry: Entry) -> None:
            command = _command("fill", place, _milliseconds(window), entry.value.text)
            began = self._engine.now()
            if await self._state.fill(call, fence, entry, command):
                self._counters.stored_bytes += len(entry.value.text.encode())
                self._sliding.note(place.key, began, window)

        found = await self._loads.get_or_load(call._replace(fill=fill), load, "use")
        assert found.entry is not None
        if found.source == "loader":
            return FieldValue(found.entry.value.text, self._engine.now() + window, "loader", found.coalesced)
        return self._read(place, found.entry, found.source)

    def _read(self, place: FieldKey, entry: Entry, source: Any) -> FieldValue:
        """Return what was read, its life being renewed if that is due."""
        now = self._engine.now()
        if self._sliding.is_due(place.key, entry.expires_at, now):
            self._renew(place, now)
        return FieldValue(entry.value.text, entry.expires_at, source)

    def _renew(self, place: FieldKey, now: float) -> None:
        key = place.key

        def renewed(outcome: Any) -> None:
            if isinstance(outcome, Exception) or outcome == -2:
                self._sliding.forget(key)
            else:
                self._sliding.note(key, now, math.inf if outcome == -1 else outcome / 1000)

        if self._state.renew(_command("slide", place, self._tier_window), renewed):
            self._sliding.asked(key, now)

    # Changing

    async def set(self, place: FieldKey, text: str, window: float) -> None:
        began = self._engine.now()
        command = ("EVAL", session_script("set"), 1, place.thread.windows, place.field, _milliseconds(window))
        loaded = Loaded(SessionValue(text), text.encode(), NO_EXPIRY if window == math.inf else window)
        await self._state.store(self._call(place), loaded, command)
        self._sliding.note(place.key, began, window)

    async def delete(self, place: FieldKey) -> bool:
        count: int = await self._state.change(place.key, _command("delete", place))
        self._sliding.forget(place.key)
        return count > 0

    async def append(self, place: FieldKey, item: str, window: float | None) -> int | None:
        count: int | None = await self._change("append", place, window, item)
        return count

    async def incr(self, place: FieldKey, by: int, window: float | None) -> int | None:
        total: bytes | None = await self._change("incr", place, window, by)
        return None if total is None else int(total)

    async def compare_and_set(self, place: FieldKey, expected: str | None, text: str, window: float | None) -> bool:
        given = ("", "") if expected is None else ("1", expected)
        changed: int = await self._change("compare_and_set", place, window, *given, text)
        return changed == 1

    async def _change(self, script: str, place: FieldKey, window: float | None, *args: str | int) -> Any:
        call = "" if window is None else _milliseconds(window)
        command = _command(script, place, self._tier_window, call, *args)
        reply = await self._state.change(place.key, command)
        self._sliding.forget(place.key)
        return reply

    # Whole threads: in one step as far as one script may go, where the hash has all fields

    async def get_all(self, thread: ThreadKeys, *, sweep: bool) -> dict[str, str]:
        part = _NONE
        if await self._relies_on_hash(sweep):
            part = _part(await self._state.ask(self._begin("get_all", thread, self._tier_window)))
        fields = part.left
        if not part.is_complete:
            fields = await self._with_others(thread, await self._state.ask(("HKEYS", thread.windows)))
        found = self._texts(part.reply or [])
        for command in _commands("get_all", thread, fields, self._tier_window):
            found |= self._texts(await self._state.ask(command))
        return found

    async def touch(self, thread: ThreadKeys, *, sweep: bool) -> int:
        part = _NONE
        if await self._relies_on_hash(sweep):
            part = _part(await self._state.run(self._begin("touch", thread, self._tier_window)))
        fields = part.left if part.is_complete else await self._fields(thread)
        count: int = part.reply or 0
        for command in _commands("touch", thread, fields, self._tier_window):
            count += await self._state.run(command)
        return count

    async def destroy(self, thread: ThreadKeys, *, sweep: bool) -> int:
        # L1 forgets it even if Valkey does not answer.
        await self._state.change_group(thread.group, (), announced=False)
        part = _NONE
        if await self._relies_on_hash(sweep):
            begin = self._begin("delete", thread)
            (reply,) = await self._state.change_group(thread.group, [begin], announced=False)
            part = _part(reply)
        fields = part.left if part.is_complete else await self._fields(thread)
        counts = await self._state.change_group(thread.group, list(_commands("delete", thread, fields)))
        count: int = sum(counts, part.reply or 0)
        return count

    async def _relies_on_hash(self, sweep: bool) -> bool:
        """Return whether a thread's hash may have all its fields. The server may evict a hash as it may the fields."""
        l2 = (await self._engine.open()).l2
        return not sweep and isinstance(l2, L2) and not await l2.eviction.may_evict_expiring()

    def _begin(self, script: str, thread: ThreadKeys, *args: int) -> Command:
        keys = (thread.windows, *self._names)
        return ("EVAL", thread_script(script), len(keys), *keys, self._name, _CHUNK_COUNT, thread.prefix, *args)

    def _texts(self, reply: Sequence[bytes]) -> dict[str, str]:
        found: dict[str, str] = {}
        for field, value in zip(reply[::2], reply[1::2], strict=True):
            try:
                found[field.decode()] = value.decode()
            except UnicodeDecodeError:
                self._counters.undecodable += 1
        return found

    async def clear(self, threads: Threads) -> int:
        group = self._policy.group
        count = await self._invalidations.group(GroupEntries(group, threads.values_prefix, is_state=True))
        await self._invalidations.group(GroupEntries(group, threads.windows_prefix, is_state=True))
        return count

    async def _fields(self, thread: ThreadKeys) -> list[bytes]:
        """Return the fields of a thread, also of other software's, and those whose writes are in the write pipe."""
        return await self._with_others(thread, await self._state.run(("HKEYS", thread.windows)))

    async def _with_others(self, thread: ThreadKeys, fields: list[bytes]) -> list[bytes]:
        """Return ``fields``, and the further fields that have keys in Valkey."""
        level2 = (await self._engine.open()).l2.level2
        if level2 is None:
            return fields
        start = len(thread.prefix.encode())
        all_fields = dict.fromkeys(fields)
        async for page in level2.scan(thread.prefix):
            all_fields.update(dict.fromkeys(key[start:] for key in page))
        return list(all_fields)

    def _call(self, place: FieldKey) -> Call:
        return Call(self._policy, place.key, (self._policy.group, place.thread.group), self._counters)


def _command(script: str, place: FieldKey, *args: str | int) -> Command:
    return ("EVAL", session_script(script), 2, place.thread.windows, place.key, place.field, *args)


def _commands(script: str, thread: ThreadKeys, fields: Sequence[bytes], *args: int) -> Iterator[Command]:
    """Yield the commands that run ``script`` for all ``fields``."""
    prefix = thread.prefix.encode()
    for start in range(0, len(fields), _CHUNK_COUNT):
        chunk = fields[start : start + _CHUNK_COUNT]
        keys = [prefix + field for field in chunk]
        yield ("EVAL", session_script(script), 1 + len(keys), thread.windows, *keys, *args, *chunk)


def _part(reply: Sequence[Any]) -> _Part:
    return _Part(reply[0] == 1, *reply[1:])


def _milliseconds(window: float) -> int:
    return 0 if window == math.inf else to_milliseconds(window)
