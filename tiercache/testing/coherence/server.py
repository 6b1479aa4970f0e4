"""The Valkey under test: the checker kills it and starts it again at the same address, with or without its data."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from typing import Any, Self

from ...embedded import EmbeddedValkey
from ...engine.level2.writes import Command
from ...errors import TierCacheError
from .database import connect

__all__ = ["Server"]


class Server:
    """An embedded server, which writes its data to disk before it answers, or keeps no data.

    Args:
        persists: Whether acknowledged writes survive a kill.
    """

    def __init__(self, *, persists: bool) -> None:
        self.persists = persists
        self._data_dir = tempfile.mkdtemp(prefix="tiercache-coherence-") if persists else None
        self._server = EmbeddedValkey(self._data_dir)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._server.stop)
        if self._data_dir is not None:
            shutil.rmtree(self._data_dir, ignore_errors=True)

    @property
    def url(self) -> str:
        """The URL of the server; it is the same after a restart."""
        return self._server.url

    async def start(self) -> None:
        """Start the server if it does not run; return when it is ready."""
        while True:
            # Does nothing as long as the killed server has not ended.
            await asyncio.to_thread(self._server.start)
            level2 = connect(self.url, timeout=1.0)
            try:
                # Set before any replica can connect: from the first write on, an acknowledged write is on disk.
                if self.persists:
                    await level2.execute([("CONFIG", "SET", "appendfsync", "always")])
                await level2.ping()
                return
            except TierCacheError:
                await asyncio.sleep(0.01)
            finally:
                await level2.aclose()

    async def kill(self) -> None:
        """Kill the server with SIGKILL."""
        with suppress(ProcessLookupError):
            os.kill(int((await self.info("server"))["process_id"]), signal.SIGKILL)

    async def info(self, section: str) -> dict[str, str]:
        """Return the fields of a section of the server's INFO."""
        (reply,) = await self.execute(("INFO", section))
        return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)

    async def execute(self, *commands: Command) -> list[Any]:
        """Run commands on the server, without cache and proxy; return their replies.

        Raises:
            L2CommandError: The server refused a command.
            L2UnavailableError: No answer.
        """
        level2 = connect(self.url, timeout=5.0)
        try:
            replies = await level2.execute(commands)
        finally:
            await level2.aclose()
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies
