"""The log of one cache: every line of the ``tiercache`` logger names the cache that wrote it."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Final

__all__ = ["CacheLog"]

_LOGGER: Final = logging.getLogger("tiercache")


class CacheLog(logging.LoggerAdapter[logging.Logger]):
    """Writes ``cache 'agents': ...`` lines.

    Args:
        name: The cache's name.

    Attributes:
        cache_name: The cache's name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(_LOGGER, {})
        self.cache_name = name
        self._prefix = f"cache {name!r}: "
        self._warned: set[str] = set()

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Return ``msg`` with the cache's name in front."""
        return f"{self._prefix}{msg}", kwargs

    def defect(self, job: str, error: Exception) -> None:
        """Log that ``error``, a defect, has ended a background job: once for each job and type of error."""
        kind = f"{job}: {type(error).__name__}"
        if kind not in self._warned:
            self._warned.add(kind)
            self.error(
                "a defect has ended the background job %r, which runs again (logged once): %r",
                job,
                error,
                exc_info=error,
            )

    def warn_once(self, message: str, *arguments: object) -> None:
        """Log a warning, each ``message`` once for this cache."""
        if message not in self._warned:
            self._warned.add(message)
            self.warning(message + " (logged once)", *arguments)
