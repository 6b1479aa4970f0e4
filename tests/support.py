"""What several tests use: a clock, a look at the server, and ways to hold things up."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tiercache import AgentCache, Clock, CoherenceOptions
from tiercache.engine.coherence.leases import is_placeholder
from tiercache.engine.level2.writes import Delete, Run, WriteSet
from tiercache.stores.valkey.store import ValkeyLevel2

SEQUENCE = "test:__tc:sequence"
UNTRACKED = CoherenceOptions(tracking="off")


async def until(condition: Callable[[], Any], seconds: float = 4.0) -> None:
    """Return once ``condition``, plain or async, holds; fail if it does not within ``seconds``."""
    give_up_at = time.monotonic() + seconds
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < give_up_at, "it did not come true in time"
        await asyncio.sleep(0.005)


def in_l1(cache: AgentCache, key: str) -> bool:
    """Whether process memory keeps ``key``, believed or not."""
    return cache._engine.l1.peek(key) is not None


def distrusted(cache: AgentCache) -> int:
    """How often process memory was dropped because a change may have been missed."""
    return cache.local_stats().distrusted_count


async def caught_up(cache: AgentCache, plain: valkey.Valkey) -> None:
    """Return when ``cache`` has heard of every change made up to now."""
    last = int(plain.get(SEQUENCE) or 0)
    coherence = cache._engine.coherence
    assert coherence is not None
    await until(lambda: coherence._position is not None and coherence._position.number >= last)


def frozen_wall(seconds: float) -> Clock:
    """A clock whose wall shows one moment for ever."""
    return Clock(monotonic=time.monotonic, wall=lambda: seconds)


def entry_keys(plain: valkey.Valkey) -> list[str]:
    """Every key on the server that holds an entry, not what keeps account of them, sorted."""
    keys = (key.decode(errors="backslashreplace") for key in plain.scan_iter(count=1000))
    own = ("__betterdb:", ":__stats", ":__tc:alive", ":__tc:sequence", ":__tc:idx:", ":__tc:indexed")
    entries = (key for key in keys if not any(part in key for part in own))
    # A load that has just failed may not have taken its placeholder away yet.
    return sorted(key for key in entries if plain.type(key) != b"string" or not is_placeholder(plain.get(key) or b""))


class HeldReads:
    """Holds back the answers of Valkey until told to let them go: the read has happened, its value is on the way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str = "get") -> None:
        self.answered = asyncio.Event()
        self.release = asyncio.Event()
        read = getattr(ValkeyLevel2, method)

        async def held(level2: ValkeyLevel2, keys: Any) -> Any:
            stored = await read(level2, keys)
            self.answered.set()
            await self.release.wait()
            return stored

        monkeypatch.setattr(ValkeyLevel2, method, held)


class HeldWrites:
    """Holds back writes of entries, and all that is queued behind them, on their way to Valkey until told to let go.

    What goes before them, leases and announcements alone, is let through: so a load can begin whose fill is then held.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sending = asyncio.Event()
        self.release = asyncio.Event()
        apply = ValkeyLevel2.apply

        async def held(level2: ValkeyLevel2, writes: Any) -> Any:
            if any(isinstance(write, WriteSet | Delete | Run) for write in writes):
                self.sending.set()
                await self.release.wait()
            return await apply(level2, writes)

        monkeypatch.setattr(ValkeyLevel2, "apply", held)


class StallingProxy:
    """A TCP proxy in front of a server on a Unix socket that holds back what a client sends from a given text on.

    Attributes:
        stall_at: Data that holds this is passed on, with all that follows on its connection, only after ``release``.
        delay: Seconds that everything else from a client takes longer.
    """

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("unix://")
        self.stall_at: bytes | None = None
        self.delay = 0.0
        self.stalled = asyncio.Event()
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"valkey://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

    def release(self) -> None:
        """Pass on what was held back."""
        self._released.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._path)
        # The way to the server goes on when the client has gone, as bytes in a network do.
        answers = asyncio.ensure_future(self._pass(inner_reader, writer))
        try:
            await self._pass_slowly(reader, inner_writer)
            await answers
        finally:
            answers.cancel()
            writer.close()
            inner_writer.close()
            closing = asyncio.gather(answers, writer.wait_closed(), inner_writer.wait_closed(), return_exceptions=True)
            await asyncio.shield(closing)

    async def _pass_slowly(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.stall_at is not None and self.stall_at in data:
                self.stalled.set()
                await self._released.wait()
            await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
