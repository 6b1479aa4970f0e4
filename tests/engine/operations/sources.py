"""A loader whose answers a test sets and holds back."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Source"]


class Source:
    """A loader whose next answer the test sets; ``gate`` holds its answers back.

    Attributes:
        answer: The value that the loader returns, or the error that it raises.
        count: Calls so far.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> Any:
        self.count += 1
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer
