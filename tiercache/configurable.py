"""The methods of a cache for its settings at run time: a base of ``AgentCache``."""

from __future__ import annotations

from .cache_operations import CacheOperations
from .tiers.runtime_settings import RuntimeSettings

__all__ = ["Configurable"]


class Configurable:
    """A cache whose tiers and tools are disabled and configured while its processes run."""

    def __init__(self, operations: CacheOperations) -> None:
        self.__operations = operations

    async def configure(self, tier: str, settings: RuntimeSettings | None, *, tool: str | None = None) -> None:
        """Change the settings of a tier or of one tool, in every process, for calls from now on.

        Other processes follow within milliseconds, and read the settings when they open the cache. The new settings
        take the place of all earlier ones of the same tier or tool.

        Args:
            tier: "llm", "tool", "kv", or the name of a kv tier. Sessions are state and have no settings.
            settings: The settings. None removes them, so that the options of the cache count again.
            tool: The name of a tool, with the tier "tool". None configures the whole tier.

        Raises:
            UsageError: An argument is wrong.
            L2UnavailableError: The settings may or may not have been written. This process does not use them until a
                refresh finds them.
            L2CommandError: Valkey refused the write. This process does not use the settings.
        """
        await self.__operations.configure(tier, settings, tool)

    def settings(self, tier: str, *, tool: str | None = None) -> RuntimeSettings | None:
        """Return the settings of a tier or of a tool as this process knows them, or None if it has no settings.

        Raises:
            UsageError: An argument is wrong, as for ``configure``.
        """
        return self.__operations.settings(tier, tool)

    async def refresh_settings(self) -> bool:
        """Read the settings of all tiers and tools from Valkey; return whether Valkey returned them.

        The cache does so by itself when another client has changed them. If Valkey does not answer, this process keeps
        the settings that it knows. A cache without Valkey returns True.
        """
        return await self.__operations.refresh_settings()
