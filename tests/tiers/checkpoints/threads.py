"""Threads of checkpoints for tests: steps made by hand, and a comparison with what was put."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiercache.tiers.checkpoints.checkpoint import NewCheckpoint, PendingWrite, Place, TypedBytes

__all__ = ["CONTENT", "INDEX", "new", "text", "values_of", "write"]

INDEX = "test:__tc:cp:{t}"
CONTENT = f"{INDEX}:d"


def text(value: str) -> TypedBytes:
    """Return a serialized text."""
    return TypedBytes("json", value.encode())


def new(
    number: int,
    fresh: Mapping[str, str],
    *,
    unchanged: Mapping[str, tuple[int, str]] | None = None,
    ns: str = "",
    run: str = "",
    cleared: frozenset[str] = frozenset(),
) -> NewCheckpoint:
    """Return the checkpoint ``number``, whose parent is the one before it.

    Args:
        fresh: The values whose version is ``number``.
        unchanged: The other values, each with its version.
    """
    kept = unchanged or {}
    versions = {
        **{channel: version for channel, (version, _) in kept.items()},
        **dict.fromkeys([*fresh, *cleared], number),
    }
    return NewCheckpoint(
        place=Place(ns, f"{number:04}"),
        parent=f"{number - 1:04}" if number > 1 else None,
        checkpoint=text(f"checkpoint {number}"),
        metadata=text(f"metadata {number}"),
        versions=versions,
        fresh={channel: text(value) for channel, value in fresh.items()},
        cleared=cleared,
        unchanged=frozenset(kept),
        dump_unchanged=lambda: {channel: text(value) for channel, (_, value) in kept.items()},
        run_id=run,
    )


def write(task: str, number: int = 0, value: str = "x", path: str = "") -> PendingWrite:
    """Return a pending write."""
    return PendingWrite(task, number, "channel", text(value), path)


def values_of(found: Any) -> dict[str, str]:
    """Return the values of a checkpoint that was read."""
    assert found is not None
    return {channel: value.data.decode() for channel, value in found.values.items()}
