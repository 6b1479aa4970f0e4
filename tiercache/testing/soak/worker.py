"""A process of the soak: ``python -m tiercache.testing.soak.worker SETTINGS``.

The process reads commands from standard input and writes messages to standard output, one JSON line each. The end of
standard input ends the process. Nothing else is written: a line on standard error is a broken promise.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ...agent_cache import AgentCache
from ...options import (
    CoherenceOptions,
    L1Options,
    ResilienceOptions,
    WriteOptions,
)
from ...tier_options import LlmOptions, SessionOptions, TierOptions
from ..child_process import listen
from .container_sizes import container_sizes
from .journal import Journal
from .ledger import Ledger
from .load import Load
from .measure import descriptor_count, measure, not_empty
from .protocol import (
    CACHE_NAME,
    Command,
    Ended,
    Measure,
    Measured,
    Message,
    Problem,
    Ready,
    Rest,
    Start,
    Stop,
    WorkerSettings,
)

__all__ = ["main"]

# Bounds that a run of a minute reaches, so that memory is flat from then on.
_L1: Final = L1Options(max_entries=2000, max_bytes=8 * 1024 * 1024)
_LEASE_SECONDS: Final = 2.0
# Seconds in which a process whose load rests must have nothing left to do, and in which a cache must close.
_REST_SECONDS: Final = 20.0
_REST_PAUSE: Final = 0.05
_CLOSE_SECONDS: Final = 30.0

_ENCODE = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder[Command](Command)


def cache_of(settings: WorkerSettings) -> AgentCache:
    """Return a new cache. The processes differ in their write mode, and all lifetimes end within ``settings.ttl``."""
    ttl = settings.ttl
    return AgentCache.from_url(
        settings.url,
        name=CACHE_NAME,
        default_ttl=ttl,
        llm=LlmOptions(ttl=ttl, l1_ttl=ttl / 2, jitter=0.3),
        tool=TierOptions(ttl=ttl / 2, l1_ttl=ttl / 4),
        session=SessionOptions(ttl=ttl),
        l1=_L1,
        coherence=CoherenceOptions(max_staleness=settings.max_staleness, lease_ttl=_LEASE_SECONDS),
        writes=WriteOptions(mode="behind" if settings.number % 2 else "await", max_delay=0.02),
        resilience=ResilienceOptions(max_loads=64),
    )


class _Worker:
    """One process, from the opening of its cache to its close."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._warnings = _Warnings(self._report)
        self._began = time.monotonic()

    async def run(self) -> None:
        """Carry out the commands until ``Stop``."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_exception)
        commands: asyncio.Queue[Command] = asyncio.Queue()
        listener = asyncio.create_task(listen(_DECODER, commands.put_nowait), name="soak-listener")
        async with Ledger(self._settings.ledger_url) as ledger:
            await ledger.versions(["connected"])
            self._own_tasks = asyncio.all_tasks()
            self._own_descriptors = descriptor_count()
            cache = cache_of(self._settings)
            journal = Journal(ledger, self._settings.max_staleness, self._report)
            load = Load(self._settings, cache, ledger, journal)
            await cache.open()
            tasks = [asyncio.create_task(work, name="soak-load") for work in (load.run(), journal.run())]
            _send(Ready())
            while not isinstance(command := await commands.get(), Stop):
                match command:
                    case Start():
                        self._began = time.monotonic()
                        load.resume()
                    case Measure():
                        await self._rest(cache, load)
                        _send(Measured(measure(cache, time.monotonic() - self._began)))
                        load.resume()
            rest = await self._end_load(cache, load)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if not isinstance(outcome, asyncio.CancelledError):
                    self._report(Problem("uncaught", f"a task of the load has ended: {outcome!r}"))
            await journal.check_waiting()
            await self._end(cache, journal, rest)
        listener.cancel()

    async def _rest(self, cache: AgentCache, load: Load) -> None:
        """Return when the load rests and the cache has nothing left to do."""
        await load.rest()
        await cache.flush_writes()
        for _ in range(int(_REST_SECONDS / _REST_PAUSE)):
            if not not_empty(cache):
                return
            await asyncio.sleep(_REST_PAUSE)

    async def _end_load(self, cache: AgentCache, load: Load) -> Rest:
        """Return the last measures, and report the work that the cache has not finished."""
        await self._rest(cache, load)
        if left := not_empty(cache):
            self._report(Problem("rest", f"the load has ended, and these containers are not empty: {left}"))
        rest = measure(cache, time.monotonic() - self._began)
        cache.clear_l1()
        if left := {name: size for name, size in container_sizes(cache).items() if size and _is_of_l1(name)}:
            self._report(Problem("rest", f"L1 is cleared, and these containers are not empty: {left}"))
        return rest

    async def _end(self, cache: AgentCache, journal: Journal, rest: Rest) -> None:
        """Report the tasks and descriptors that the closed cache has left, and send the counts."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await cache.aclose()
        except TimeoutError:
            self._report(Problem("hang", f"aclose does not end within {_CLOSE_SECONDS:g} s"))
        await asyncio.sleep(0.2)
        left_tasks = sorted(task.get_name() for task in asyncio.all_tasks() - self._own_tasks)
        left_descriptors = descriptor_count() - self._own_descriptors
        _send(
            Ended(
                calls=dict(journal.calls),
                raised=dict(journal.raised),
                cancelled=journal.cancelled,
                checked=journal.checked,
                warnings=self._warnings.count,
                rest=rest,
                left_tasks=left_tasks,
                left_descriptors=left_descriptors,
            )
        )

    def _report(self, problem: Problem) -> None:
        _send(replace(problem, at=problem.at or time.monotonic()))

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._report(Problem("uncaught", f"{context.get('message')}: {context.get('exception')!r}"))


class _Warnings(logging.Handler):
    """Counts the warnings of this process, and reports every line of a higher level."""

    def __init__(self, report: Callable[[Problem], None]) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        self._report_problem = report
        logging.basicConfig(handlers=[self], level=logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.WARNING:
            self._report_problem(Problem("uncaught", f"log line: {record.getMessage()}"))
        else:
            self.count += 1


def _is_of_l1(name: str) -> bool:
    return name.partition(".")[0] in ("L1", "_Lru")


def _send(message: Message) -> None:
    sys.stdout.buffer.write(_ENCODE(message) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Run the process that the first argument describes."""
    asyncio.run(_Worker(msgspec.json.decode(sys.argv[1], type=WorkerSettings)).run())


if __name__ == "__main__":
    main()
