"""Pinned results of the tool tier."""

from __future__ import annotations

from typing import Any, overload

from ...engine.engine import Engine
from ...engine.entries.rules import TierRules
from ..keys.key import ToolKey
from ..pinning import Pin, TierPins
from ..runtime_settings import SettingsTable
from ..values.json_types import Storable
from .cached import CachingTier, check_cost
from .key import ABSENT, shifted

__all__ = ["PinningTier"]


class PinningTier(CachingTier):
    """The part of the tool tier that pins results."""

    def __init__(self, engine: Engine, rules: TierRules, settings: SettingsTable, name: str) -> None:
        super().__init__(engine, rules, settings, name)
        self._pins = TierPins(engine, rules, self._prefix)

    @overload
    async def pin(self, tool: ToolKey, value: Storable, /, *, cost: float | None = None) -> str: ...

    @overload
    async def pin(self, tool: str, args: Any, value: Storable, *, cost: float | None = None) -> str: ...

    async def pin(self, tool: str | ToolKey, args: Any, value: Any = ABSENT, *, cost: float | None = None) -> str:
        """Give a call an approved result, which wins over the tool and the cache; return the key of the entry.

        Args:
            value: The result: a str, or any other JSON value.
            cost: Dollars that a call costs; each lookup that returns the pin counts them as saved.

        Promise and errors as for ``LlmTier.pin``.
        """
        args, value = shifted(tool, args, value, "value")
        key = self._lookup.of(tool, args)
        if cost is not None:
            check_cost(cost)
        return await self._pins.pin(key.key, self._encode(key, value, cost), "value", {"tool_name": key.tool})

    @overload
    async def unpin(self, tool: ToolKey, /) -> bool: ...

    @overload
    async def unpin(self, tool: str, args: Any) -> bool: ...

    async def unpin(self, tool: str | ToolKey, args: Any = ABSENT) -> bool:
        """Remove the pin of a call; return whether there was one. Errors as for ``LlmTier.pin``."""
        key = self._lookup.of(tool, args)
        return await self._pins.unpin(key.key, {"tool_name": key.tool})

    async def pins(self) -> list[Pin]:
        """Return the pins of the tier that Valkey has, by the order of their keys. Errors as for ``LlmTier.pins``."""
        values = await self._pins.values()
        return [
            Pin(key, "tool", None, key.removeprefix(self._prefix).split(":")[0], value.value(), value.stored_at)
            for key, value in values.items()
        ]
