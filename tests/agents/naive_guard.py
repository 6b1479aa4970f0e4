"""A naive loop guard, written from the words of the page: the reference of the tests."""

from __future__ import annotations

__all__ = ["naive_loop"]


def naive_loop(keys: list[str], depth: int, max_repeats: int, max_depth: int, cycle: int) -> str | None:
    """Return the kind of loop that the last call closes, or None."""
    if depth == max_depth:
        return "depth"
    run = 0
    for key in reversed(keys):
        if key != keys[-1]:
            break
        run += 1
    if run >= max_repeats:
        return "repeat"
    for size in range(2, cycle + 1):
        tail = keys[max(0, len(keys) - 2 * size) :]
        if len(tail) == 2 * size and tail[:size] * 2 == tail and len(set(tail)) > 1:
            return "oscillation"
    return None
