"""Aliases: bounded, and exact whatever is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.requests import asking
from tiercache import AgentCache, L1Options
from tiercache.tiers.aliases import Aliases, _size_of_mark

MAX_ENTRIES, MAX_BYTES = 8, 4000

marks = st.one_of(st.binary(max_size=2), st.tuples(st.binary(max_size=1), st.sampled_from(["a" * 300, "b" * 900])))
steps = st.lists(st.tuples(st.sampled_from(["get", "put"]), marks), max_size=60)


@settings(max_examples=500, deadline=None)
@given(steps)
def test_the_bounds_hold_and_what_is_found_is_what_was_put(steps: list[tuple[str, Any]]) -> None:
    aliases: Aliases[str] = Aliases(max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES, size_of=len)
    for verb, mark in steps:
        if verb == "put":
            aliases.put(mark, repr(mark))
        else:
            assert aliases.get(mark) in (None, repr(mark))
        kept = [*aliases._younger.items(), *aliases._older.items()]
        assert aliases.entry_count == len(kept) <= MAX_ENTRIES
        actual = sum(200 + _size_of_mark(mark) + len(target) for mark, target in kept)
        assert actual == aliases.size_bytes <= MAX_BYTES


def test_what_is_asked_for_stays_while_others_pass_by() -> None:
    aliases: Aliases[str] = Aliases(max_entries=8, max_bytes=10**6, size_of=len)
    aliases.put("kept", "target")
    for number in range(100):
        aliases.put(number, "another")
        assert aliases.get("kept") == "target"
    assert aliases.get(0) is None


def test_one_that_is_too_large_by_itself_pushes_nothing_out() -> None:
    aliases: Aliases[str] = Aliases(max_entries=8, max_bytes=2000, size_of=len)
    aliases.put("small", "target")
    aliases.put("x" * 2000, "target")
    assert aliases.get("x" * 2000) is None
    assert aliases.get("small") == "target"


@pytest.mark.parametrize("size", [10, 3000])
def test_a_caches_aliases_are_bounded_as_its_entries_are(size: int) -> None:
    cache = AgentCache.in_memory(l1=L1Options(max_entries=10, max_bytes=200_000))
    for number in range(200):
        cache.llm.key(asking(str(number) * size))
        cache.tool.key("t", {"q": str(number) * size})
    for aliases in (cache.llm._known._aliases, cache.tool._known._aliases):
        assert 0 < aliases.entry_count <= 20
        assert aliases.size_bytes <= 50_000
