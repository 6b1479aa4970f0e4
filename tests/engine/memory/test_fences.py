"""Fences: closing one leaves the others of its key."""

from __future__ import annotations

from tiercache.engine.memory.fences import Fence, Fences


def test_fence_closed_twice_keeps_later_fence_of_key() -> None:
    fences = Fences(lambda: 0.0)
    first, second = fences.open("k", ()), fences.open("k", ())
    fences.close(first)
    fences.close(first)
    fences.break_key("k")
    assert (first.holds, second.holds) == (True, False)
    assert isinstance(second, Fence)
