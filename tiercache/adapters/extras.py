"""The error of an adapter whose framework is not installed."""

from __future__ import annotations

from ..version import install_command

__all__ = ["missing_extra"]


def missing_extra(extra: str, error: ImportError) -> ImportError:
    """Return the error to raise instead of ``error``: it names the extra that brings the framework."""
    return ImportError(f"{error.name} is not installed; this adapter needs an extra: {install_command(extra)}")
