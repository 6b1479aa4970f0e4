"""The outcomes of calls: the words of the matrix."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

__all__ = ["Outcome", "Outcomes", "matches"]


class Outcome(StrEnum):
    """The outcome of a call, as the caller sees it.

    Attributes:
        VALUE: The value that Valkey has.
        MISS: Valkey answered that there is no value: a lookup returns none, a load the value of its loader.
        DEGRADED: The same, marked degraded: Valkey was not asked, did not answer, or refused.
        UNMARKED: A miss of a call whose result does not say whether it is degraded. Only observed, never expected.
        DONE: Valkey has acknowledged the change, or a write-behind store is queued. ``aclose`` has returned.
        UNAVAILABLE: The call raised ``L2UnavailableError``.
        REFUSED: The call raised ``L2CommandError``.
    """

    VALUE = "value"
    MISS = "miss"
    DEGRADED = "degraded"
    UNMARKED = "unmarked miss"
    DONE = "done"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


# The outcomes that a cell of the matrix allows.
Outcomes: TypeAlias = frozenset[Outcome]


def matches(observed: Outcome | str, allowed: Outcomes) -> bool:
    """Return whether a cell allows an observed outcome; a text stands for an outcome that no cell allows."""
    if observed == Outcome.UNMARKED:
        return bool(allowed & {Outcome.MISS, Outcome.DEGRADED})
    return observed in allowed
