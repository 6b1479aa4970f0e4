"""Requests and loaders that the tests share."""

from __future__ import annotations

import asyncio
from typing import Any

from tiercache import LlmResponse

HELLO: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


def asking(text: str, model: str = "gpt-4o", **params: Any) -> dict[str, Any]:
    """Return a request with one user message."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **params}


class Loader:
    """A loader that counts its calls and answers when told to.

    Args:
        answer: What it returns, or raises if it is an exception.
        held: Whether it waits for ``release``.
    """

    def __init__(self, answer: str | LlmResponse | BaseException = "answer", *, held: bool = False) -> None:
        self.answer = answer
        self.calls = 0
        self.cancelled = 0
        self.started = asyncio.Event()
        self._released = asyncio.Event()
        if not held:
            self.release()

    def release(self) -> None:
        """Let it answer."""
        self._released.set()

    async def __call__(self) -> str | LlmResponse:
        self.calls += 1
        self.started.set()
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


async def turns(count: int = 10) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
