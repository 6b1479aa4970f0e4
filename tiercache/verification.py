"""Verification: the comparison of the answers of a cache with those of a golden file."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from .engine.entries.lookup import Lookup
from .errors import UsageError
from .tiers.golden import ExpectedAnswer, GoldenAnswer, GoldenReport, are_equal, read_golden
from .tiers.keys.key import LlmKey, ToolKey
from .tiers.llm.tier import LlmTier
from .tiers.tool.tier import ToolTier

__all__ = ["Verification"]


class Verification:
    """The comparisons of one face of a cache."""

    def __init__(self, llm: LlmTier, tool: ToolTier) -> None:
        self._llm = llm
        self._tool = tool

    async def verify(self, file: str | os.PathLike[str]) -> GoldenReport:
        """Return the report about the golden file ``file``. Errors as for ``AgentCache.verify``."""
        lines = await asyncio.to_thread(read_golden, file)
        # Every key before the first lookup: a wrong line leaves nothing half done.
        keys = [self._key_of(line) for line in lines]
        missing, drifted = [], []
        for line, key in zip(lines, keys, strict=True):
            lookup = await self._find(key)
            if lookup.entry is None:
                missing.append(GoldenAnswer(line.line, line.tier, key.key, line.expected))
                continue
            found = self._answer(line, key, lookup)
            if not are_equal(line.expected, found):
                drifted.append(GoldenAnswer(line.line, line.tier, key.key, line.expected, found))
        return GoldenReport(len(lines), tuple(missing), tuple(drifted))

    def _key_of(self, line: ExpectedAnswer) -> LlmKey | ToolKey:
        try:
            if line.tier == "llm":
                return self._llm.key(line.fields["params"])
            return self._tool.key(line.fields["tool"], line.fields.get("args"))
        except UsageError as error:
            raise UsageError(f"line {line.line} of the golden file: {error}") from error

    async def _find(self, key: LlmKey | ToolKey) -> Lookup:
        tier = self._llm if isinstance(key, LlmKey) else self._tool
        return await tier._pins.find(key)

    def _answer(self, line: ExpectedAnswer, key: LlmKey | ToolKey, lookup: Lookup) -> Any:
        if line.tier == "tool":
            return self._tool.result.from_found(key.key, lookup, 0.0).value
        result = self._llm.result.from_found(key.key, lookup, 0.0)
        return result.response if isinstance(line.expected, str) else result.content_blocks
