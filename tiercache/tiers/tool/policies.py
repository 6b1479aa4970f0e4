"""Tool policies: lifetimes by tool, kept in Valkey, where the Monitor proposes and sets them.

They lie in the hash ``{name}:__tool_policies``: field = the tool's name, value = JSON ``{"ttl": seconds}``. Of what
others wrote there only a ``ttl`` that is a positive whole number is taken; anything else is passed over.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, Final

from ...engine.level2.level2 import Level2
from ...engine.level2.replies import send
from ...errors import TierCacheError, UsageError
from ...ttl import Ttl, check_ttl

__all__ = ["ToolPolicies", "ToolPolicy"]

_LOGGER: Final = logging.getLogger("tiercache")


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """The rules of one tool.

    Args:
        ttl: Lifetime of its results: whole seconds, or a string such as ``"10m"``. Wins over the tier's and the
            cache's; a lifetime given in a call wins over it.
    """

    ttl: Ttl

    def __post_init__(self) -> None:
        seconds = check_ttl(self.ttl, "ToolPolicy.ttl")
        if seconds is None or seconds != int(seconds):
            raise UsageError(f"ToolPolicy.ttl must be whole seconds, not {self.ttl!r}")
        object.__setattr__(self, "ttl", int(seconds))


class ToolPolicies:
    """The policies of one cache, as this process knows them.

    Attributes:
        key: Where they lie.
        refresh_failed_count: Refreshes that Valkey did not answer.
        malformed_count: Fields passed over, each counted once for each of its values.
    """

    def __init__(self, name: str) -> None:
        self.key = f"{name}:__tool_policies"
        self._policies: dict[str, ToolPolicy] = {}
        # When this process last set a tool's policy, in its own count of such events.
        self._set_at: dict[str, int] = {}
        self._events = 0
        self._applied = 0
        self._passed_over: set[tuple[bytes, bytes]] = set()
        self.refresh_failed_count = 0
        self.malformed_count = 0

    def get(self, tool: str) -> ToolPolicy | None:
        """Return the policy of ``tool``, None for none."""
        return self._policies.get(tool)

    def names(self) -> list[str]:
        """Return the tools that have one, in order."""
        return sorted(self._policies)

    async def set(self, level2: Level2 | None, tool: str, policy: ToolPolicy) -> None:
        """Write the policy of ``tool`` and use it from now on.

        Raises:
            L2UnavailableError, L2CommandError: It was not written, as far as is known, and is not used.
        """
        if level2 is not None:
            await send(level2, [("HSET", self.key, tool, json.dumps({"ttl": policy.ttl}, separators=(",", ":")))])
        self._events += 1
        self._set_at[tool] = self._events
        self._policies[tool] = policy

    async def refresh(self, level2: Level2) -> bool:
        """Read all policies anew; return False, and keep those known, if Valkey did not give them."""
        self._events += 1
        began = self._events
        try:
            (fields,) = await send(level2, [("HGETALL", self.key)])
        except TierCacheError as error:
            self.refresh_failed_count += 1
            _LOGGER.debug("The tool policies were not refreshed: %s", error)
            return False
        # No await from here on. An answer that a later refresh has overtaken is older than what is known.
        if began > self._applied:
            self._applied = began
            read = self._read(fields)
            for tool, set_at in list(self._set_at.items()):
                if set_at > began:
                    # Set while the answer was on its way: it may not be in it.
                    read[tool] = self._policies[tool]
                else:
                    del self._set_at[tool]
            self._policies = read
        return True

    def _read(self, fields: list[bytes]) -> dict[str, ToolPolicy]:
        policies = {}
        for field, value in zip(fields[::2], fields[1::2], strict=True):
            tool, policy = field.decode(errors="replace"), _policy(value)
            if policy is not None and tool.encode() == field:
                policies[tool] = policy
            elif (field, value) not in self._passed_over:
                self._passed_over.add((field, value))
                self.malformed_count += 1
                _LOGGER.warning("The policy of tool %r is passed over, it has no usable ttl: %r", tool, value)
        return policies


def _policy(value: bytes) -> ToolPolicy | None:
    try:
        fields: Any = json.loads(value)
        ttl = fields["ttl"]
        return ToolPolicy(ttl) if type(ttl) is int else None
    # Not JSON, no object, no ttl, or one that is no lifetime.
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
