"""The tool tier with betterdb-agent-cache's methods."""

from __future__ import annotations

from typing import Any

from ....agent_cache import AgentCache
from ....errors import UsageError
from ....identity import KeepsIdentity
from ..failures import keeps_going, valkey_errors
from ..types import ToolCacheResult, ToolPolicy, ToolStoreOptions

__all__ = ["ToolCache"]


class ToolCache(KeepsIdentity):
    """``cache.tool``: results of tool calls, by the name of the tool and its arguments.

    Every method raises AgentCacheUsageError for a wrong argument, such as a name with ``:``, and has then stored
    nothing.
    """

    def __init__(self, cache: AgentCache, *, sweeps: bool) -> None:
        self._cache = cache
        self._sweeps = sweeps

    async def check(self, tool_name: str, args: Any) -> ToolCacheResult:
        """Look up the result of a call. A miss while Valkey is unavailable; no error of Valkey is raised."""
        found = await self._cache.tool.check(tool_name, args)
        if not found.hit:
            return ToolCacheResult(hit=False, tool_name=tool_name)
        return ToolCacheResult(hit=True, tool_name=tool_name, response=found.response, key=found.key)

    async def store(self, tool_name: str, args: Any, response: str, options: ToolStoreOptions | None = None) -> str:
        """Store the result of a call, a text; return its key once Valkey has acknowledged the write.

        If Valkey is unavailable or refuses the write, the cache logs a warning and raises nothing.
        """
        if not isinstance(response, str):
            raise UsageError(
                f"response must be a str, not {type(response).__name__}: pass json.dumps(response), or use "
                "cache.tiercache.tool.store, which takes any JSON value"
            )
        tier, given = self._cache.tool, options or ToolStoreOptions()
        key = tier.key(tool_name, args)
        with keeps_going(self._cache):
            await tier.store(key, response, ttl=given.ttl, cost=given.cost)
        return key.key

    async def set_policy(self, tool_name: str, policy: ToolPolicy) -> None:
        """Give the results of a tool a lifetime of their own, in every process.

        Raises:
            ValkeyCommandError: This process does not use the policy.
        """
        with valkey_errors("HSET"):
            await self._cache.tool.set_policy(tool_name, policy)

    def get_policy(self, tool_name: str) -> ToolPolicy | None:
        """Return the policy of a tool as this process knows it, or None."""
        return self._cache.tool.get_policy(tool_name)

    def list_policy_names(self) -> list[str]:
        """Return the sorted names of the tools that have a policy."""
        return self._cache.tool._policies.names()

    async def refresh_policies(self) -> bool:
        """Read the policies of all tools from Valkey; return whether Valkey returned them."""
        return await self._cache.tool.refresh_policies()

    async def load_policies(self) -> None:
        """Read the policies of all tools from Valkey."""
        await self._cache.tool.refresh_policies()

    def reset_policies(self) -> None:
        """Refuse: the policies of this process follow those in Valkey."""
        raise UsageError("policies cannot be forgotten in one process: delete the fields of {name}:__tool_policies")

    async def invalidate_by_tool(self, tool_name: str) -> int:
        """Remove every result of a tool; return how many.

        Raises:
            ValkeyCommandError: Some results may be left in Valkey.
        """
        with valkey_errors("SCAN"):
            return await self._cache.tool.invalidate_by_tool(tool_name, sweep=self._sweeps)

    async def invalidate(self, tool_name: str, args: Any) -> bool:
        """Remove the result of a call; return whether there was one.

        Raises:
            ValkeyCommandError: The result may be left in Valkey. This process repeats the removal.
        """
        with valkey_errors("DEL"):
            return await self._cache.tool.invalidate(tool_name, args)
