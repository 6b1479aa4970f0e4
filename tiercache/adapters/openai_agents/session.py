"""A session of OpenAI Agents in a field of the session tier.

The field is a JSON list with one list of items for each call of ``add_items``: the items of one turn are added in one
step, without a read of the items before them.
"""

from __future__ import annotations

from typing import Any, Final

from ...agent_cache import AgentCache
from ...errors import UsageError
from ...ttl import Ttl
from ..extras import missing_extra
from ..list_field import ListField

try:
    from agents import SessionSettings, TResponseInputItem
except ImportError as error:
    raise missing_extra("openai-agents", error) from error

__all__ = ["TierCacheSession"]

_FIELD: Final = "openai_agents.items"


class TierCacheSession:
    """The items of one conversation, for ``Runner.run(agent, input, session=...)``: a ``Session`` in Valkey.

    The items are state: they exist nowhere else. Each read asks Valkey, and has every item whose addition has returned
    in any process. Each change is one step: additions by several workers lose no item, and no item is popped twice.

    Args:
        session_id: The id of the conversation: the id of the thread in ``cache.session``.
        cache: The cache.
        ttl: Window of the items: each read and each change restarts it. None takes that of the session tier, then the
            cache's.
        session_settings: ``limit`` bounds the items of a ``get_items`` without a limit of its own.

    Attributes:
        session_id: The id of the conversation.
        session_settings: The settings, or None.

    Every method raises:
        L2UnavailableError: Valkey did not answer. A change may or may not have been made.
        L2CommandError: Valkey refused.
        WrongLoopError: The cache belongs to another event loop.
        UsageError: An argument or an item is wrong, the cache is closed or has no such face, or the field of the thread
            has no items of OpenAI Agents.
    """

    def __init__(
        self,
        session_id: str,
        cache: AgentCache,
        *,
        ttl: Ttl | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        self._turns = ListField(cache, session_id, _FIELD, ttl=ttl)
        if session_settings is not None and not isinstance(session_settings, SessionSettings):
            raise UsageError(f"session_settings must be SessionSettings, not {type(session_settings).__name__}")
        self.session_id = session_id
        self.session_settings = SessionSettings() if session_settings is None else session_settings

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the items, the oldest first.

        Args:
            limit: Most items: the latest ones. None takes the limit of ``session_settings``. A negative limit is none.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        items = [item for turn in self._checked(await self._turns.read()) for item in turn]
        return items if limit is None or limit < 0 else items[max(0, len(items) - limit) :]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items in one step. Raises UsageError for an item that is no JSON object, and adds nothing."""
        for item in items:
            if not isinstance(item, dict):
                raise UsageError(f"an item must be a dict, not {type(item).__name__}")
        if items:
            await self._turns.append(items)

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the latest item in one step; return it, or None if there is none."""
        return await self._turns.change(self._popped)

    async def clear_session(self) -> None:
        """Remove the items. Other fields of the thread stay."""
        await self._turns.delete()

    def _popped(self, turns: list[Any]) -> TResponseInputItem | None:
        """Remove the latest item from ``turns``; return it. The last turn is never empty."""
        if not self._checked(turns):
            return None
        item: TResponseInputItem = turns[-1].pop()
        if not turns[-1]:
            turns.pop()
        return item

    def _checked(self, turns: list[Any]) -> list[list[Any]]:
        for turn in turns:
            if not isinstance(turn, list) or not turn or not all(isinstance(item, dict) for item in turn):
                raise UsageError(f"{self._turns} has no items of OpenAI Agents")
        return turns
