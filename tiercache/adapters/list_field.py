"""A JSON list in one field of a thread of the session tier: the messages of a conversation, for several frameworks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ..agent_cache import AgentCache
from ..errors import UsageError
from ..text import check_text
from ..tiers.keys.canonical_json import compact_json
from ..tiers.values.json_types import Storable
from ..ttl import Ttl, check_ttl
from .caches import check_cache

__all__ = ["ListField", "SyncListField"]

R = TypeVar("R")


class _Edit(NamedTuple):
    """An edited list: what the edit returned, and the text to write, or None if the list is as before."""

    result: Any
    text: str | None


class _Field:
    """The place of the list: the cache, the thread, the name of the field, and the window of the field."""

    def __init__(self, cache: AgentCache, thread_id: str, field: str, *, ttl: Ttl | None = None) -> None:
        self._cache = check_cache(cache)
        for name, text in (("thread_id", thread_id), ("field", field)):
            if not check_text(text, name):
                raise UsageError(f"{name} must not be empty")
        if ttl is not None:
            check_ttl(ttl)
        self._thread_id = thread_id
        self._field = field
        self._ttl = ttl

    def __str__(self) -> str:
        return f"field {self._field!r} of thread {self._thread_id!r}"

    def _items(self, text: str | None) -> list[Any]:
        """Return the items in the text of the field. Raises UsageError for a text that is no JSON list."""
        if text is None:
            return []
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = None
        if not isinstance(items, list):
            raise UsageError(f"{self} holds no JSON list")
        return items

    def _edit(self, text: str | None, edit: Callable[[list[Any]], Any]) -> _Edit:
        """Call ``edit`` with the items in the text of the field."""
        items = self._items(text)
        before = compact_json(items, "items")
        result = edit(items)
        after = compact_json(items, "items")
        return _Edit(result, None if after == before else after.decode())


class ListField(_Field):
    """The list, for coroutines. Each read asks Valkey; each change is one step, which loses no item of others.

    Args:
        cache: The cache.
        thread_id: The id of the thread.
        field: The name of the field.
        ttl: Window of the field; each read and each change restarts it. None takes that of the session tier, then the
            cache's.

    Every method raises:
        L2UnavailableError: Valkey did not answer. A change may or may not have been made.
        L2CommandError: Valkey refused.
        UsageError: An argument or an item is wrong, the field holds no JSON list, or the cache is closed or has no
            such face.
    """

    async def read(self) -> list[Any]:
        """Return the items, the oldest first; none for an absent field."""
        return self._items(await self._cache.session.get(self._thread_id, self._field, fresh=True))

    async def append(self, item: Storable) -> int:
        """Append an item; return the new length."""
        return await self._cache.session.append(self._thread_id, self._field, item, ttl=self._ttl)

    async def change(self, edit: Callable[[list[Any]], R]) -> R:
        """Change the list in one step; return what ``edit`` returned.

        Args:
            edit: Gets the items, changes the list in place, and returns a result. It runs once more, with the new
                items, each time that another writer was faster. A list that it leaves as it is, is not written.
        """
        session = self._cache.session
        while True:
            text = await session.get(self._thread_id, self._field, fresh=True)
            edited: _Edit = self._edit(text, edit)
            if edited.text is None or await session.compare_and_set(
                self._thread_id, self._field, text, edited.text, ttl=self._ttl
            ):
                return edited.result  # type: ignore[no-any-return]

    async def delete(self) -> bool:
        """Delete the field; return whether it existed."""
        return await self._cache.session.delete(self._thread_id, self._field)


class SyncListField(_Field):
    """The list for plain code: ``ListField`` on ``cache.sync``, with the same arguments, results and errors."""

    def read(self) -> list[Any]:
        """Return the items, the oldest first; none for an absent field."""
        return self._items(self._cache.sync.session.get(self._thread_id, self._field, fresh=True))

    def append(self, item: Storable) -> int:
        """Append an item; return the new length."""
        return self._cache.sync.session.append(self._thread_id, self._field, item, ttl=self._ttl)

    def change(self, edit: Callable[[list[Any]], R]) -> R:
        """Change the list in one step; return what ``edit`` returned, as ``ListField.change``."""
        session = self._cache.sync.session
        while True:
            text = session.get(self._thread_id, self._field, fresh=True)
            edited: _Edit = self._edit(text, edit)
            if edited.text is None or session.compare_and_set(
                self._thread_id, self._field, text, edited.text, ttl=self._ttl
            ):
                return edited.result  # type: ignore[no-any-return]

    def delete(self) -> bool:
        """Delete the field; return whether it existed."""
        return self._cache.sync.session.delete(self._thread_id, self._field)
