"""Keys worked out once: what a lookup needs to know of a request, found by its fingerprint or kept by the caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from msgspec import Struct

from ...engine.engine import Engine
from ...engine.entries.counters import TierCounters
from ...engine.entries.entry import Group
from ...engine.entries.policy import TierPolicy
from ...errors import UsageError

__all__ = ["PREPARED_BYTES", "LlmKey", "PreparedKey", "ToolKey", "check_owner", "still_makes"]

# A Struct and the text of its key; all else is shared.
PREPARED_BYTES: Final = 250


class PreparedKey(Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """What the handles of all tiers have in common. Of one cache; immutable; it holds nothing of the caller's.

    The garbage collector passes them by, as it does entries.
    """

    key: str
    _policy: TierPolicy
    _counters: TierCounters

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, PreparedKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"


class LlmKey(PreparedKey, frozen=True, kw_only=True, eq=False, gc=False):
    """The key of a request, from ``cache.llm.key(params)``, to be passed in the place of ``params``.

    It stays that of the request as it was. Passed to another cache it raises UsageError.

    Attributes:
        key: The key in Valkey, also ``str(...)`` of this.
        model: The request's model.
    """

    model: str

    @property
    def groups(self) -> tuple[Group, ...]:
        return groups_of_model(self.model)

    @property
    def attributes(self) -> dict[str, object]:
        return {"key": self.key, "model": self.model}


class ToolKey(PreparedKey, frozen=True, kw_only=True, eq=False, gc=False):
    """The key of a tool call, from ``cache.tool.key(tool, args)``, to be passed in the place of both.

    It stays that of the call as it was. Passed to another cache it raises UsageError.

    Attributes:
        key: The key in Valkey, also ``str(...)`` of this.
        tool: The tool's name.
    """

    tool: str
    # Compact JSON, in the caller's order: for what is stored, and to call a loader with.
    _args: bytes

    @property
    def groups(self) -> tuple[Group, ...]:
        return groups_of_tool(self._policy.tier, self.tool)

    @property
    def attributes(self) -> dict[str, object]:
        return {"key": self.key, "tool_name": self.tool}


@lru_cache(maxsize=1024)
def groups_of_model(model: str) -> tuple[Group, ...]:
    """Return the groups of a model's entries: one tuple for all of them."""
    return (Group("tier", "llm"), Group("model", model))


@lru_cache(maxsize=1024)
def groups_of_tool(tier: str, tool: str) -> tuple[Group, ...]:
    """Return the groups of a tool's entries: one tuple for all of them."""
    return (Group("tier", tier), Group("tool", tool))


def check_owner(key: PreparedKey, policy: TierPolicy) -> None:
    """Refuse a key that is not of the tier with ``policy``.

    Raises:
        UsageError: It is another cache's: options, counters and names may differ.
    """
    if key._policy is not policy:
        raise UsageError(f"{key!r} was made by another cache, whose keys and counters are its own")


def still_makes(engine: Engine, key: str, make: Callable[[], str], warning: str) -> bool:
    """Return whether ``make`` still returns ``key``, under which what was loaded is to be stored; warn if not.

    Args:
        warning: What has been changed, and what is therefore not stored.
    """
    try:
        if make() == key:
            return True
    except UsageError:
        pass
    engine.log.warn_once(warning)
    return False
