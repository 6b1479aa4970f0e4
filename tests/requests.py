"""Requests, callers and loaders that the tests share."""

from __future__ import annotations

import asyncio
from typing import Any

from tiercache import AgentCache, LlmResponse

HELLO: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


def asking(text: str, model: str = "gpt-4o", **params: Any) -> dict[str, Any]:
    """Return a request with one user message."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **params}


def load_llm(cache: AgentCache, loader: Any, params: Any = HELLO) -> asyncio.Task[Any]:
    """Start a caller of ``llm.get_or_load``."""
    return asyncio.create_task(cache.llm.get_or_load(params, loader))


class Loader:
    """A loader that counts its calls.

    Args:
        answer: The value that the loader returns, or the exception that it raises.
        held: Whether the loader waits for ``release``.

    Attributes:
        calls: The number of calls.
        cancelled: The number of cancelled calls.
        started: Set by the first call.
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
        """Let every call return or raise."""
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


class ManyLoader:
    """A loader of many keys or a batch function, which answers ``{name}!`` for each name.

    Called with keys, it returns a mapping, as a loader of ``get_or_load_many`` may. Called with the arguments of tool
    calls, ``{"city": name}``, it returns a list, as a batch function must.

    Args:
        held: Whether the loader waits for ``release``.
        error: The exception that every call raises, or None.
        failing: Names whose place in the list is a KeyError.

    Attributes:
        asked: The names of each call.
        cancelled: The number of cancelled calls.
        started: Set by the first call.
    """

    def __init__(self, *, held: bool = False, error: Exception | None = None, failing: tuple[str, ...] = ()) -> None:
        self.asked: list[list[str]] = []
        self.started = asyncio.Event()
        self.cancelled = 0
        self._error = error
        self._failing = failing
        self._released = asyncio.Event()
        if not held:
            self.release()

    def release(self) -> None:
        """Let every call return or raise."""
        self._released.set()

    async def __call__(self, items: list[Any]) -> dict[str, str] | list[Any]:
        names = [item if isinstance(item, str) else item["city"] for item in items]
        self.asked.append(names)
        self.started.set()
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._error is not None:
            raise self._error
        if all(isinstance(item, str) for item in items):
            return {name: f"{name}!" for name in names}
        return [KeyError(name) if name in self._failing else f"{name}!" for name in names]


async def turns(count: int = 10) -> None:
    """Run ``count`` steps of the event loop, so that every task that is ready runs."""
    for _ in range(count):
        await asyncio.sleep(0)
