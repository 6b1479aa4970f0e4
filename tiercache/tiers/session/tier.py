"""The session tier: the state of agents' threads, field by field, under the keys that ``key`` describes.

A field lives for a window: the ``ttl`` of the call that set the field, else the tier's, else the cache's. The window is
a sliding TTL: each read restarts it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

from ...engine.call import Loaded, LoadFunction
from ...engine.engine import Engine
from ...engine.entries.operation import Operation
from ...engine.entries.rules import TierRules
from ...engine.memory.loaders import LoaderCalls, awaitable_loader, requires_argument
from ...errors import UsageError
from ...identity import KeepsIdentity
from ...text import check_text, shown
from ...ttl import NO_EXPIRY, Ttl
from ..keys.canonical_json import compact_json
from ..values.json_types import Storable
from .active import ActiveThreads
from .entry import FieldValue, SessionValue
from .in_memory import MemorySessions
from .in_valkey import ValkeySessions
from .key import FieldKey, Threads
from .store import Checkpoints, SessionStore

__all__ = ["SessionTier"]


class SessionTier(KeepsIdentity):
    """``cache.session``: the state of threads, as text fields.

    State exists nowhere else: if Valkey is unavailable, a read or a write is an error, not a miss.

    Every method raises:
        UsageError: An argument is wrong, and nothing was changed. Thread ids and fields are text that is not empty.

    Every async method also raises:
        UsageError: The cache is closed.
        WrongLoopError: The cache belongs to another event loop.
        L2UnavailableError: Valkey did not answer. The cache does not repeat the call; a write may or may not have
            happened.
        L2CommandError: Valkey refused.

    ``ttl`` is the window of the field: seconds, a string such as ``"30m"``, or ``NO_EXPIRY``. None takes the tier's,
    then the cache's. Cancelling a call does not take back a change that is queued.

    A cache without Valkey keeps sessions in a dict that evicts nothing: a field without a TTL stays until it is
    deleted.

    Attributes:
        reads: Number of reads of single fields, present or absent.
        writes: Number of writes of single fields, by all methods.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        rules: TierRules,
        active: ActiveThreads,
        checkpoints: Checkpoints,
        *,
        in_memory: bool,
    ) -> None:
        self._engine = engine
        self._hooks = engine.hooks
        self._rules = rules
        self._loaders = LoaderCalls(rules.tier, engine.log, in_threads=False, run_plain=engine.run_plain)
        self._threads = Threads(name)
        self._counters = rules.counters.of(rules.tier)
        self._checkpoints = checkpoints
        self._store: SessionStore = (
            MemorySessions(engine, rules, checkpoints)
            if in_memory
            else ValkeySessions(engine, rules, name, checkpoints)
        )
        self._active = active
        self.reads = 0
        self.writes = 0

    @property
    def active_count(self) -> int:
        """Number of threads that this process has used and whose fields, as far as it knows, have not ended since.

        At most 10,000. A thread whose fields have no end counts for an hour after its last use. With
        ``SessionOptions.exact_active``: the number of such threads of all processes, as Valkey has counted them within
        the last ten seconds.
        """
        return self._active.count(self._engine.now())

    # Fields

    async def get(self, thread_id: str, field: str, *, fresh: bool = False) -> str | None:
        """Return the text in the field, or None if the field is absent. Restarts the window of the field.

        A process reads its own writes at once. It reads a write of another process when the announcement has arrived,
        and after ``CoherenceOptions.max_staleness`` at the latest.

        Args:
            fresh: Whether to skip L1: Valkey then has every acknowledged write of all processes.
        """
        key = self._threads.field(thread_id, field)
        value = None if fresh else self._hit("session.get", key)
        if value is None:
            with self._operation("session.get", key) as operation:
                value = await self._store.get(key, fresh=fresh)
                operation.set("hit", value is not None)
                if value is not None:
                    operation.set("source", value.source)
        if value is None:
            self.reads += 1
            return None
        return self._count_read(key, value)

    async def set(self, thread_id: str, field: str, value: str, *, ttl: Ttl | None = None) -> None:
        """Set the field; return once Valkey has acknowledged the write."""
        key = self._threads.field(thread_id, field)
        text = check_text(value, "value", "; set_json stores any JSON value")
        data = text.encode()
        self._rules.check_size(data, "value")
        window = self._window(ttl)
        with self._operation("session.set", key) as operation:
            operation.set("bytes", len(data))
            operation.set("ttl", None if window == math.inf else window)
            await self._store.set(key, text, window)
        self._count_write(key, window, len(data))

    async def delete(self, thread_id: str, field: str) -> bool:
        """Delete the field; return, once Valkey has acknowledged the delete, whether the field existed."""
        key = self._threads.field(thread_id, field)
        with self._operation("session.delete", key) as operation:
            existed = await self._store.delete(key)
            operation.set("deleted_count", int(existed))
        self._active.changed(key.thread.id)
        self._hooks.invalidate("key", key.key, int(existed))
        return existed

    async def get_or_load(
        self,
        thread_id: str,
        field: str,
        loader: Callable[[], str | Awaitable[str]] | Awaitable[str],
        *,
        ttl: Ttl | None = None,
    ) -> str:
        """Return the text in the field, or else the text that ``loader`` returns. For state derived from other state.

        Args:
            loader: Called without arguments, at most once at a time in this process for all waiting callers; async or
                plain. Returns a str. May be an awaitable, as for ``KvTier.get_or_load``.

        Returns:
            The text. A loaded text is stored, and acknowledged by Valkey, before any caller gets it. The cache does not
            store the text if the field is set or deleted during the load, or if the text is larger than
            ``SessionOptions.max_value_bytes``.

        Raises:
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.

        An exception of the loader reaches every waiter unchanged. Cancelling one caller leaves the others waiting; when
        the last caller has gone, the load is cancelled, unless ``SessionOptions.on_abandon`` is "finish".
        """
        key = self._threads.field(thread_id, field)
        if not callable(loader):
            loader = awaitable_loader(loader)
        if requires_argument(loader):
            raise UsageError("loader must take no argument: session.get_or_load calls it without arguments")
        window = self._window(ttl)
        value = self._hit("session.get_or_load", key)
        if value is None:
            with self._operation("session.get_or_load", key) as operation:
                value = await self._store.get_or_load(key, self._load_function(loader, window), window)
                operation.set("hit", value.source != "loader")
                operation.set("source", value.source)
                operation.set("coalesced", value.coalesced)
            if value.source == "loader" and not value.coalesced:
                self.writes += 1
                self._hooks.session_store(key.key, len(value.text), window, is_load=True)
        return self._count_read(key, value)

    # JSON

    async def get_json(self, thread_id: str, field: str, default: Any = None) -> Any:
        """Return the JSON value in the field, or ``default`` if the field is absent. Otherwise as ``get``.

        A text that is not JSON counts as absent, and is counted as ``undecodable``.
        """
        text = await self.get(thread_id, field)
        if text is None:
            return default
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            self._counters.undecodable += 1
            return default

    async def set_json(self, thread_id: str, field: str, value: Storable, *, ttl: Ttl | None = None) -> None:
        """Set the field to a JSON value, as compact text. Otherwise as ``set``."""
        await self.set(thread_id, field, compact_json(value, "value").decode(), ttl=ttl)

    # Changes in one step. Each change keeps the window of the field unless the call gives a window.

    async def append(self, thread_id: str, field: str, item: Storable, *, ttl: Ttl | None = None) -> int:
        """Append a JSON value to the JSON list in the field, in one step; return the new length.

        An absent field is an empty list. Appends by any number of processes lose no item.

        Args:
            ttl: The new window of the field. None keeps its window; a new field gets the tier's, then the cache's.

        Raises:
            UsageError: The field holds no JSON list.
        """
        key = self._threads.field(thread_id, field)
        data = compact_json(item, "item")
        self._rules.check_size(data, "item")
        text = data.decode()
        window = self._own_window(ttl)
        with self._operation("session.append", key):
            count = await self._store.append(key, text, window)
            if count is None:
                raise UsageError(f"field {key.field!r} of thread {key.thread.id!r} holds no JSON list to append to")
        self._count_write(key, window)
        return count

    async def incr(self, thread_id: str, field: str, by: int = 1, *, ttl: Ttl | None = None) -> int:
        """Add ``by`` to the integer in the field, in one step; return the sum. An absent field is 0.

        Args:
            by: A whole number of 64 bits; may be negative.
            ttl: As for ``append``.

        Raises:
            UsageError: The field holds no integer, or the sum does not fit into 64 bits.
        """
        key = self._threads.field(thread_id, field)
        if not isinstance(by, int) or isinstance(by, bool) or not -(2**63) <= by < 2**63:
            raise UsageError(f"by must be a whole number of 64 bits, not {shown(by)}")
        window = self._own_window(ttl)
        with self._operation("session.incr", key):
            total = await self._store.incr(key, int(by), window)
            if total is None:
                raise UsageError(
                    f"field {key.field!r} of thread {key.thread.id!r} holds no integer, or the sum has over 64 bits"
                )
        self._count_write(key, window)
        return total

    async def compare_and_set(
        self, thread_id: str, field: str, expected: str | None, value: str, *, ttl: Ttl | None = None
    ) -> bool:
        """Set the field to ``value`` if it holds ``expected``, in one step; return whether it was set.

        Args:
            expected: The text that the field must hold, or None if the field must be absent.
            value: The new text.
            ttl: As for ``append``.
        """
        key = self._threads.field(thread_id, field)
        expected_text = None if expected is None else check_text(expected, "expected")
        text = check_text(value, "value")
        data = text.encode()
        self._rules.check_size(data, "value")
        window = self._own_window(ttl)
        with self._operation("session.compare_and_set", key):
            changed = await self._store.compare_and_set(key, expected_text, text, window)
        if changed:
            self._count_write(key, window, len(data))
        return changed

    # Whole threads

    async def get_all(self, thread_id: str, *, sweep: bool = False) -> dict[str, str]:
        """Return the fields of the thread with their texts, from Valkey. Restarts the window of every field.

        Args:
            sweep: Whether to look also for fields that other software than tiercache wrote and that tiercache has not
                read yet. The look is a SCAN, whose cost grows with the number of keys on the server. The SCAN
                happens in any case where such software is known, and where the server evicts keys.
        """
        thread = self._threads.thread(thread_id)
        with self._engine.operation("session.get_all", thread_id=thread.id) as operation:
            texts = await self._store.get_all(thread, sweep=sweep)
            operation.set("field_count", len(texts))
        return texts

    async def touch(self, thread_id: str, *, sweep: bool = False) -> int:
        """Restart the window of every field of the thread; return the number of fields.

        Args:
            sweep: As for ``get_all``.
        """
        thread = self._threads.thread(thread_id)
        with self._engine.operation("session.touch", thread_id=thread.id) as operation:
            count = await self._store.touch(thread, sweep=sweep)
            operation.set("touched_count_approx", count)
        return count

    async def destroy_thread(self, thread_id: str, *, sweep: bool = False) -> int:
        """Delete every field and every checkpoint of the thread; return how many there were.

        If it raises, some may be left.

        Args:
            sweep: As for ``get_all``.
        """
        thread = self._threads.thread(thread_id)
        with self._engine.operation("session.destroy_thread", thread_id=thread.id) as operation:
            count = await self._store.destroy(thread, sweep=sweep)
            operation.set("deleted_count", count)
        self._active.forget(thread.id)
        self._hooks.invalidate("thread", thread.id, count)
        return count

    async def clear(self) -> int:
        """Delete every field and every checkpoint of every thread; return how many there were.

        If it raises, some may be left.
        """
        with self._engine.operation("session.clear") as operation:
            count = await self._store.clear(self._threads)
            count += await self._checkpoints.clear()
            operation.set("deleted_count", count)
        self._active.clear()
        self._hooks.invalidate("tier", "session", count)
        return count

    def _hit(self, operation: str, key: FieldKey) -> FieldValue | None:
        """Return the value of the field in process memory, traced as a hit of ``operation``, or None."""
        value = self._store.hit(key)
        engine = self._engine
        if value is not None and engine.tracer is not None:
            engine.trace_hit(operation, key=key.key, thread_id=key.thread.id, field=key.field)
        return value

    def _operation(self, name: str, key: FieldKey) -> Operation:
        return self._engine.operation(name, key=key.key, thread_id=key.thread.id, field=key.field)

    def _window(self, ttl: Ttl | None) -> float:
        seconds = self._rules.lifetime(ttl)
        return math.inf if seconds is None else seconds

    def _own_window(self, ttl: Ttl | None) -> float | None:
        """Return the window that the call gives, or None if it gives none."""
        return None if ttl is None else self._window(ttl)

    def _count_read(self, key: FieldKey, value: FieldValue) -> str:
        """Count a read that found a value; return the text."""
        self.reads += 1
        self._active.seen(key.thread.id, self._engine.now(), value.expires_at)
        if self._hooks.registry.hit:
            self._hooks.session_hit(key.key, value.source)
        return value.text

    def _count_write(self, key: FieldKey, window: float | None, size_bytes: int | None = None) -> None:
        self.writes += 1
        self._hooks.session_store(key.key, size_bytes, window)
        now = self._engine.now()
        self._active.seen(key.thread.id, now, now + (self._window(None) if window is None else window))

    def _load_function(self, loader: Callable[[], str | Awaitable[str]], window: float) -> LoadFunction:
        """Return a function that calls ``loader`` and returns its text, which the session store stores itself."""

        async def load() -> Loaded:
            value: Any = await self._loaders.call(loader)
            if not isinstance(value, str):
                raise UsageError(f"the loader's value must be a str, not {type(value).__name__}")
            text, ttl = str.__str__(value), NO_EXPIRY if window == math.inf else window
            try:
                return Loaded(SessionValue(text), text.encode(), ttl, store=False)
            except UnicodeEncodeError as error:
                return Loaded(SessionValue(text), b"", ttl, store=False, refusal=error)

        return load
