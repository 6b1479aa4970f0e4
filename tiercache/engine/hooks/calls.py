"""The calls of hooks: makes the record of an event and hands it to every hook of its kind.

A plain hook runs inside the operation that made the event, and an async hook in a task of its own (``tasks``). There
are four promises:

1. A hook that raises changes nothing for the caller and for the other hooks. The cache logs the first exception of each
   hook, and counts every exception.
2. Async hooks take a bounded number of tasks and a bounded queue. Further events are dropped, and counted.
3. A hook's own use of the cache makes no events, so that a hook cannot call itself.
4. Without a hook of its kind an event costs one look at an empty tuple; a hit in L1 does not even look
   (``Engine.hit``).
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from ...log import CacheLog
from ..entries.entry import Entry, Group
from ..entries.lookup import Lookup
from .events import ErrorEvent, HitEvent, InvalidateEvent, LoadEvent, StoreEvent
from .registry import Hook, HookRegistry
from .tasks import IN_HOOK, HookTasks, close_unawaited

__all__ = ["HookCalls"]


class HookCalls:
    """The calls of the hooks of one face of a cache.

    Args:
        registry: The hooks, which the faces of the cache share.

    Attributes:
        registry: See the arguments.
        error_count: Calls of hooks that raised.
    """

    def __init__(self, registry: HookRegistry, log: CacheLog) -> None:
        self.registry = registry
        self.error_count = 0
        self._log = log
        self._lost_count = 0
        self._tasks: HookTasks | None = None

    @property
    def dropped_count(self) -> int:
        """Calls of async hooks that were dropped: too many waited, or the cache was closed."""
        return self._lost_count + (0 if self._tasks is None else self._tasks.dropped_count)

    def start(self) -> None:
        """Run async hooks on the running loop from now on: a new runtime begins."""
        self._lost_count = self.dropped_count
        self._tasks = HookTasks(asyncio.get_running_loop())

    async def drain(self, timeout: float) -> None:
        """Wait for the async hooks, at most ``timeout`` seconds, and cancel the rest."""
        if self._tasks is not None:
            await self._tasks.drain(timeout)

    # Events

    def hit(self, key: str, entry: Entry, source: Any, now: float) -> None:
        """Report a hit. State makes no event here: the session tier reports its own (``session_hit``)."""
        hooks, groups = self.registry.hit, entry.groups
        if not hooks or _is_state(groups):
            return
        age = now - entry.stored_at
        model, tool = _label(groups)
        event = HitEvent(
            groups[0].value, key, source, age if age < math.inf else None, entry.value.cost, model=model, tool=tool
        )
        self._call("hit", hooks, event)

    def lookup(self, key: str, lookup: Lookup, now: float) -> None:
        """Report a lookup that L1 did not answer at once, if it is a hit."""
        if self.registry.hit and lookup.entry is not None and lookup.source != "loader":
            self.hit(key, lookup.entry, lookup.source, now)

    def session_hit(self, key: str, source: Any) -> None:
        """Report a read of session state that found a value. ``source`` "loader" is no hit."""
        if source != "loader":
            self._call("hit", self.registry.hit, HitEvent("session", key, source))

    def load(
        self, key: str, groups: tuple[Group, ...], seconds: float, waiter_count: int, error: Exception | None
    ) -> None:
        """Report the end of a call of a loader."""
        hooks = self.registry.load
        if hooks:
            model, tool = _label(groups)
            tier = groups[0].value
            self._call("load", hooks, LoadEvent(tier, key, seconds, waiter_count, error, model=model, tool=tool))

    def store(
        self, key: str, groups: tuple[Group, ...], size_bytes: int, ttl: float | None, *, is_load: bool = False
    ) -> None:
        """Report a stored value. State makes no event here, as for ``hit``."""
        hooks = self.registry.store
        if hooks and not _is_state(groups):
            model, tool = _label(groups)
            event = StoreEvent(groups[0].value, key, size_bytes, ttl, is_load, model=model, tool=tool)
            self._call("store", hooks, event)

    def session_store(self, key: str, size_bytes: int | None, ttl: float | None, *, is_load: bool = False) -> None:
        """Report stored session state. ``ttl`` inf stands for no expiry."""
        hooks = self.registry.store
        if hooks:
            event = StoreEvent("session", key, size_bytes, None if ttl == math.inf else ttl, is_load)
            self._call("store", hooks, event)

    def invalidate(self, kind: str, value: str, count: int, origin: Literal["here", "elsewhere"] = "here") -> None:
        """Report removed entries."""
        hooks = self.registry.invalidate
        if hooks:
            self._call("invalidate", hooks, InvalidateEvent(kind, value, count, origin))

    def error(self, operation: str, error: Exception) -> None:
        """Report a failed operation."""
        hooks = self.registry.error
        if hooks:
            self._call("error", hooks, ErrorEvent(operation, error))

    # Calls

    def _call(self, kind: str, hooks: Sequence[Hook], event: object) -> None:
        if IN_HOOK.get():
            return
        token = IN_HOOK.set(True)
        try:
            for hook in hooks:
                try:
                    result = hook(event)
                    if inspect.isawaitable(result):
                        self._add(kind, hook, result)
                # A hook of the program may raise any exception. A plain function has no task of its own to cancel.
                except (Exception, asyncio.CancelledError) as error:
                    self._failed(kind, hook, error)
        finally:
            IN_HOOK.reset(token)

    def _add(self, kind: str, hook: Hook, awaitable: Any) -> None:
        tasks = self._tasks
        # The operation may have failed because the cache belongs to another loop, or is closed.
        if tasks is None or tasks.loop is not asyncio.get_running_loop():
            self._lost_count += 1
            close_unawaited(awaitable)
        else:
            tasks.add(awaitable, partial(self._failed, kind, hook))

    def _failed(self, kind: str, hook: Hook, error: BaseException) -> None:
        self.error_count += 1
        function = hook.func if isinstance(hook, partial) else hook
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self._log.warn_once(f"the hook {name} of on_{kind} raised (counted as hook_errors): %r", error)


def _is_state(groups: tuple[Group, ...]) -> bool:
    return not groups or groups[0].value == "session"


def _label(groups: tuple[Group, ...]) -> tuple[str | None, str | None]:
    """Return the model and the tool of an entry of ``groups``."""
    kind, value = groups[1] if len(groups) > 1 else ("", "")
    return (value if kind == "model" else None), (value if kind == "tool" else None)
