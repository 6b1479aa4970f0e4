"""Lifetimes: the accepted forms, the order in which call, tier and cache decide, and the jitter."""

from __future__ import annotations

import enum
import random
import re
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from .errors import UsageError
from .text import shown

__all__ = ["NO_EXPIRY", "NoExpiry", "Ttl", "check_ttl", "resolve_ttl", "shorten", "to_milliseconds"]


class NoExpiry(enum.Enum):
    """The type of ``NO_EXPIRY``, the lifetime without an end."""

    NO_EXPIRY = "NO_EXPIRY"

    def __repr__(self) -> str:
        return self.value


NO_EXPIRY: Final = NoExpiry.NO_EXPIRY
Ttl: TypeAlias = float | str | timedelta | Literal[NoExpiry.NO_EXPIRY]

_LONGEST: Final = 100 * 365 * 86_400.0
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_WHOLE: Final = re.compile(rf"\s*(?:{_PART.pattern}\s*)+")
_FORMS: Final = "seconds above 0, a string such as '90s' or '1h30m', a timedelta, or NO_EXPIRY"


def check_ttl(ttl: object, name: str = "ttl") -> float | None:
    """Return ``ttl`` in seconds, or None for ``NO_EXPIRY``.

    Raises:
        UsageError: ``ttl`` is no lifetime: zero, negative, not finite, longer than 100 years, or another type.
    """
    if ttl is NO_EXPIRY:
        return None
    if isinstance(ttl, str):
        seconds = _parse(ttl, name)
    elif isinstance(ttl, timedelta):
        seconds = ttl.total_seconds()
    elif isinstance(ttl, int | float) and not isinstance(ttl, bool):
        # float() raises OverflowError for a huge int. Infinity fails the comparison below, as the int would.
        seconds = float(ttl) if abs(ttl) <= _LONGEST else float("inf")
    else:
        raise UsageError(f"{name} must be {_FORMS}, not {shown(ttl)}")
    if not 0 < seconds <= _LONGEST:
        raise UsageError(f"{name} must be {_FORMS}, at most 100 years, not {shown(ttl)}")
    return seconds


def _parse(text: str, name: str) -> float:
    if not _WHOLE.fullmatch(text):
        raise UsageError(f"{name} must be {_FORMS}, not {shown(text)}")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def resolve_ttl(*candidates: Ttl | None) -> float | None:
    """Return the first candidate that is not None, in seconds: call, then tier, then cache. None means no expiry."""
    for ttl in candidates:
        if ttl is not None:
            return check_ttl(ttl)
    return None


def shorten(seconds: float | None, jitter: float) -> float | None:
    """Return ``seconds`` shortened by a random fraction of up to ``jitter`` (0 to 1)."""
    if seconds is None or not jitter:
        return seconds
    return seconds * (1 - jitter * random.random())


def to_milliseconds(seconds: float) -> int:
    """Return a lifetime for ``SET ... PX``, which takes whole milliseconds above 0."""
    return max(1, round(seconds * 1000))
