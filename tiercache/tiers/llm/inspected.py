"""The entry of one answer, in both levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..entries import Entry, Names
from ..keys.key import LlmKey
from .warm import WarmingTier

__all__ = ["InspectedTier"]


class InspectedTier(WarmingTier):
    """The part of the llm tier that shows the entry of one request."""

    async def inspect(self, params: Mapping[str, Any] | LlmKey | str) -> Entry:
        """Return the entry of the answer to ``params``, from a look at both levels. Counts and changes nothing.

        Args:
            params: As for ``explain``.

        Returns:
            The entry. Its ``exists`` is False if neither level has an answer.

        Raises:
            L2UnavailableError: Valkey did not answer.
            L2CommandError: Valkey refused the read.
        """
        is_text = isinstance(params, str)
        return await self._inspect(self._lookup.of_text(params) if is_text else self._lookup.of(params))  # type: ignore[arg-type]

    def _names_of(self, key: str, value: Any) -> Names:
        return Names(group=None if value is None else value.model)
