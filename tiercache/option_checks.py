"""Checks of the fields of option classes: each error names the class and the field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from .errors import UsageError
from .text import shown

__all__ = [
    "check_choice",
    "check_counts",
    "check_errors",
    "check_functions",
    "check_seconds",
    "is_number",
    "take_timedelta",
]

_LONGEST_SECONDS: Final = 100 * 365 * 86_400


def _named(options: object, names: Iterable[str], *, optional: bool) -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of options; with ``optional`` leave out those that are None."""
    for name in names:
        value = getattr(options, name)
        if value is not None or not optional:
            yield f"{type(options).__name__}.{name}", value


def take_timedelta(options: object, name: str) -> None:
    """Replace a timedelta among the options, which is a lifetime, by its seconds."""
    value = getattr(options, name)
    if isinstance(value, timedelta):
        object.__setattr__(options, name, value.total_seconds())


def check_seconds(options: object, *names: str, optional: bool = False, zero: bool = False) -> None:
    """Refuse values that are no seconds from 0 to 100 years; 0 itself needs ``zero``."""
    for name, value in _named(options, names, optional=optional):
        if not is_number(value) or not 0 <= value <= _LONGEST_SECONDS or (value == 0 and not zero):
            limit = "0 or more" if zero else "above 0"
            raise UsageError(f"{name} must be a number of seconds {limit}, at most 100 years, not {shown(value)}")


def check_errors(options: object, name: str) -> None:
    """Refuse a value that is no mapping of classes of exceptions to seconds above 0; keep a copy of it."""
    value = getattr(options, name)
    if value is None:
        return
    full_name = f"{type(options).__name__}.{name}"
    if not isinstance(value, Mapping):
        raise UsageError(f"{full_name} must be a mapping of exception classes to seconds, not {shown(value)}")
    for kind, seconds in value.items():
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise UsageError(f"{full_name} must have classes of exceptions as keys, not {shown(kind)}")
        if not is_number(seconds) or not 0 < seconds <= _LONGEST_SECONDS:
            raise UsageError(f"{full_name}[{kind.__name__}] must be a number of seconds above 0, not {shown(seconds)}")
    object.__setattr__(options, name, dict(value))


def check_counts(options: object, *names: str, optional: bool = False) -> None:
    for name, value in _named(options, names, optional=optional):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{name} must be a whole number above 0, not {shown(value)}")


def check_functions(options: object, *names: str) -> None:
    for name, value in _named(options, names, optional=True):
        if not callable(value):
            raise UsageError(f"{name} must be callable, not {type(value).__name__}")


def check_choice(options: object, name: str, *choices: str) -> None:
    value = getattr(options, name)
    if value not in choices:
        *others, last = map(repr, choices)
        raise UsageError(f"{type(options).__name__}.{name} must be {', '.join(others)} or {last}, not {shown(value)}")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
