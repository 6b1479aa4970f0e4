"""Placeholders: the bytes ``tc:lease:{origin}:{number}`` that a lease puts under its key.

Every reader treats each value with the prefix as absent. Other software can write such bytes too, or can change the
life of a placeholder (PERSIST, RESTORE). A placeholder therefore proves a load in progress only if

1. it has exactly this form: an origin of 1 to 64 letters, digits, ``_`` or ``-``, and a number of 1 to 20 digits;
2. it ends by itself within ``LONGEST_LEASE_SECONDS``, the longest life that a process may give its leases.

Every other placeholder is an orphan. No load waits for an orphan; the next load takes it over.
"""

from __future__ import annotations

import re
from typing import Final

from ...options import LONGEST_LEASE_SECONDS

__all__ = ["LONGEST_LEASE_SECONDS", "PLACEHOLDER_PREFIX", "holder_of", "is_placeholder", "may_be_renewed"]

PLACEHOLDER_PREFIX: Final = b"tc:lease:"
_FORM: Final = re.compile(rb"tc:lease:([0-9A-Za-z_-]{1,64}):[0-9]{1,20}")


def is_placeholder(data: bytes) -> bool:
    """Return whether ``data`` are no value but a placeholder, of any form."""
    return data.startswith(PLACEHOLDER_PREFIX)


def may_be_renewed(placeholder: bytes, life: float) -> bool:
    """Return whether a load may hold ``placeholder``, which lives for ``life`` more seconds (inf: without an end)."""
    return life <= LONGEST_LEASE_SECONDS and _FORM.fullmatch(placeholder) is not None


def holder_of(placeholder: bytes) -> str | None:
    """Return the name of the runtime that wrote ``placeholder``, or None if no runtime writes this form."""
    found = _FORM.fullmatch(placeholder)
    return None if found is None else found[1].decode()
