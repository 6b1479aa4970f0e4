"""Checked text: the names, ids and values that callers pass, and the encoding of ids in keys."""

from __future__ import annotations

import re
from typing import Final

from .errors import UsageError

__all__ = ["LONGEST_NAME_BYTES", "TIER_NAME", "check_name", "check_size", "check_text", "encode_id", "shown"]

# Bytes of UTF-8 that a name may have: a thread id, a field, a tag, a tool, a model, or a kv key with its prefix.
LONGEST_NAME_BYTES: Final = 512
# The form of the name of a tier.
TIER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")

# Characters of a value that an error or a log line shows.
_SHOWN_COUNT: Final = 80
_CHARACTER_BYTES: Final = 4


def encode_id(text: str) -> str:
    """Return ``text`` with ``%`` and ``:`` percent-encoded, for a key in which ``:`` separates parts."""
    return text.replace("%", "%25").replace(":", "%3A")


def check_text(value: object, name: str, otherwise: str = "") -> str:
    """Return ``value`` as a plain str.

    Args:
        name: The argument's name, for the error.
        otherwise: Advice at the end of the error about another type.

    Raises:
        UsageError: ``value`` is no str, or contains a lone surrogate, which UTF-8 cannot encode.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a str, not {type(value).__name__}{otherwise}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} has text that is not Unicode (a lone surrogate): {error}") from error
    # A plain str, even if a subclass overrides ``__str__``.
    return str.__str__(value)


def check_name(value: object, name: str) -> str:
    """Return ``value``, the name of a thread, field, tag, tool or key, as a plain str.

    Args:
        name: The argument's name, for the error.

    Raises:
        UsageError: As for ``check_text``; or ``value`` is empty, or too long.
    """
    text = check_text(value, name)
    if not text:
        raise UsageError(f"{name} must not be empty")
    check_size(text, name)
    return text


def check_size(text: str, name: str, *, prefix_bytes: int = 0) -> None:
    """Refuse a name that is too long: ``LONGEST_NAME_BYTES`` are the bound of every name.

    Args:
        text: Unicode text.
        name: The argument's name, for the error.
        prefix_bytes: Bytes of the bound that the cache itself needs.

    Raises:
        UsageError: The message has the size and the bound.
    """
    most = LONGEST_NAME_BYTES - prefix_bytes
    if len(text) * _CHARACTER_BYTES > most and (size_bytes := len(text.encode())) > most:
        raise UsageError(f"{name} must be at most {most} bytes of UTF-8, not {size_bytes}")


def shown(value: object) -> str:
    """Return ``value`` for an error or a log line: its repr, cut after 80 characters."""
    if isinstance(value, str | bytes) and len(value) > _SHOWN_COUNT:
        return f"{value[:_SHOWN_COUNT]!r}... ({len(value)} in all)"
    try:
        text = repr(value)
    # Python limits the digits of an int that it converts to text, and a caller's own __repr__ may raise any error.
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN_COUNT else f"{text[:_SHOWN_COUNT]}..."
