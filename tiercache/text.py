"""Checked text: the names, ids and values that callers pass, and the encoding of ids in keys."""

from __future__ import annotations

from .errors import UsageError

__all__ = ["check_text", "encode_id"]


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
