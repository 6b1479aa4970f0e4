"""The llm tier with betterdb-agent-cache's methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from ....adapters.params import PreparedParams
from ....agent_cache import AgentCache
from ....identity import KeepsIdentity
from ..failures import keeps_going, valkey_errors
from ..types import LlmCacheResult, LlmStoreOptions

__all__ = ["LlmCache"]


class LlmCache(KeepsIdentity):
    """``cache.llm``: answers of language models, by the parameters of the request.

    ``params`` are a mapping with ``model`` and ``messages``; every parameter is part of the key.

    Every method raises AgentCacheUsageError for a wrong argument, and has then stored nothing.
    """

    def __init__(self, cache: AgentCache, *, sweeps: bool) -> None:
        self._cache = cache
        self._sweeps = sweeps

    async def check(self, params: Mapping[str, Any]) -> LlmCacheResult:
        """Look up an answer. A miss while Valkey is unavailable; no error of Valkey is raised."""
        found = await self._cache.llm.check(params)
        if not found.hit:
            return LlmCacheResult(hit=False)
        tokens = found.tokens or {}
        return LlmCacheResult(
            hit=True,
            response=found.response,
            content_blocks=cast(Any, found.content_blocks),
            key=found.key,
            input_tokens=int(tokens.get("input") or 0),
            output_tokens=int(tokens.get("output") or 0),
        )

    async def store(self, params: Mapping[str, Any], response: str, options: LlmStoreOptions | None = None) -> str:
        """Store an answer; return its key once Valkey has acknowledged the write.

        If Valkey is unavailable or refuses the write, the cache logs a warning and raises nothing: the caller has paid
        for the answer. The answer to prepared params that bypass the cache is not stored.
        """
        return await self._store(params, self._cache.llm.store, response, options)

    async def store_multipart(
        self, params: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], options: LlmStoreOptions | None = None
    ) -> str:
        """Store an answer made of content blocks. Otherwise as ``store``."""
        return await self._store(params, self._cache.llm.store_multipart, blocks, options)

    async def invalidate_by_model(self, model: str) -> int:
        """Remove every answer of ``model``; return how many.

        Raises:
            ValkeyCommandError: Some answers may be left in Valkey.
        """
        with valkey_errors("SCAN"):
            return await self._cache.llm.invalidate_by_model(model, sweep=self._sweeps)

    async def clear(self) -> int:
        """Remove every answer; return how many. Errors as for ``invalidate_by_model``."""
        with valkey_errors("SCAN"):
            return await self._cache.llm.clear()

    async def _store(
        self,
        params: Mapping[str, Any],
        store: Callable[..., Awaitable[str]],
        answer: object,
        options: LlmStoreOptions | None,
    ) -> str:
        """Store an answer by ``store``, a method of the llm tier; return its key."""
        key, given = self._cache.llm.key(params), options or LlmStoreOptions()
        # The key of params with a reason to bypass is new each time: no request would find the answer.
        if not isinstance(params, PreparedParams) or params.bypass is None:
            with keeps_going(self._cache):
                await store(key, answer, ttl=given.ttl, tokens=given.tokens or None)
        return key.key
