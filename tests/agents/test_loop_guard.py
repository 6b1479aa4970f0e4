"""The loop guard: repeats, oscillations and depth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agents.naive_guard import naive_loop
from tiercache import AgentCache, UsageError
from tiercache.agents.loop_guard import LoopGuard


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ("AAAAA", "repeat"),
        ("AAAA", None),
        ("ABAB", "oscillation"),
        ("ABABA", "oscillation"),
        ("ABCABC", "oscillation"),
        ("AABAAB", "oscillation"),
        ("ABCDABCD", None),
        ("ABA", None),
        ("AAAABA", None),
        ("BAAAAA", "repeat"),
    ],
)
def test_loop_guard_finds_a_loop_by_its_last_calls(keys: str, kind: str | None) -> None:
    assert LoopGuard(5, 50, 3).check(list(keys), 1) == kind


def test_loop_guard_finds_depth() -> None:
    guard = LoopGuard(5, 50, 3)
    assert guard.check(["A"], 49) is None
    assert guard.check(["A"], 50) == "depth"


@given(
    st.lists(st.sampled_from("ABC"), min_size=1, max_size=24),
    st.integers(1, 6),
    st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(1, 5)),
)
def test_loop_guard_agrees_with_a_naive_guard(keys: list[str], depth: int, limits: tuple[int, int, int]) -> None:
    guard = LoopGuard(*limits)
    expected = naive_loop(keys, depth, *limits)
    assert guard.check(keys, depth) == expected
    assert guard.check(keys[-guard.window :], depth) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"max_repeats": 1},
        {"max_repeats": True},
        {"max_depth": 1.5},
        {"max_depth": 1001},
        {"cycle": 0},
        {"on_loop": "stop"},
        {"session_id": ""},
        {"session_id": 5},
    ],
    ids=str,
)
async def test_run_refuses_a_wrong_argument_by_its_name(memory: AgentCache, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        memory.agent(**options)
