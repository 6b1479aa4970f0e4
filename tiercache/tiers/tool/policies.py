"""Tool policies: lifetimes by tool, in Valkey, where BetterDB Monitor proposes and sets them.

The hash ``{name}:__tool_policies`` has a field for each policy: the tool's name, with JSON ``{"ttl": seconds}`` as its
value. Other software writes there too: a field whose ``ttl`` is not a positive whole number is ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...engine.level2.level2 import Level2
from ...errors import UsageError
from ...log import CacheLog
from ...text import LONGEST_NAME_BYTES, shown
from ...ttl import Ttl, check_ttl
from ..shared_fields import SharedFields

__all__ = ["ToolPolicies", "ToolPolicy"]


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


class ToolPolicies(SharedFields[ToolPolicy]):
    """The tool policies of one cache, as this process knows them. Attributes as for ``SharedFields``.

    Args:
        name: The cache's name.
    """

    kind = "tool policies"
    _complaint = "the policy of tool %s is ignored, it has no usable ttl: %s"

    def __init__(self, name: str, log: CacheLog) -> None:
        super().__init__(f"{name}:__tool_policies", log)

    def get(self, tool: str) -> ToolPolicy | None:
        """Return the policy of ``tool``, or None if it has no policy."""
        return self._known.get(tool)

    def names(self) -> list[str]:
        """Return the sorted names of the tools that have a policy."""
        return sorted(self._known)

    async def set(self, level2: Level2 | None, tool: str, policy: ToolPolicy) -> None:
        """Write the policy of ``tool`` to Valkey, and use it from then on. Errors as for ``SharedFields.write``."""
        await self.write(level2, tool, policy)

    def _encode(self, rule: ToolPolicy) -> str:
        return json.dumps({"ttl": rule.ttl}, separators=(",", ":"))

    def _decode(self, field: str, value: bytes) -> ToolPolicy | None:
        if len(field.encode()) > LONGEST_NAME_BYTES:
            return None
        try:
            fields: Any = json.loads(value)
            ttl = fields["ttl"]
            return ToolPolicy(ttl) if type(ttl) is int else None
        # Not JSON, not an object, without a ttl, or with a ttl that is no lifetime.
        except (ValueError, TypeError, LookupError, RecursionError):
            return None
