"""Pinned answers of the llm tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...engine.engine import Engine
from ...engine.entries.rules import TierRules
from ...errors import UsageError
from ..keys.key import LlmKey
from ..pinning import Pin, TierPins
from .cached import CachingTier
from .key import LlmKeys
from .result import LlmResponse

__all__ = ["PinningTier"]


class PinningTier(CachingTier):
    """The part of the llm tier that pins answers."""

    def __init__(self, engine: Engine, rules: TierRules, keys: LlmKeys, name: str) -> None:
        super().__init__(engine, rules, keys, name)
        self._pins = TierPins(engine, rules, self._prefix)

    async def pin(
        self,
        params: Mapping[str, Any] | LlmKey,
        response: str | LlmResponse | Sequence[Mapping[str, Any]],
    ) -> str:
        """Give ``params`` an approved answer, which wins over the model and the cache; return the key of the entry.

        Every lookup of ``params`` returns the answer with ``source="pin"``, until ``unpin`` or ``AgentCache.flush``.
        The pin does not expire, and stays when its key, its model or the tier is invalidated. Modes "refresh" and
        "store_only" load and store as they do without a pin, and later lookups go on returning the pin. Mode "bypass"
        ignores the pin. A pin replaces an earlier pin.

        Args:
            params: The request, or its key.
            response: The text, an LlmResponse, or the content blocks. ``LlmResponse.ttl`` and ``store`` have no effect.

        Other processes return the answer as soon as their L1 would follow a change: see ``CoherenceOptions``.

        Raises:
            UsageError: The answer is not JSON, or larger than ``TierOptions.max_value_bytes``.
            L2UnavailableError: The pin may or may not have been written.
            L2CommandError: Valkey refused the write.
        """
        if isinstance(response, list | tuple):
            response = LlmResponse(None, content_blocks=response)
        if not isinstance(response, str | LlmResponse):
            raise UsageError(
                f"response must be a str, an LlmResponse or a list of blocks, not {type(response).__name__}"
            )
        key = self._lookup.of(params)
        loaded = self._loaded_answer(key.model, response)
        if loaded.refusal is not None:
            raise UsageError(f"the answer cannot be pinned: {loaded.refusal}") from loaded.refusal
        return await self._pins.pin(key.key, loaded, "response", {"model": key.model})

    async def unpin(self, params: Mapping[str, Any] | LlmKey | str) -> bool:
        """Remove the pin of ``params``; return whether there was one. Lookups find the cached answer again.

        Args:
            params: The request, its key, or the text of its key, as ``Pin.key`` gives it.

        Errors as for ``pin``.
        """
        return await self._pins.unpin(self._full_key(params), {})

    async def pins(self) -> list[Pin]:
        """Return the pins of the tier that Valkey has, by the order of their keys.

        Raises:
            L2UnavailableError, L2CommandError: The pins could not be read.
        """
        values = await self._pins.values()
        return [Pin(key, "llm", value.model, None, value.response, value.stored_at) for key, value in values.items()]
