"""MortalServer: a Valkey that a test kills."""

from __future__ import annotations

import os
import signal

import valkey

__all__ = ["MortalServer"]


class MortalServer:
    """A server that a test kills."""

    def __init__(self, url: str) -> None:
        self.url = url
        with valkey.Valkey.from_url(url) as client:
            self._pid: int | None = client.info("server")["process_id"]

    def kill(self) -> None:
        """Kill the server at once. A second call does nothing."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
        self._pid = None
