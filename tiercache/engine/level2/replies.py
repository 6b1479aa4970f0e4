"""Replies: send plain commands and raise if one of them failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .level2 import Level2
from .writes import Command

__all__ = ["send"]


async def send(level2: Level2, commands: Sequence[Command]) -> list[Any]:
    """Send ``commands`` together and return their replies.

    Raises:
        L2UnavailableError: Valkey did not answer.
        L2CommandError: Valkey refused a command; Valkey has carried out the others.
    """
    replies = await level2.execute(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
