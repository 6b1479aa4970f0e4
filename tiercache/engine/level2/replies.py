"""Sending plain commands of which each must have succeeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .level2 import Level2
from .writes import Command

__all__ = ["send"]


async def send(level2: Level2, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to ``commands``, sent together.

    Raises:
        L2UnavailableError: No answer.
        L2CommandError: Valkey refused one; the others have been carried out.
    """
    replies = await level2.execute(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
