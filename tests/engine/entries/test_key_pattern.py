"""Key patterns: this process and Valkey agree on every pattern and every key."""

from __future__ import annotations

import time

import pytest
import valkey
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tiercache import UsageError
from tiercache.engine.entries.key_pattern import escape, matcher

# Few characters, so that keys match often, and those by which patterns differ.
LETTERS = "ab-^]é\n"
KEYS = st.text(LETTERS + "[*?\\", min_size=1, max_size=8)
PATTERNS = st.text(LETTERS + "[*?\\c", min_size=1, max_size=10)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(KEYS, min_size=1, max_size=20, unique=True), pattern=PATTERNS)
@example(keys=["a", "b", "]", "^"], pattern="[^a")
@example(keys=["a", "b", "[", "\\"], pattern="[")
@example(keys=["a", "-", "]", "b"], pattern="[a-]")
@example(keys=["a]", "b]", "]"], pattern="[]a]")
@example(keys=["a", "^", "b"], pattern="[a^]")
@example(keys=["b", "c", "a"], pattern="[c-a]")
@example(keys=["\\", "a\\"], pattern="*\\")
@example(keys=["é", "e", "ab"], pattern="??")
@example(keys=["aab", "ab", "b"], pattern="*a*b**")
def test_key_pattern_matches_the_same_keys_as_valkey(plain: valkey.Valkey, keys: list[str], pattern: str) -> None:
    try:
        matcher(pattern)
    except UsageError:
        assume(False)
    plain.flushall()
    plain.mset(dict.fromkeys(keys, ""))
    cursor, scanned = plain.scan(match=pattern, count=1000)
    assert cursor == 0
    assert set(filter(matcher(pattern), keys)) == {key.decode() for key in scanned}


@pytest.mark.parametrize("pattern", ["[?-é", "[é-a]", "a[^x-\x80]*"])
def test_key_pattern_refuses_range_that_servers_read_in_different_ways(pattern: str) -> None:
    """Where a byte is a signed number, a byte beyond ASCII comes before every letter."""
    with pytest.raises(UsageError, match="beyond ASCII"):
        matcher(pattern)


@given(text=st.text(min_size=1, max_size=20).filter(str.isprintable), other=st.text(min_size=1, max_size=20))
def test_key_pattern_of_escaped_text_matches_that_text_alone(text: str, other: str) -> None:
    matches = matcher(escape(text))
    assert matches(text)
    assert matches(other) is (other == text)


@pytest.mark.timeout(20)
def test_key_pattern_of_many_stars_ends_in_time() -> None:
    """A backtracking expression would try the places of all stars together, for longer than the universe is old."""
    began = time.process_time()
    assert not matcher("*a" * 200 + "*b")("a" * 500)
    assert time.process_time() - began < 10
