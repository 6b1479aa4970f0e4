"""Checked text: what callers pass as names, ids and values, and how ids stand in keys."""

from __future__ import annotations

from .errors import UsageError

__all__ = ["check_text", "encode_id"]


def encode_id(text: str) -> str:
    """Return ``text`` as it stands in a key with something behind it, or in front of it."""
    return text.replace("%", "%25").replace(":", "%3A")


def check_text(value: object, name: str, otherwise: str = "") -> str:
    """Return ``value``, a plain str.

    Raises:
        UsageError: It is no str, or not Unicode; ``otherwise`` says what else to do.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a str, not {type(value).__name__}{otherwise}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} has text that is not Unicode (a lone surrogate): {error}") from error
    # A plain str, whatever a subclass makes of itself.
    return str.__str__(value)
