"""Known keys: bounded, and exact also when some of them have been dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.requests import asking
from tests.seams import KnownKeysView, known_keys
from tiercache import AgentCache, L1Options
from tiercache.tiers.keys.known_keys import KnownKeys, _size_of_fingerprint

MAX_ENTRIES, MAX_BYTES = 8, 4000

fingerprints = st.one_of(
    st.binary(max_size=2), st.tuples(st.binary(max_size=1), st.sampled_from(["a" * 300, "b" * 900]))
)
steps = st.lists(st.tuples(st.sampled_from(["get", "put"]), fingerprints), max_size=60)


def get(known: KnownKeys[str], fingerprint: Any) -> str | None:
    """Return the known key under ``fingerprint``, as a lookup does."""
    return known.find(fingerprint) or known.find_older(fingerprint)


@settings(max_examples=500, deadline=None)
@given(steps)
def test_known_keys_stay_within_their_bounds_and_return_the_key_that_was_put(steps: list[tuple[str, Any]]) -> None:
    known: KnownKeys[str] = KnownKeys(max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES, size_of=len)
    for verb, fingerprint in steps:
        if verb == "put":
            known.put(fingerprint, repr(fingerprint))
        else:
            assert get(known, fingerprint) in (None, repr(fingerprint))
        kept = KnownKeysView(known).kept
        assert known.entry_count == len(kept) <= MAX_ENTRIES
        actual = sum(200 + _size_of_fingerprint(fingerprint) + len(target) for fingerprint, target in kept)
        assert actual == known.size_bytes <= MAX_BYTES


def test_known_key_stays_while_it_is_used_and_others_are_dropped() -> None:
    known: KnownKeys[str] = KnownKeys(max_entries=8, max_bytes=10**6, size_of=len)
    known.put("kept", "target")
    for number in range(100):
        known.put(number, "another")
        assert get(known, "kept") == "target"
    assert get(known, 0) is None


def test_known_key_that_is_too_large_by_itself_drops_no_other() -> None:
    known: KnownKeys[str] = KnownKeys(max_entries=8, max_bytes=2000, size_of=len)
    known.put("small", "target")
    known.put("x" * 2000, "target")
    assert get(known, "x" * 2000) is None
    assert get(known, "small") == "target"


@pytest.mark.parametrize("size", [10, 3000])
def test_known_keys_of_a_cache_have_bounds_of_its_l1(size: int) -> None:
    cache = AgentCache.in_memory(l1=L1Options(max_entries=10, max_bytes=200_000))
    for number in range(200):
        cache.llm.key(asking(str(number) * size))
        cache.tool.key("t", {"q": str(number) * size})
    for known in (known_keys(cache.llm), known_keys(cache.tool)):
        assert 0 < known.entry_count <= 20
        assert known.size_bytes <= 50_000


def test_known_keys_count_a_text_once_that_many_requests_share() -> None:
    text = "x" * 100_000
    known: KnownKeys[str] = KnownKeys(max_entries=1000, max_bytes=500_000, size_of=len)
    for number in range(100):
        known.put((b"outline", ("user", "user"), (text, f"question {number}")), "target")
    assert known.entry_count == 100
    assert len(text) < known.size_bytes < len(text) + 100 * 1000
    assert all(get(known, (b"outline", ("user", "user"), (text, f"question {number}"))) for number in range(100))


def test_known_keys_count_equal_texts_that_are_different_objects_each() -> None:
    known: KnownKeys[str] = KnownKeys(max_entries=1000, max_bytes=500_000, size_of=len)
    for number in range(10):
        known.put((b"outline", "".join(["x"] * 100_000), number), "target")
    assert known.entry_count <= 4


large_texts = [chr(97 + place) * size for place, size in enumerate((1100, 2000, 3000, 4000, 5000, 6000, 9000))]
sharing = st.tuples(st.sampled_from(large_texts), st.sampled_from(large_texts), st.integers(0, 5))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["get", "put"]), sharing, st.booleans()), max_size=60))
def test_known_keys_hold_no_more_bytes_than_they_count_if_texts_are_shared(steps: list[tuple[str, Any, bool]]) -> None:
    known: KnownKeys[str] = KnownKeys(max_entries=MAX_ENTRIES, max_bytes=30_000, size_of=len)
    for verb, (one, two, number), is_copied in steps:
        fingerprint = ("".join([one[:1], one[1:]]) if is_copied else one, (two,), number)
        if verb == "put":
            known.put(fingerprint, repr(number))
        else:
            assert get(known, fingerprint) in (None, repr(number))
        for keys_of, counted in KnownKeysView(known).generations:
            held: dict[int, int] = {}
            own = [
                200 + _size_of_fingerprint(fingerprint, held) + len(target) for fingerprint, target in keys_of.items()
            ]
            assert sum(own) + sum(held.values()) <= counted
        assert known.size_bytes <= 30_000
