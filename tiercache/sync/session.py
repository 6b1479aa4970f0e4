"""The session tier for plain code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ..identity import KeepsIdentity
from ..tiers.session.tier import SessionTier
from ..tiers.values.json_types import Storable
from ..ttl import Ttl
from .face import SyncFace

__all__ = ["SyncSessionTier"]


class SyncSessionTier(KeepsIdentity):
    """``cache.sync.session``: the methods of ``SessionTier`` for plain code, with the same results and errors."""

    def __init__(self, face: SyncFace, tier: SessionTier) -> None:
        self._face = face
        self._tier = tier

    @property
    def active_count(self) -> int:
        """Number of threads that both faces of the cache have used lately, as ``SessionTier.active_count``."""
        return self._tier.active_count

    def get(self, thread_id: str, field: str, *, fresh: bool = False) -> str | None:
        """Return the text in the field, or None, as ``SessionTier.get``."""
        return self._face.run(partial(self._tier.get, thread_id, field, fresh=fresh))

    def set(self, thread_id: str, field: str, value: str, *, ttl: Ttl | None = None) -> None:
        """Set the field, as ``SessionTier.set``."""
        self._face.run(partial(self._tier.set, thread_id, field, value, ttl=ttl))

    def delete(self, thread_id: str, field: str) -> bool:
        """Delete the field; return whether it existed, as ``SessionTier.delete``."""
        return self._face.run(partial(self._tier.delete, thread_id, field))

    def get_or_load(
        self,
        thread_id: str,
        field: str,
        loader: Callable[[], str | Awaitable[str]] | Awaitable[str],
        *,
        ttl: Ttl | None = None,
    ) -> str:
        """Return the text in the field, or else the text that ``loader`` returns, as ``SessionTier.get_or_load``.

        Args:
            loader: As there. It runs where the loader of ``SyncLlmTier.get_or_load`` does.
        """
        return self._face.run(partial(self._tier.get_or_load, thread_id, field, loader, ttl=ttl))

    def get_json(self, thread_id: str, field: str, default: Any = None) -> Any:
        """Return the JSON value in the field, or ``default``, as ``SessionTier.get_json``."""
        return self._face.run(partial(self._tier.get_json, thread_id, field, default))

    def set_json(self, thread_id: str, field: str, value: Storable, *, ttl: Ttl | None = None) -> None:
        """Set the field to a JSON value, as ``SessionTier.set_json``."""
        self._face.run(partial(self._tier.set_json, thread_id, field, value, ttl=ttl))

    def append(self, thread_id: str, field: str, item: Storable, *, ttl: Ttl | None = None) -> int:
        """Append a JSON value to the list in the field, in one step; return its length, as ``SessionTier.append``."""
        return self._face.run(partial(self._tier.append, thread_id, field, item, ttl=ttl))

    def incr(self, thread_id: str, field: str, by: int = 1, *, ttl: Ttl | None = None) -> int:
        """Add ``by`` to the integer in the field, in one step; return the sum, as ``SessionTier.incr``."""
        return self._face.run(partial(self._tier.incr, thread_id, field, by, ttl=ttl))

    def compare_and_set(
        self, thread_id: str, field: str, expected: str | None, value: str, *, ttl: Ttl | None = None
    ) -> bool:
        """Set the field if it holds ``expected``, in one step, as ``SessionTier.compare_and_set``."""
        return self._face.run(partial(self._tier.compare_and_set, thread_id, field, expected, value, ttl=ttl))

    def get_all(self, thread_id: str, *, sweep: bool = False) -> dict[str, str]:
        """Return the fields of the thread with their texts, as ``SessionTier.get_all``."""
        return self._face.run(partial(self._tier.get_all, thread_id, sweep=sweep))

    def touch(self, thread_id: str, *, sweep: bool = False) -> int:
        """Restart the window of every field of the thread, as ``SessionTier.touch``."""
        return self._face.run(partial(self._tier.touch, thread_id, sweep=sweep))

    def destroy_thread(self, thread_id: str, *, sweep: bool = False) -> int:
        """Delete every field of the thread; return how many, as ``SessionTier.destroy_thread``."""
        return self._face.run(partial(self._tier.destroy_thread, thread_id, sweep=sweep))

    def clear(self) -> int:
        """Delete every field of every thread; return how many there were, as ``SessionTier.clear``."""
        return self._face.run(self._tier.clear)
