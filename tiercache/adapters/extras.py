"""The error of an adapter whose framework cannot be imported."""

from __future__ import annotations

from ..version import install_command

__all__ = ["missing_extra"]


def missing_extra(extra: str, error: ImportError) -> ImportError:
    """Return the error to raise instead of ``error``, with which an import of a framework has failed.

    It names the extra that brings a version of the framework that works.
    """
    return ImportError(f"this adapter needs an extra: {install_command(extra)} ({error})", name=error.name)
