"""Key handles: the key of a request with all that a lookup needs to know of the request.

A tier makes a handle once for a request, and finds it again by the request's fingerprint. A caller may keep a handle,
and pass it instead of the request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from msgspec import Struct

from ...engine.entries.counters import TierCounters
from ...engine.entries.entry import Group
from ...engine.entries.rules import TierRules
from ...errors import UsageError
from ...scopes import Components

__all__ = ["HANDLE_BYTES", "KeyHandle", "LlmKey", "ToolKey", "check_owner", "groups_of_model", "is_unchanged"]

# A Struct and the text of its key; handles share everything else.
HANDLE_BYTES: Final = 250


class KeyHandle(Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """The key of a request to one tier of one cache. Immutable; it refers to no object of the caller's.

    The garbage collector does not walk handles, as it does not walk entries.

    Attributes:
        key: The key in Valkey, also ``str(...)`` of the handle.
    """

    key: str
    _rules: TierRules
    _counters: TierCounters
    # Those with which the key was made: the request has this key under them alone.
    _components: Components = ()

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, KeyHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"


class LlmKey(KeyHandle, frozen=True, kw_only=True, eq=False, gc=False):
    """The key of a request, from ``cache.llm.key(params)``; pass it instead of ``params``.

    Later changes of ``params`` do not change the key, and it keeps the scope with which it was made. Another cache
    refuses the key with UsageError.

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


class ToolKey(KeyHandle, frozen=True, kw_only=True, eq=False, gc=False):
    """The key of a tool call, from ``cache.tool.key(tool, args)``; pass it instead of both.

    Later changes of ``args`` do not change the key, and it keeps the scope with which it was made. Another cache
    refuses the key with UsageError.

    Attributes:
        key: The key in Valkey, also ``str(...)`` of this.
        tool: The tool's name.
    """

    tool: str
    # The args as compact JSON, in the caller's order. The tier stores them with a result, and calls a loader with them.
    _args: bytes

    @property
    def groups(self) -> tuple[Group, ...]:
        return groups_of_tool(self._rules.tier, self.tool)

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


def check_owner(key: KeyHandle, rules: TierRules) -> None:
    """Refuse a key of another cache, or of another tier than the one with ``rules``.

    Raises:
        UsageError: The key is of another cache, whose options, counters and names may differ.
    """
    # Two comparisons, because nearly all keys pass the first.
    if key._rules is not rules and key._rules.owner is not rules.owner:
        raise UsageError(f"{key!r} was made by another cache, whose keys and counters are its own")


def is_unchanged(key: str, key_now: Callable[[], str], warn: Callable[[str], object], warning: str) -> bool:
    """Return whether a request still has the key that its load began with; call ``warn`` with ``warning`` if not.

    A loader may change the request. Its result must then not be stored under ``key``.

    Args:
        key_now: Returns the key of the request as it is now, or raises UsageError.
        warning: Which request was changed, and that its result is not stored.
    """
    try:
        if key_now() == key:
            return True
    except UsageError:
        pass
    warn(warning)
    return False
