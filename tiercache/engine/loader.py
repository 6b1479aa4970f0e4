"""Calling the caller's loader: with or without its argument, async or plain, in time, and not too many at once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from ..errors import UsageError

__all__ = ["LoadLimits", "check_loader", "takes_any", "takes_argument"]

T = TypeVar("T")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_loader(loader: object) -> None:
    """Refuse what cannot be called.

    Raises:
        UsageError: An awaitable is refused too: it could be awaited once only, and not at all on a hit.
    """
    if not callable(loader):
        raise UsageError(f"loader must be a function, async or plain, not {type(loader).__name__}")


def takes_argument(loader: Callable[..., Any]) -> bool:
    """Return whether ``loader`` has a required positional parameter.

    Raises:
        UsageError: It requires more than one argument, or a keyword: it cannot be called.
    """
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False  # Some functions written in C have no signature to look at.
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1 or any(p.kind not in _POSITIONAL for p in required):
        names = ", ".join(p.name for p in required)
        raise UsageError(f"loader must take no argument or one, not the required ones: {names}")
    return bool(required)


def takes_any(loader: Callable[..., Any]) -> bool:
    """Return whether ``loader`` takes any argument at all."""
    try:
        return bool(inspect.signature(loader).parameters)
    except (TypeError, ValueError):
        return True


class LoadLimits:
    """The limits that all loads of one runtime share."""

    def __init__(self, *, timeout: float | None, max_loads: int | None) -> None:
        self._timeout = timeout
        self._slots = None if max_loads is None else asyncio.Semaphore(max_loads)

    async def run(self, load: Callable[[], Awaitable[T]], *, nested: bool) -> T:
        """Return what ``load`` returns.

        Args:
            nested: The load is part of another one. It takes no slot of its own: the other one holds a slot
                until this ends, and with every slot so held none would ever be free.

        Raises:
            TimeoutError: It took longer than ``ResilienceOptions.load_timeout``. Time spent waiting for a slot
                does not count.
        """
        async with nullcontext() if nested or self._slots is None else self._slots:
            if self._timeout is None:
                return await load()
            deadline = asyncio.timeout(self._timeout)
            try:
                async with deadline:
                    return await load()
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise TimeoutError(f"the load took longer than load_timeout={self._timeout} s") from error
