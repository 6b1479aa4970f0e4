"""The methods of a cache for its hooks: a base of ``AgentCache`` and of ``SyncCache``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .engine.hooks.events import ErrorEvent, HitEvent, InvalidateEvent, LoadEvent, StoreEvent
from .engine.hooks.registry import HookRegistry

__all__ = ["RegistersHooks"]

OnHit = TypeVar("OnHit", bound=Callable[[HitEvent], object])
OnLoad = TypeVar("OnLoad", bound=Callable[[LoadEvent], object])
OnStore = TypeVar("OnStore", bound=Callable[[StoreEvent], object])
OnInvalidate = TypeVar("OnInvalidate", bound=Callable[[InvalidateEvent], object])
OnError = TypeVar("OnError", bound=Callable[[ErrorEvent], object])


class RegistersHooks:
    """A cache that calls the program's functions with its events.

    A hook is a function of one event. A plain hook runs at once, inside the operation that makes the event, and must be
    quick. An async hook runs soon in a task of its own, on the event loop of the face that made the event: ``sync`` has
    a private loop. At most 16 async hooks run at a time and 1,000 calls wait; further calls are dropped, and counted as
    ``hook_events_dropped``.

    A hook that raises changes nothing for the caller and for other hooks: the cache logs the first exception of each
    hook, and counts every exception as ``hook_errors``. The use of the cache by a hook makes no events.

    Args:
        hooks: The hooks of the cache, for both faces.
    """

    def __init__(self, hooks: HookRegistry) -> None:
        self.__hooks = hooks

    def on_hit(self, hook: OnHit) -> OnHit:
        """Call ``hook`` for every lookup that finds an entry; return ``hook``, so that this is a decorator.

        Raises:
            UsageError: ``hook`` is no function.
        """
        self.__hooks.add("hit", hook)
        return hook

    def on_load(self, hook: OnLoad) -> OnLoad:
        """Call ``hook`` when a loader has returned or raised. Otherwise as ``on_hit``."""
        self.__hooks.add("load", hook)
        return hook

    def on_store(self, hook: OnStore) -> OnStore:
        """Call ``hook`` when a value has been stored, explicitly or by a load. Otherwise as ``on_hit``."""
        self.__hooks.add("store", hook)
        return hook

    def on_invalidate(self, hook: OnInvalidate) -> OnInvalidate:
        """Call ``hook`` when entries have been removed, here or elsewhere. Otherwise as ``on_hit``."""
        self.__hooks.add("invalidate", hook)
        return hook

    def on_error(self, hook: OnError) -> OnError:
        """Call ``hook`` when an operation has failed, also where no caller gets the error. Otherwise as ``on_hit``."""
        self.__hooks.add("error", hook)
        return hook

    def remove_hook(self, hook: Callable[[Any], object]) -> bool:
        """Call ``hook`` for no event any more; return whether it was a hook of the cache."""
        return self.__hooks.remove(hook)
