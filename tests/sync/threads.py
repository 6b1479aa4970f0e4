"""Threads of tests: many callers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["all_of", "started"]


class Running:
    """A function in a thread.

    Attributes:
        value: Its result, once it has returned.
        error: Its exception, once it has raised.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:
            self.error = error

    @property
    def ident(self) -> int | None:
        """The identifier of the thread."""
        return self._thread.ident

    @property
    def is_running(self) -> bool:
        """Whether the function has not ended."""
        return self._thread.is_alive()

    def result(self) -> Any:
        """Return the result, or raise the exception, of the function."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.value


def started(work: Callable[[], Any]) -> Running:
    """Start ``work`` in a thread."""
    return Running(work)


def all_of(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return the results of ``works``, each in a thread of its own, all at once."""
    return [running.result() for running in [started(work) for work in works]]
