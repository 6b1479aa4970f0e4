"""The changes of several subjects by one call: by tag, by tool, by model, of a kv tier, of a whole tier."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from ...agent_cache import AgentCache
from .subject import Subject
from .subjects import MIXED_TAGS, SUBJECTS, group, kv_tier

__all__ = ["CLEARS", "GROUP_CHANGES", "MIXED_CHANGES", "GroupChange"]


class GroupChange(NamedTuple):
    """One call that removes the entries of several subjects.

    Attributes:
        method: The tier and the method.
        apply: Calls the cache.
        tag: The call covers only the entries that have this tag; None: it covers every entry.
    """

    method: str
    subjects: Sequence[Subject]
    apply: Callable[[AgentCache], Awaitable[object]]
    tag: str | None = None


def _of_tier(tier: str) -> list[Subject]:
    """Return the subjects of a tier that any replica may change."""
    return [subject for subject in SUBJECTS if subject.tier == tier and not subject.is_owned]


def _with_tag(tag: str) -> list[Subject]:
    return [subject for subject in SUBJECTS if subject.tags == (tag,)]


def _mixed_change(tag: str) -> GroupChange:
    mixed = [subject for subject in SUBJECTS if subject.role == "mixed"]
    return GroupChange("invalidate_tag", mixed, lambda cache: cache.invalidate_tag(tag), tag)


async def _delete_many(cache: AgentCache) -> None:
    await kv_tier(cache, "hot").delete_many([str(subject.number) for subject in group("kv", "hot")])


# Every replica makes these changes all the time.
GROUP_CHANGES: Final = (
    GroupChange("tool.invalidate_by_tool", group("tool", "hot"), lambda cache: cache.tool.invalidate_by_tool("hot")),
    GroupChange("llm.invalidate_by_model", group("llm", "hot"), lambda cache: cache.llm.invalidate_by_model("hot")),
    GroupChange("kv.clear", group("kv", "hot"), lambda cache: kv_tier(cache, "hot").clear()),
    GroupChange("kv.delete_many", group("kv", "hot"), _delete_many),
    GroupChange("kv.delete_pattern", group("kv", "hot"), lambda cache: kv_tier(cache, "hot").delete_pattern("*")),
    GroupChange("invalidate_tag", _with_tag("tagged"), lambda cache: cache.invalidate_tag("tagged")),
)

# Every replica makes these changes too, as often as one of the changes above.
MIXED_CHANGES: Final = tuple(map(_mixed_change, MIXED_TAGS))

# Replicas make these changes in some runs only, because they also repair missed invalidations of quiet keys.
CLEARS: Final = (
    GroupChange("tool.clear", _of_tier("tool"), lambda cache: cache.tool.clear()),
    GroupChange("llm.clear", _of_tier("llm"), lambda cache: cache.llm.clear()),
    GroupChange("flush", [s for tier in ("tool", "llm", "kv") for s in _of_tier(tier)], lambda cache: cache.flush()),
)
