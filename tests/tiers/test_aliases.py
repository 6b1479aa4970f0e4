"""Aliases: bounded, and exact whatever is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.requests import asking
from tiercache import AgentCache, L1Options
from tiercache.tiers.keys.known_keys import Aliases, _size_of_mark

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


def test_a_text_that_many_requests_share_is_counted_once() -> None:
    text = "x" * 100_000
    aliases: Aliases[str] = Aliases(max_entries=1000, max_bytes=500_000, size_of=len)
    for number in range(100):
        aliases.put((b"account", ("user", "user"), (text, f"question {number}")), "target")
    assert aliases.entry_count == 100
    assert len(text) < aliases.size_bytes < len(text) + 100 * 1000
    assert all(aliases.get((b"account", ("user", "user"), (text, f"question {number}"))) for number in range(100))


def test_equal_texts_that_are_not_one_object_are_counted_each() -> None:
    aliases: Aliases[str] = Aliases(max_entries=1000, max_bytes=500_000, size_of=len)
    for number in range(10):
        aliases.put((b"account", "".join(["x"] * 100_000), number), "target")
    assert aliases.entry_count <= 4


large_texts = [chr(97 + place) * size for place, size in enumerate((1100, 2000, 3000, 4000, 5000, 6000, 9000))]
sharing = st.tuples(st.sampled_from(large_texts), st.sampled_from(large_texts), st.integers(0, 5))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["get", "put"]), sharing, st.booleans()), max_size=60))
def test_no_more_is_held_than_is_counted_whoever_shares_it(steps: list[tuple[str, Any, bool]]) -> None:
    aliases: Aliases[str] = Aliases(max_entries=MAX_ENTRIES, max_bytes=30_000, size_of=len)
    for verb, (one, two, number), is_copied in steps:
        mark = ("".join([one[:1], one[1:]]) if is_copied else one, (two,), number)
        if verb == "put":
            aliases.put(mark, repr(number))
        else:
            assert aliases.get(mark) in (None, repr(number))
        for aliases_of, counted in (
            (aliases._younger, aliases._younger_bytes),
            (aliases._older, aliases._older_bytes),
        ):
            held: dict[int, int] = {}
            own = [200 + _size_of_mark(mark, held) + len(target) for mark, target in aliases_of.items()]
            assert sum(own) + sum(held.values()) <= counted
        assert aliases.size_bytes <= 30_000
