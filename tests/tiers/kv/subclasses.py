"""Subclasses of text, bytes and int that callers may pass as keys and values."""

from __future__ import annotations

import enum


class Word(str):
    """A subclass of str whose methods return wrong values."""

    __slots__ = ()

    def __str__(self) -> str:
        return "lie"

    def __format__(self, spec: str) -> str:
        return "lie"

    def __len__(self) -> int:
        return 0

    __hash__ = None  # type: ignore[assignment]


class Blob(bytes):
    """A subclass of bytes whose conversion returns a wrong value."""

    def __bytes__(self) -> bytes:
        return b"lie"


class Number(enum.IntEnum):
    """A subclass of int."""

    ONE = 1
