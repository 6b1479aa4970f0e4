"""Analytics: nothing. tiercache sends data to the caller's Valkey alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Analytics"]


class Analytics:
    """An object that reports nothing, for code that calls one."""

    async def init(self, client: Any, name: str, props: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""

    def capture(self, event: str, properties: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    async def shutdown(self) -> None:
        """Do nothing."""
