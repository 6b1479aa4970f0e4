"""Every public operation of the async cache and of its tiers has a counterpart on the sync face."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from tiercache import (
    AgentCache,
    AgentRun,
    Cached,
    CachedGenerator,
    CachedMany,
    Invalidating,
    KvTier,
    LlmTier,
    SessionTier,
    SyncAgentRun,
    SyncCache,
    SyncCached,
    SyncCachedGenerator,
    SyncCachedMany,
    SyncInvalidating,
    SyncKvTier,
    SyncLlmTier,
    SyncSessionTier,
    SyncToolTier,
    ToolTier,
)

PAIRS: dict[type, type] = {
    AgentCache: SyncCache,
    LlmTier: SyncLlmTier,
    ToolTier: SyncToolTier,
    SessionTier: SyncSessionTier,
    KvTier: SyncKvTier,
    Cached: SyncCached,
    CachedGenerator: SyncCachedGenerator,
    CachedMany: SyncCachedMany,
}
# Names of the async cache that the sync face has not: the ways to make a cache, the way to the sync face, and methods
# that plain code calls as they are.
ELSEWHERE = {AgentCache: {"from_url", "embedded", "in_memory", "null", "sync", "wrap", "watch"}}
RENAMED = {"aclose": "close"}
# The results that are other objects on the sync face.
RESULTS: dict[object, object] = {**PAIRS, Invalidating: SyncInvalidating, AgentRun: SyncAgentRun}


def public_members(kind: type) -> Iterator[str]:
    """Yield the names of the public methods and properties that the package gives to ``kind``."""
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            yield name


def counterparts() -> list[Any]:
    return [
        pytest.param(kind, PAIRS[kind], name, id=f"{kind.__name__}.{name}")
        for kind in PAIRS
        for name in public_members(kind)
        if name not in ELSEWHERE.get(kind, ()) and not (kind is not AgentCache and name in ("result",))
    ]


def signatures(member: Any) -> list[tuple[list[tuple[str, Any, Any, Any]], object]]:
    """Return the parameters and the result of a method, and of each of its overloads."""
    found = []
    for function in [member, *typing.get_overloads(member)]:
        signature = inspect.signature(function)
        parameters = [(each.name, each.kind, each.default, each.annotation) for each in signature.parameters.values()]
        found.append((parameters, signature.return_annotation))
    return found


def expected_result(annotation: object) -> object:
    names = {kind.__name__: other.__name__ for kind, other in RESULTS.items()}  # type: ignore[attr-defined]
    return names.get(str(annotation), annotation)


@pytest.mark.parametrize(("kind", "other", "name"), counterparts())
def test_sync_counterpart_has_the_same_parameters_and_results(kind: type, other: type, name: str) -> None:
    member, counterpart = getattr(kind, name), getattr(other, RENAMED.get(name, name), None)
    assert counterpart is not None, f"{other.__name__} lacks {name}"
    if isinstance(member, property):
        assert isinstance(counterpart, property)
        return
    assert not inspect.iscoroutinefunction(counterpart)
    theirs = [(parameters, expected_result(result)) for parameters, result in signatures(member)]
    ours = signatures(counterpart)
    assert len(ours) == len(theirs)
    for (own, own_result), (their, their_result) in zip(ours, theirs, strict=True):
        assert [each[:3] for each in own] == [each[:3] for each in their]
        assert [str(each[3]) for each in own] == [plain(each[3]) for each in their]
        assert str(own_result) == plain(their_result)


def plain(annotation: object) -> str:
    """Return the annotation of a method of the sync face: its decorators decorate plain functions."""
    text = re.sub(r"\bAwaitable\[(R|T|Many)\]", r"\1", str(annotation))
    text = re.sub(r"\bAsyncIterator\b", "Iterator", text)
    return re.sub(
        r"\b(Cached(Many|Generator)?\[|ItemIterator\[|MemoizeDecorator|Cached(Tool|Model)Decorator)", r"Sync\1", text
    )


@pytest.mark.parametrize(("kind", "other"), PAIRS.items(), ids=[kind.__name__ for kind in PAIRS])
def test_sync_face_has_no_method_without_an_async_counterpart(kind: type, other: type) -> None:
    known = {RENAMED.get(name, name) for name in public_members(kind)}
    assert set(public_members(other)) <= known


def test_sync_counterpart_check_notices_a_lacking_method() -> None:
    class Lacking:
        pass

    with pytest.raises(AssertionError, match="lacks check"):
        test_sync_counterpart_has_the_same_parameters_and_results(LlmTier, Lacking, "check")
