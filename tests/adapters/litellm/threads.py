"""The work that LiteLLM gives to its threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

__all__ = ["futures", "recorded"]

futures: list[Future[Any]] = []


@contextmanager
def recorded(executor: Any) -> Iterator[None]:
    """Append the future of each function that ``executor`` gets to ``futures``."""
    submit = executor.submit
    futures.clear()

    def submit_and_record(*given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = submit(*given, **named)
        futures.append(future)
        return future

    executor.submit = submit_and_record
    yield
    executor.submit = submit
