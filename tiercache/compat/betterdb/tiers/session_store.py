"""The session tier with betterdb-agent-cache's methods."""

from __future__ import annotations

from ....agent_cache import AgentCache
from ....errors import UsageError
from ....identity import KeepsIdentity
from ....ttl import Ttl
from ..failures import valkey_errors

__all__ = ["SessionStore"]


class SessionStore(KeepsIdentity):
    """``cache.session``: the state of threads, as text fields.

    Every method raises:
        AgentCacheUsageError: An argument is wrong, and nothing was changed.

    Every async method also raises:
        ValkeyCommandError: Valkey refused or did not answer. A write may or may not have happened.
    """

    def __init__(self, cache: AgentCache, *, sweeps: bool) -> None:
        self._cache = cache
        self._sweeps = sweeps

    async def get(self, thread_id: str, field: str) -> str | None:
        """Return the text in a field, or None. Restarts the window of the field."""
        with valkey_errors("GET"):
            return await self._cache.session.get(thread_id, field)

    async def set(self, thread_id: str, field: str, value: str, ttl: Ttl | None = None) -> None:
        """Set a field; return once Valkey has acknowledged the write. ``ttl`` is the window of the field."""
        with valkey_errors("SET"):
            await self._cache.session.set(thread_id, field, value, ttl=ttl)

    async def delete(self, thread_id: str, field: str) -> bool:
        """Delete a field; return whether it existed."""
        with valkey_errors("DEL"):
            return await self._cache.session.delete(thread_id, field)

    async def get_all(self, thread_id: str) -> dict[str, str]:
        """Return the fields of a thread with their texts. Restarts the window of every field."""
        with valkey_errors("SCAN"):
            return await self._cache.session.get_all(thread_id, sweep=self._sweeps)

    async def scan_fields_by_prefix(self, thread_id: str, field_prefix: str) -> dict[str, str]:
        """Return the fields of a thread whose names begin with ``field_prefix``. Otherwise as ``get_all``."""
        fields = await self.get_all(thread_id)
        return {field: text for field, text in fields.items() if field.startswith(field_prefix)}

    async def touch(self, thread_id: str) -> None:
        """Restart the window of every field of a thread."""
        with valkey_errors("SCAN"):
            await self._cache.session.touch(thread_id, sweep=self._sweeps)

    async def destroy_thread(self, thread_id: str) -> int:
        """Delete every field and every checkpoint of a thread; return how many there were."""
        with valkey_errors("SCAN"):
            return await self._cache.session.destroy_thread(thread_id, sweep=self._sweeps)

    def reset_tracker(self) -> None:
        """Refuse: ``flush`` and ``destroy_thread`` keep the number of active threads right by themselves."""
        raise UsageError("the number of active threads needs no reset: flush() and destroy_thread() set it")
