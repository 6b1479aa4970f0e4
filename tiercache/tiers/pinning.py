"""Pins of a tier: approved answers that win over the model or the tool until they are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..engine.call import Call, Loaded
from ..engine.engine import Engine
from ..engine.entries.counters import TierCounters
from ..engine.entries.lookup import Lookup
from ..engine.entries.rules import TierRules, UndecodableError
from ..engine.operations.pins import PinChanges
from ..errors import L2UnavailableError
from .tier import EntryKey

__all__ = ["Pin", "TierPins"]


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned answer.

    Attributes:
        key: The key in Valkey of the entry over which the pin wins, as ``LlmResult.key`` gives it.
        tier: "llm" or "tool".
        model: The model of the request, or None for a tool call.
        tool: The name of the tool, or None for a model's answer.
        value: The text of the answer, or the result of the tool.
        pinned_at: The time of the pin, in seconds since the epoch.
    """

    key: str
    tier: Literal["llm", "tool"]
    model: str | None
    tool: str | None
    value: Any
    pinned_at: float

    @property
    def response(self) -> Any:
        """The answer, by the name that the llm tier has for it: ``value``."""
        return self.value


class TierPins:
    """The pins of one tier.

    Args:
        prefix: The prefix of the keys of the tier's entries.
    """

    def __init__(self, engine: Engine, rules: TierRules, prefix: str) -> None:
        self._engine = engine
        self._rules = rules
        self._prefix = prefix
        self._changes = PinChanges(engine)

    async def pin(self, key: str, loaded: Loaded, name: str, attributes: dict[str, object]) -> str:
        """Pin ``key`` to an answer; return the key. Errors as for ``LlmTier.pin``.

        Args:
            name: Name of the answer in an error text.
        """
        rules = self._rules
        rules.check_size(loaded.data, name)
        data = rules.codec.pack(loaded.data)
        with self._engine.operation(f"{rules.tier}.pin", key=key, bytes=len(data), **attributes):
            await self._changes.pin(key, data)
        return key

    async def unpin(self, key: str, attributes: dict[str, object]) -> bool:
        """Remove the pin of ``key``; return whether there was one."""
        with self._engine.operation(f"{self._rules.tier}.unpin", key=key, **attributes):
            return await self._changes.unpin(key)

    async def find(self, key: EntryKey) -> Lookup:
        """Return the answer that a lookup of ``key`` gets, and leave the statistics as they are.

        Raises:
            L2UnavailableError: Valkey did not answer, so that a miss proves nothing.
        """
        lookup = await self._engine.find(Call(self._rules, key.key, key.groups, TierCounters()))
        if lookup.entry is None and lookup.degraded:
            raise L2UnavailableError("Valkey did not answer: it is not known whether the cache has the answer")
        return lookup

    async def values(self) -> dict[str, Any]:
        """Return the decoded pins of the tier, by the sorted keys of their entries."""
        with self._engine.operation(f"{self._rules.tier}.pins"):
            pins = await self._changes.all(self._prefix)
        values: dict[str, Any] = {}
        for key, data in sorted(pins.items()):
            try:
                values[key] = self._rules.codec.decode(data).value
            except UndecodableError as error:
                self._engine.log.warn_once("a pin cannot be read, and is not used: %s", error)
        return values
