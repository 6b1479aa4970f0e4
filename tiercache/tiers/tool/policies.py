"""Tool policies: lifetimes by tool, in Valkey, where BetterDB Monitor proposes and sets them.

The hash ``{name}:__tool_policies`` has a field for each policy: the tool's name, with JSON ``{"ttl": seconds}`` as its
value. Other software writes there too: a field whose ``ttl`` is not a positive whole number is ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from ...engine.level2.level2 import Level2
from ...engine.level2.replies import send
from ...errors import TierCacheError, UsageError
from ...locks import ThreadLock
from ...log import CacheLog
from ...text import LONGEST_NAME_BYTES, shown
from ...ttl import Ttl, check_ttl

__all__ = ["ToolPolicies", "ToolPolicy"]

# Bytes of a policy that is read.
_MOST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """The rules of one tool.

    Args:
        ttl: Lifetime of the tool's results: whole seconds, or a string such as ``"10m"``. This lifetime wins over
            the lifetimes of the tier and the cache. A lifetime given in a call wins over all of them.
    """

    ttl: Ttl

    def __post_init__(self) -> None:
        seconds = check_ttl(self.ttl, "ToolPolicy.ttl")
        if seconds is None or seconds != int(seconds):
            raise UsageError(f"ToolPolicy.ttl must be whole seconds, not {shown(self.ttl)}")
        object.__setattr__(self, "ttl", int(seconds))


class ToolPolicies:
    """The tool policies of one cache, as this process knows them.

    Args:
        name: The cache's name.

    Attributes:
        key: The key of the hash in Valkey.
        refresh_failed_count: Refreshes that Valkey did not answer.
        malformed_count: Ignored fields; each is counted once for each of its values.
    """

    def __init__(self, name: str, log: CacheLog) -> None:
        self.key = f"{name}:__tool_policies"
        self._policies: dict[str, ToolPolicy] = {}
        self._log = log
        # Events are numbered: the beginning of a refresh, and the end of a set. ``_set_at`` has the number of the last
        # set of each tool, ``_applied`` the number of the refresh that returned the known policies.
        self._set_at: dict[str, int] = {}
        self._events = 0
        self._applied = 0
        self._ignored: set[tuple[bytes, bytes]] = set()
        # Both faces of a cache share the policies, each from its own thread.
        self._lock = ThreadLock()
        self.refresh_failed_count = 0
        self.malformed_count = 0

    def get(self, tool: str) -> ToolPolicy | None:
        """Return the policy of ``tool``, or None if it has no policy."""
        return self._policies.get(tool)

    def names(self) -> list[str]:
        """Return the sorted names of the tools that have a policy."""
        return sorted(self._policies)

    async def set(self, level2: Level2 | None, tool: str, policy: ToolPolicy) -> None:
        """Write the policy of ``tool`` to Valkey, and use it from then on.

        Raises:
            L2UnavailableError, L2CommandError: The policy is not used. L2UnavailableError: Valkey may or may not have
                written it.
        """
        if level2 is not None:
            await send(level2, [("HSET", self.key, tool, json.dumps({"ttl": policy.ttl}, separators=(",", ":")))])
        with self._lock:
            self._events += 1
            self._set_at[tool] = self._events
            self._policies[tool] = policy

    async def refresh(self, level2: Level2) -> bool:
        """Read all policies from Valkey; return False, and keep the known policies, if Valkey does not answer."""
        with self._lock:
            self._events += 1
            began = self._events
        try:
            (fields,) = await send(level2, [("HGETALL", self.key)])
        except TierCacheError as error:
            self.refresh_failed_count += 1
            self._log.debug("cannot read the tool policies, the known ones stay in use: %s", error)
            return False
        with self._lock:
            self._apply(began, fields)
        return True

    def _apply(self, began: int, fields: list[bytes]) -> None:
        # If a later refresh has been applied already, this answer is older than the known policies.
        if began > self._applied:
            self._applied = began
            read = self._read(fields)
            for tool, set_at in list(self._set_at.items()):
                if set_at > began:
                    # This process set the policy after the refresh began: the answer may not contain it.
                    read[tool] = self._policies[tool]
                else:
                    del self._set_at[tool]
            self._policies = read

    def _read(self, fields: list[bytes]) -> dict[str, ToolPolicy]:
        policies = {}
        # Only the fields that are there now: a set of all fields ever ignored would grow for ever.
        ignored: set[tuple[bytes, bytes]] = set()
        for field, value in zip(fields[::2], fields[1::2], strict=True):
            tool, policy = field.decode(errors="replace"), _policy(value)
            if policy is not None and tool.encode() == field and len(field) <= LONGEST_NAME_BYTES:
                policies[tool] = policy
                continue
            ignored.add((field, value))
            if (field, value) not in self._ignored:
                self.malformed_count += 1
                self._log.warning(
                    "the policy of tool %s is ignored, it has no usable ttl: %s", shown(tool), shown(value)
                )
        self._ignored = ignored
        return policies


def _policy(value: bytes) -> ToolPolicy | None:
    if len(value) > _MOST_BYTES:
        return None
    try:
        fields: Any = json.loads(value)
        ttl = fields["ttl"]
        return ToolPolicy(ttl) if type(ttl) is int else None
    # Not JSON, not an object, without a ttl, or with a ttl that is no lifetime.
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
