"""The session tier: the state of agents' threads, field by field, under the keys that session_place describes.

A field lives for a window: that of the call that set it, else the tier's, else the cache's. Each read starts it anew.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from typing import Any, Protocol

from ...engine.call import Loaded, LoadFunction
from ...engine.engine import Engine
from ...engine.entries.policy import TierPolicy
from ...engine.memory.load_limits import check_loader, takes_argument
from ...errors import UsageError
from ...text import check_text
from ...ttl import NO_EXPIRY, Ttl
from ..keys.canonical_json import compact_json
from .active import ActiveThreads
from .entry import FieldValue, SessionValue
from .fields import FieldKey, ThreadKeys, Threads
from .in_memory import MemorySessions
from .in_valkey import ValkeySessions

__all__ = ["SessionStore", "SessionTier"]


class SessionStore(Protocol):
    """Where the fields are. Windows are in seconds, inf for no end.

    Raises:
        UsageError, WrongLoopError: From every method that waits, as for ``Engine.open``.
        L2UnavailableError, L2CommandError: Likewise; what was to be changed may or may not have been.

    ``append``, ``incr`` and ``compare_and_set`` are one step each, whoever else changes the field, and always work on
    what Valkey has. A window of None leaves a field its own, and gives a new one the tier's. ``sweep`` looks for keys
    that the thread's hash does not know.
    """

    def peek(self, place: FieldKey) -> FieldValue | None:
        """Return what process memory has, None for nothing or if it cannot be said without waiting."""
        ...

    async def get(self, place: FieldKey, *, fresh: bool) -> FieldValue | None:
        """Return what the field holds, None for nothing."""
        ...

    async def get_or_load(self, place: FieldKey, load: LoadFunction, window: float) -> FieldValue:
        """Return what the field holds, or what ``load`` brings, which is stored unless the field has been changed."""
        ...

    async def set(self, place: FieldKey, text: str, window: float) -> None:
        """Set the field."""
        ...

    async def delete(self, place: FieldKey) -> bool:
        """Delete the field; return whether it was there."""
        ...

    async def append(self, place: FieldKey, item: str, window: float | None) -> int | None:
        """Append JSON to a JSON list; return how many items it has, None for what is no list."""
        ...

    async def incr(self, place: FieldKey, by: int, window: float | None) -> int | None:
        """Add to an integer; return the sum, None where there is none of 64 bits."""
        ...

    async def compare_and_set(self, place: FieldKey, expected: str | None, text: str, window: float | None) -> bool:
        """Set the field if it holds ``expected``, None for nothing; return whether it did."""
        ...

    async def get_all(self, thread: ThreadKeys, *, sweep: bool) -> dict[str, str]:
        """Return the thread's fields."""
        ...

    async def touch(self, thread: ThreadKeys, *, sweep: bool) -> int:
        """Start the windows of the thread's fields anew; return how many there are."""
        ...

    async def destroy(self, thread: ThreadKeys, *, sweep: bool) -> int:
        """Delete the thread's fields; return how many there were."""
        ...

    async def clear(self, threads: Threads) -> int:
        """Delete every field of every thread; return how many there were."""
        ...


