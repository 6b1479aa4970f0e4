"""The errors of betterdb-agent-cache, as tiercache raises them."""

from __future__ import annotations

from ...errors import TierCacheError as AgentCacheError
from ...errors import UsageError as AgentCacheUsageError

__all__ = ["AgentCacheError", "AgentCacheUsageError", "ValkeyCommandError"]


class ValkeyCommandError(AgentCacheError):
    """Valkey did not carry out a command, or did not answer.

    Attributes:
        command: The command, as betterdb-agent-cache names it for the same method: ``"GET"``, ``"SCAN"``.
        cause: The L2UnavailableError or the L2CommandError; also the ``__cause__``.
    """

    def __init__(self, command: str, cause: Exception) -> None:
        super().__init__(command, cause)
        self.command = command
        self.cause = cause
        self.__cause__ = cause

    def __str__(self) -> str:
        return f"Valkey did not carry out {self.command}: {self.cause}"
