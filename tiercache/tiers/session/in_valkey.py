"""Sessions in Valkey: each change is one script, sent through the write pipe; L1 answers reads first.

A script sees the hash of the thread and the value of the field in one step. The two keys do not share a slot: in a
cluster, two scripts would have to replace each script.

``get_all``, ``touch`` and ``destroy`` work on a whole thread:

1. If the hash has all fields of the thread, one script does the first ``_CHUNK_COUNT`` fields in one step.
2. Further scripts do the fields that are left, or all fields if the hash may lack some.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from ...engine.call import Call, Loaded, LoadFunction
from ...engine.engine import Engine
from ...engine.entries.entry import Entry
from ...engine.entries.rules import TierRules
from ...engine.level2.writes import Command
from ...engine.memory.fences import Fence
from ...engine.operations.get_or_load import Loads
from ...engine.operations.invalidate import GroupEntries, Invalidations
from ...engine.operations.state import StateCommands
from ...engine.runtime.l2 import L2
from ...indexes.names import IndexNames
from ...ttl import NO_EXPIRY, to_milliseconds
from .entry import FieldValue, SessionValue
from .key import FieldKey, ThreadKeys, Threads
from .scripts import session_script, thread_script
from .sliding import SlidingTtl
from .store import Checkpoints, SessionStore

__all__ = ["ValkeySessions"]

# Fields in one script. The number bounds the time for which the server does nothing else.
_CHUNK_COUNT: Final = 250

_Send: TypeAlias = Callable[[Command], Awaitable[Any]]


class _FirstScript(NamedTuple):
    """The outcome of the script that does the fields in the hash of a thread.

    Attributes:
        reply: The reply of the script, or None if it found no field or did nothing.
        rest: The fields for which further scripts must follow.
    """

    reply: Any
    rest: Sequence[bytes]


class ValkeySessions(SessionStore):
    """The session store in Valkey."""

    def __init__(self, engine: Engine, rules: TierRules, name: str, checkpoints: Checkpoints) -> None:
        self._engine = engine
        self._loads = Loads(engine)
        self._invalidations = Invalidations(engine)
        self._state = StateCommands(engine)
        self._name = name
        self._names = IndexNames.of(name)
        self._rules = rules
        self._checkpoints = checkpoints
        self._counters = rules.counters.of(rules.tier)
        self._sliding = SlidingTtl()
        lifetime = rules.default_lifetime()
        self._tier_window = 0 if lifetime is None else to_milliseconds(lifetime)

    # Reads

    def hit(self, key: FieldKey) -> FieldValue | None:
        entry = self._engine.hit(key.key, self._engine.now(), self._counters)
        return None if entry is None else self._read(key, entry, "l1")

    async def get(self, key: FieldKey, *, fresh: bool) -> FieldValue | None:
        lookup = await self._engine.find(self._make_call(key), fresh=fresh)
        if lookup.entry is None:
            self._sliding.forget(key.key)
            return None
        return self._read(key, lookup.entry, lookup.source)

    async def get_or_load(self, key: FieldKey, load: LoadFunction, window: float) -> FieldValue:
        call = self._make_call(key)

        async def fill(fence: Fence, entry: Entry) -> None:
            command = _field_command("fill", key, _milliseconds(window), entry.value.text)
            began = self._engine.now()
            if await self._state.fill(call, fence, entry, command):
                self._counters.stored_bytes += len(entry.value.text.encode())
                self._sliding.note(key.key, began, window)

        lookup = await self._loads.get_or_load(call._replace(fill=fill), load, "use")
        assert lookup.entry is not None
        if lookup.source == "loader":
            return FieldValue(lookup.entry.value.text, self._engine.now() + window, "loader", lookup.coalesced)
        return self._read(key, lookup.entry, lookup.source)

    def _read(self, key: FieldKey, entry: Entry, source: Any) -> FieldValue:
        """Return the value that a read found, and queue a renewal of the field if one is due."""
        now = self._engine.now()
        if self._sliding.is_due(key.key, entry.expires_at, now):
            self._renew(key, now)
        return FieldValue(entry.value.text, entry.expires_at, source)

    def _renew(self, key: FieldKey, now: float) -> None:
        full_key = key.key

        def renewed(outcome: Any) -> None:
            # The script replies with the milliseconds that are left: -1 for no end, -2 for no field.
            if isinstance(outcome, Exception) or outcome == -2:
                self._sliding.forget(full_key)
            else:
                self._sliding.note(full_key, now, math.inf if outcome == -1 else outcome / 1000)

        if self._state.renew(_field_command("slide", key, self._tier_window), renewed):
            self._sliding.note_request(full_key, now)

    # Changes

    async def set(self, key: FieldKey, text: str, window: float) -> None:
        began = self._engine.now()
        command = ("EVAL", session_script("set"), 1, key.thread.windows, key.field, _milliseconds(window))
        loaded = Loaded(SessionValue(text), text.encode(), NO_EXPIRY if window == math.inf else window)
        await self._state.store(self._make_call(key), loaded, command)
        self._sliding.note(key.key, began, window)

    async def delete(self, key: FieldKey) -> bool:
        count: int = await self._state.change(key.key, _field_command("delete", key))
        self._sliding.forget(key.key)
        return count > 0

    async def append(self, key: FieldKey, item: str, window: float | None) -> int | None:
        count: int | None = await self._change("append", key, window, item)
        return count

    async def incr(self, key: FieldKey, by: int, window: float | None) -> int | None:
        total: bytes | None = await self._change("incr", key, window, by)
        return None if total is None else int(total)

    async def compare_and_set(self, key: FieldKey, expected: str | None, text: str, window: float | None) -> bool:
        expectation = ("", "") if expected is None else ("1", expected)
        changed: int = await self._change("compare_and_set", key, window, *expectation, text)
        return changed == 1

    async def _change(self, script: str, key: FieldKey, window: float | None, *args: str | int) -> Any:
        own_window = "" if window is None else _milliseconds(window)
        command = _field_command(script, key, self._tier_window, own_window, *args)
        reply = await self._state.change(key.key, command)
        self._sliding.forget(key.key)
        return reply

    # Whole threads

    async def get_all(self, thread: ThreadKeys, *, sweep: bool) -> dict[str, str]:
        ask = self._state.ask
        command = self._thread_command("get_all", thread, self._tier_window)
        first = await self._first_script(thread, command, sweep, send=ask, read=ask)
        texts = self._texts(first.reply or [])
        for command in _field_commands("get_all", thread, first.rest, self._tier_window):
            texts |= self._texts(await ask(command))
        return texts

    async def touch(self, thread: ThreadKeys, *, sweep: bool) -> int:
        run = self._state.run
        command = self._thread_command("touch", thread, self._tier_window)
        first = await self._first_script(thread, command, sweep, send=run, read=run)
        count: int = first.reply or 0
        for command in _field_commands("touch", thread, first.rest, self._tier_window):
            count += await run(command)
        return count

    async def destroy(self, thread: ThreadKeys, *, sweep: bool) -> int:
        async def delete(command: Command) -> Any:
            (reply,) = await self._state.change_group(thread.group, [command], announced=False)
            return reply

        # L1 drops the fields even if Valkey does not answer.
        await self._state.change_group(thread.group, (), announced=False)
        command = self._thread_command("delete", thread)
        first = await self._first_script(thread, command, sweep, send=delete, read=self._state.run)
        fields = list(_field_commands("delete", thread, first.rest))
        look = self._checkpoints.presence(thread.id)
        *counts, has_checkpoints = await self._state.change_group(thread.group, [*fields, look])
        count: int = sum(counts, first.reply or 0)
        return count + await self._checkpoints.destroy_thread(thread.id) if has_checkpoints else count

    async def clear(self, threads: Threads) -> int:
        group = self._rules.group
        count = await self._invalidations.group(GroupEntries(group, (threads.values_prefix,), is_state=True))
        beside = (threads.windows_prefix, threads.notes_prefix)
        await self._invalidations.group(GroupEntries(group, beside, is_state=True))
        return count

    async def _first_script(
        self, thread: ThreadKeys, command: Command, sweep: bool, *, send: _Send, read: _Send
    ) -> _FirstScript:
        """Run a script for the fields in the hash of a thread, if the hash has all fields of the thread.

        Args:
            command: Made by ``_thread_command``.
            send: Sends ``command`` and returns its reply.
            read: Sends the command that reads the fields in the hash. ``StateCommands.run`` waits for its turn in the
                write pipe, so that the hash has the fields whose writes are queued; ``ask`` does not.
        """
        if await self._may_rely_on_hash(sweep):
            # {0} if the hash may lack fields; {1} if there is no field; else {1, reply, rest}.
            is_complete, *outcome = await send(command)
            if is_complete == 1:
                return _FirstScript(*outcome) if outcome else _FirstScript(None, ())
        return _FirstScript(None, await self._all_fields(thread, await read(("HKEYS", thread.windows))))

    async def _may_rely_on_hash(self, sweep: bool) -> bool:
        """Return whether the hash of a thread may have all its fields: not if the server may evict the hash."""
        l2 = (await self._engine.open()).l2
        return not sweep and isinstance(l2, L2) and not await l2.eviction.may_evict()

    async def _all_fields(self, thread: ThreadKeys, fields: list[bytes]) -> list[bytes]:
        """Return ``fields``, and all other fields of the thread that have keys in Valkey: other software wrote them."""
        level2 = (await self._engine.open()).l2.level2
        if level2 is None:
            return fields
        start = len(thread.prefix.encode())
        all_fields = dict.fromkeys(fields)
        async for page in level2.scan(thread.prefix):
            all_fields.update(dict.fromkeys(key[start:] for key in page))
        return list(all_fields)

    def _thread_command(self, script: str, thread: ThreadKeys, *args: int) -> Command:
        """Return the command that runs ``script`` for the fields in the hash of the thread."""
        keys = (thread.windows, *self._names)
        return ("EVAL", thread_script(script), len(keys), *keys, self._name, _CHUNK_COUNT, thread.prefix, *args)

    def _texts(self, reply: Sequence[bytes]) -> dict[str, str]:
        """Return the values by field from a reply of fields and values; a text that is not UTF-8 is counted."""
        texts: dict[str, str] = {}
        for field, value in zip(reply[::2], reply[1::2], strict=True):
            try:
                texts[field.decode()] = value.decode()
            except UnicodeDecodeError:
                self._counters.undecodable += 1
        return texts

    def _make_call(self, key: FieldKey) -> Call:
        return Call(self._rules, key.key, (self._rules.group, key.thread.group), self._counters)


def _field_command(script: str, key: FieldKey, *args: str | int) -> Command:
    """Return the command that runs ``script`` for one field."""
    return ("EVAL", session_script(script), 2, key.thread.windows, key.key, key.field, *args)


def _field_commands(script: str, thread: ThreadKeys, fields: Sequence[bytes], *args: int) -> Iterator[Command]:
    """Yield the commands that run ``script`` for all of ``fields``."""
    prefix = thread.prefix.encode()
    for start in range(0, len(fields), _CHUNK_COUNT):
        chunk = fields[start : start + _CHUNK_COUNT]
        keys = [prefix + field for field in chunk]
        yield ("EVAL", session_script(script), 1 + len(keys), thread.windows, *keys, *args, *chunk)


def _milliseconds(window: float) -> int:
    """Return a window for a script: 0 stands for no end."""
    return 0 if window == math.inf else to_milliseconds(window)