class SessionTier:
    """``cache.session``. State, not copies: what cannot be read or written because Valkey is away is an error.

    Every method raises:
        UsageError: For a bad argument, nothing having been changed, and on a closed cache. Thread ids and fields are
            text and not empty.
        WrongLoopError: From another event loop.
        L2UnavailableError: No answer from Valkey, and the call is not repeated. A write may or may not have happened.
        L2CommandError: Valkey refused.

    Args named ``ttl`` are the field's window; None takes the tier's, then the cache's. A cache without Valkey keeps
    sessions in a dict, which evicts nothing: what has no TTL stays until it is deleted.

    Attributes:
        reads: Fields asked for one by one, whether there or not.
        writes: Fields set, by whichever method.
    """

    def __init__(self, engine: Engine, policy: TierPolicy, name: str, *, in_memory: bool) -> None:
        self._engine = engine
        self._policy = policy
        self._threads = Threads(name)
        self._counters = policy.counters.of(policy.tier)
        self._store: SessionStore = (
            MemorySessions(engine, policy) if in_memory else ValkeySessions(engine, policy, name)
        )
        self._active = ActiveThreads()
        self.reads = 0
        self.writes = 0

    @property
    def active_count(self) -> int:
        """Threads that this process has used and whose fields have not ended since, as far as it knows; at most 10,000.

        A thread without a TTL counts for an hour after its last use.
        """
        return self._active.count(self._engine.now())

    # Fields

    async def get(self, thread_id: str, field: str, *, fresh: bool = False) -> str | None:
        """Return what the field holds, None for nothing. Starts its window anew.

        What this process has written it reads back at once. What another has, when word of it arrives, and after
        ``CoherenceOptions.max_staleness`` at the latest; with ``fresh``, which asks Valkey, at once.
        """
        place = self._threads.place(thread_id, field)
        held = None if fresh else self._store.peek(place)
        if held is not None:
            if self._engine.tracer is not None:
                self._engine.trace_hit("session.get", key=place.key, thread_id=thread_id, field=field)
        else:
            with self._operation("session.get", place) as operation:
                held = await self._store.get(place, fresh=fresh)
                operation.set("hit", held is not None)
                if held is not None:
                    operation.set("source", held.source)
        self.reads += 1
        if held is None:
            return None
        self._seen(place.thread, held.expires_at)
        return held.text

    async def set(self, thread_id: str, field: str, value: str, *, ttl: Ttl | None = None) -> None:
        """Set the field, and return once Valkey has acknowledged it."""
        place = self._threads.place(thread_id, field)
        text = check_text(value, "value", "; use set_json for what is not text")
        self._policy.check_size(text.encode(), "value")
        window = self._window(ttl)
        with self._operation("session.set", place) as operation:
            operation.set("bytes", len(text.encode()))
            operation.set("ttl", None if window == math.inf else window)
            await self._store.set(place, text, window)
        self._wrote(place, window)

    async def delete(self, thread_id: str, field: str) -> bool:
        """Delete the field, and return whether it was there once Valkey has acknowledged it."""
        place = self._threads.place(thread_id, field)
        with self._operation("session.delete", place) as operation:
            existed = await self._store.delete(place)
            operation.set("deleted_count", int(existed))
        return existed

    async def get_or_load(
        self, thread_id: str, field: str, loader: Callable[[], Any], *, ttl: Ttl | None = None
    ) -> str:
        """Return what the field holds or, if nothing, what ``loader`` returns: for state that is derived from other.

        ``loader`` is called without arguments, async or plain, at most once at a time in this process for all who wait,
        and returns a str. It is stored, and acknowledged by Valkey, before anybody gets it; if the field is set or
        deleted meanwhile, or it is larger than ``TierOptions.max_value_bytes``, it is not stored. What it raises
        reaches every waiter unchanged.

        Raises:
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.
        """
        place = self._threads.place(thread_id, field)
        check_loader(loader)
        if takes_argument(loader):
            raise UsageError("loader is called without arguments, and must take none")
        window = self._window(ttl)
        held = self._store.peek(place)
        if held is not None:
            if self._engine.tracer is not None:
                self._engine.trace_hit("session.get_or_load", key=place.key, thread_id=thread_id, field=field)
        else:
            with self._operation("session.get_or_load", place) as operation:

                async def load() -> Loaded:
                    value = loader()
                    if inspect.isawaitable(value):
                        value = await value
                    text = check_text(value, "what the loader returned")
                    return Loaded(
                        SessionValue(text), text.encode(), NO_EXPIRY if window == math.inf else window, store=False
                    )

                held = await self._store.get_or_load(place, load, window)
                operation.set("hit", held.source != "loader")
                operation.set("source", held.source)
                operation.set("coalesced", held.coalesced)
        self.reads += 1
        if held.source == "loader" and not held.coalesced:
            self.writes += 1
        self._seen(place.thread, held.expires_at)
        return held.text

    # JSON

    async def get_json(self, thread_id: str, field: str, default: Any = None) -> Any:
        """Return the JSON value that the field holds, ``default`` if nothing. What is not JSON is a counted nothing."""
        text = await self.get(thread_id, field)
        if text is None:
            return default
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            self._counters.undecodable += 1
            return default

    async def set_json(self, thread_id: str, field: str, value: Any, *, ttl: Ttl | None = None) -> None:
        """Set the field to a JSON value, as compact text."""
        await self.set(thread_id, field, compact_json(value, "value").decode(), ttl=ttl)

    # Changes in one step. They leave a field its window unless the call gives one.

    async def append(self, thread_id: str, field: str, item: Any, *, ttl: Ttl | None = None) -> int:
        """Append a JSON value to the JSON list in the field, and return how many items it has.

        A field that is not there is an empty list. Appends of any number of processes lose nothing.

        Raises:
            UsageError: The field holds something else.
        """
        place = self._threads.place(thread_id, field)
        data = compact_json(item, "item")
        self._policy.check_size(data, "item")
        text = data.decode()
        window = self._own_window(ttl)
        with self._operation("session.append", place):
            count = await self._store.append(place, text, window)
            if count is None:
                raise UsageError(f"field {place.field!r} of thread {place.thread.id!r} holds no JSON list to append to")
        self._wrote(place, window)
        return count

    async def incr(self, thread_id: str, field: str, by: int = 1, *, ttl: Ttl | None = None) -> int:
        """Add ``by`` to the integer in the field, and return the sum. A field that is not there is 0.

        Raises:
            UsageError: The field holds no integer, or the sum does not fit into 64 bits.
        """
        place = self._threads.place(thread_id, field)
        if not isinstance(by, int) or isinstance(by, bool) or not -(2**63) <= by < 2**63:
            raise UsageError(f"by must be a whole number of 64 bits, not {by!r}")
        window = self._own_window(ttl)
        with self._operation("session.incr", place):
            total = await self._store.incr(place, int(by), window)
            if total is None:
                raise UsageError(
                    f"field {place.field!r} of thread {place.thread.id!r} holds no integer, or the sum has over 64 bits"
                )
        self._wrote(place, window)
        return total

    async def compare_and_set(
        self, thread_id: str, field: str, expected: str | None, value: str, *, ttl: Ttl | None = None
    ) -> bool:
        """Set the field to ``value`` if it holds ``expected``, None for nothing; return whether it did."""
        place = self._threads.place(thread_id, field)
        given = None if expected is None else check_text(expected, "expected")
        text = check_text(value, "value")
        self._policy.check_size(text.encode(), "value")
        window = self._own_window(ttl)
        with self._operation("session.compare_and_set", place):
            changed = await self._store.compare_and_set(place, given, text, window)
        if changed:
            self._wrote(place, window)
        return changed

    # Whole threads

    async def get_all(self, thread_id: str, *, sweep: bool = False) -> dict[str, str]:
        """Return the thread's fields, from Valkey; starts their windows anew.

        Args:
            sweep: Also look for fields that other software than tiercache has written and that nobody has read through
                tiercache: a SCAN, which costs in proportion to everything that the server holds. It is done in any
                case where such software is known, and where Valkey evicts keys.
        """
        thread = self._threads.thread(thread_id)
        with self._engine.operation("session.get_all", thread_id=thread.id) as operation:
            fields = await self._store.get_all(thread, sweep=sweep)
            operation.set("field_count", len(fields))
        return fields

    async def touch(self, thread_id: str, *, sweep: bool = False) -> int:
        """Start the windows of the thread's fields anew; return how many fields there are. ``sweep`` as for get_all."""
        thread = self._threads.thread(thread_id)
        with self._engine.operation("session.touch", thread_id=thread.id) as operation:
            count = await self._store.touch(thread, sweep=sweep)
            operation.set("touched_count_approx", count)
        return count

    async def destroy_thread(self, thread_id: str, *, sweep: bool = False) -> int:
        """Delete the thread's fields; return how many there were. ``sweep`` as for ``get_all``.

        If it raises, some of the fields may be left.
        """
        thread = self._threads.thread(thread_id)
        with self._engine.operation("session.destroy_thread", thread_id=thread.id) as operation:
            count = await self._store.destroy(thread, sweep=sweep)
            operation.set("deleted_count", count)
        self._active.forget(thread.id)
        return count

    async def clear(self) -> int:
        """Delete every field of every thread; return how many there were. If it raises, some may be left."""
        with self._engine.operation("session.clear") as operation:
            count = await self._store.clear(self._threads)
            operation.set("deleted_count", count)
        self._active.clear()
        return count

    def _operation(self, name: str, place: FieldKey) -> Any:
        return self._engine.operation(name, key=place.key, thread_id=place.thread.id, field=place.field)

    def _window(self, ttl: Ttl | None) -> float:
        seconds = self._policy.lifetime(ttl)
        return math.inf if seconds is None else seconds

    def _own_window(self, ttl: Ttl | None) -> float | None:
        """Return the window that the call gives, None for none."""
        return None if ttl is None else self._window(ttl)

    def _wrote(self, place: FieldKey, window: float | None) -> None:
        self.writes += 1
        self._seen(place.thread, self._engine.now() + (self._window(None) if window is None else window))

    def _seen(self, thread: ThreadKeys, expires_at: float) -> None:
        self._active.seen(thread.id, self._engine.now(), expires_at)
