"""The registry of hooks, which the two faces of a cache share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias
from weakref import WeakMethod

from ...errors import UsageError
from ...locks import ThreadLock

__all__ = ["KINDS", "Hook", "HookRegistry"]

# Called with the event. The cache awaits the result if it is awaitable, and drops any other result.
Hook: TypeAlias = Callable[[Any], object]

KINDS: Final = ("hit", "load", "store", "invalidate", "error")


class HookRegistry:
    """The hooks of one cache. Any thread may add and remove hooks.

    Attributes:
        hit, load, store, invalidate, error: The hooks of each kind of event, in the order of their registration.
    """

    def __init__(self) -> None:
        self.hit: tuple[Hook, ...] = ()
        self.load: tuple[Hook, ...] = ()
        self.store: tuple[Hook, ...] = ()
        self.invalidate: tuple[Hook, ...] = ()
        self.error: tuple[Hook, ...] = ()
        self._lock = ThreadLock()
        self._watchers: list[WeakMethod[Callable[[], object]]] = []

    def add(self, kind: str, hook: Hook) -> None:
        """Add a hook behind the others of its kind; a hook that is there already stays where it is.

        Raises:
            UsageError: ``hook`` is no function.
        """
        if not callable(hook):
            raise UsageError(f"hook must be a function of one event, async or plain, not {type(hook).__name__}")
        with self._lock:
            known: tuple[Hook, ...] = getattr(self, kind)
            if hook not in known:
                self._set(kind, (*known, hook))

    def remove(self, hook: Hook) -> bool:
        """Remove a hook from every kind of event; return whether it was there."""
        is_known = False
        with self._lock:
            for kind in KINDS:
                known: tuple[Hook, ...] = getattr(self, kind)
                if hook in known:
                    is_known = True
                    self._set(kind, tuple([each for each in known if each != hook]))
        return is_known

    def watch(self, changed: Callable[[], object]) -> None:
        """Call ``changed``, a method, now and after each change of the hooks, as long as its object lives."""
        with self._lock:
            self._watchers.append(WeakMethod(changed))
            changed()

    def _set(self, kind: str, hooks: tuple[Hook, ...]) -> None:
        setattr(self, kind, hooks)
        for watcher in self._watchers:
            changed = watcher()
            if changed is not None:
                changed()
