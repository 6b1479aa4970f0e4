"""The sides of a cache: each server that keeps tiers of the cache, as one face uses it.

Most caches have one side, the main side: the server of the cache, or process memory alone. ``AgentCache.clients`` gives
tiers a server of their own, and each of these servers is a further side::

    main side    statistics, tool policies, settings, and every tier that has no client of its own
    other sides  their tiers, with an engine, indexes and a registration of their own

An engine, with its L1 and its connections, belongs to one side. The sides of one server in the two faces are a pair.
The first use of another side opens the main side too, which reads the settings and sends the statistics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from .engine.engine import Engine
from .engine.level2.level2 import Level2
from .engine.memory.loaders import RunPlain
from .engine.runtime.options import EngineOptions
from .engine.runtime.runtime import Server
from .indexes.foreign_writes import ForeignWrites
from .indexes.reindex import EntryReader, Reindex
from .monitor.discovery import Discovery
from .monitor.service import Job, MonitorService
from .options import CoherenceOptions, DiscoveryOptions, L1Options, ResilienceOptions, TelemetryOptions, WriteOptions
from .settings import checked
from .shared_parts import SharedParts
from .stores.valkey.settings import Settings, client_from_url
from .stores.valkey.store import ValkeyLevel2
from .telemetry.otel import Tracing

__all__ = ["Side", "SideCalls", "Sides"]


class SideCalls(NamedTuple):
    """The functions of a face that its sides call.

    Attributes:
        describe: Returns the fields of the registration on a side that depend on the cache's options.
        reader: Reads the models and tags of entries.
        on_start: Called before the first use of a side in each process and on each loop.
        run_plain: Calls the plain loaders of the sync face; None for the async face.
    """

    describe: Callable[[int], dict[str, Any]]
    reader: EntryReader
    on_start: Callable[[int], None]
    run_plain: RunPlain | None


class Side:
    """One side of a cache, as one face uses it.

    Args:
        shared: The parts that the faces of the cache share.
        number: The place of the side's server in ``SharedParts.connections``; 0 is the main side.
        calls: The functions that the side calls.
        main: The main side, or None for the main side itself.

    Attributes:
        engine: The levels.
        has_server: Whether the side has a Valkey. Otherwise it is process memory alone.
        reindex: Makes the indexes complete.
        discovery: The registration, or None if the cache does not register itself here.
        jobs: Further jobs of the background worker, by name.
    """

    def __init__(self, shared: SharedParts, number: int, calls: SideCalls, main: Side | None) -> None:
        settings = shared.settings
        self._shared = shared
        self._main = main
        self._resilience = checked(settings.resilience, "resilience", ResilienceOptions)
        connection = shared.connections[number]
        self.has_server = connection is not None
        self.reindex = Reindex(settings.name, calls.reader, shared.log)
        is_listed = checked(settings.discovery, "discovery", DiscoveryOptions).enabled and self.has_server
        describe = partial(calls.describe, number)
        self.discovery = Discovery(settings.name, describe, shared.log) if is_listed else None
        self.jobs: dict[str, Job] = {}
        telemetry = checked(settings.telemetry, "telemetry", TelemetryOptions)
        tracing = Tracing(telemetry.tracer_name, telemetry.tracer_provider, shared.log)
        self.engine = Engine(
            shared.log,
            None if connection is None else self._new_server(connection),
            self._engine_options(calls.run_plain),
            clock=settings.clock,
            find_tracer=tracing.find_tracer if telemetry.tracing else lambda: None,
            on_start=partial(calls.on_start, number),
        )

    async def complete_indexes(self) -> int:
        """Add every entry of this side to its index; return how many were missing. Errors as for ``Reindex.run``."""
        runtime = await self.engine.open()
        level2 = runtime.l2.level2
        return 0 if level2 is None else await self.reindex.run(level2)

    def _engine_options(self, run_plain: RunPlain | None) -> EngineOptions:
        settings = self._shared.settings
        return EngineOptions(
            l1=checked(settings.l1, "l1", L1Options),
            coherence=checked(settings.coherence, "coherence", CoherenceOptions),
            writes=checked(settings.writes, "writes", WriteOptions),
            resilience=self._resilience,
            require_l2=settings.require_l2,
            run_plain=run_plain,
            hooks=self._shared.hooks,
            switches=self._shared.runtime_settings.switches,
        )

    def _new_server(self, connection: Settings) -> Server:
        shared, name = self._shared, self._shared.settings.name

        async def connect(origin: str) -> Level2:
            used = connection
            server = shared.server if self._main is None else None
            if self._main is not None and self._main.has_server:
                await self._main.engine.open()
            elif server is not None:
                await asyncio.to_thread(server.start)
                used = shared.connection_of(client_from_url(server.url))
            return ValkeyLevel2(used, timeout=self._resilience.l2_timeout, name=name, origin=origin)

        indexes = self.reindex, ForeignWrites(name, self.reindex, shared.log)
        # Statistics, policies and settings exist once, on the main side.
        statistics = shared.statistics if self._main is None else None
        fields = (shared.tool_policies, shared.runtime_settings) if self._main is None else ()
        return Server(connect, MonitorService(statistics, fields, indexes, self.discovery, shared.log, self.jobs))


class Sides:
    """All sides of one face, the main side first. Calls that concern the whole cache go to every one of them.

    Args:
        shared: The parts that the faces of the cache share.
        calls: The functions that the sides call.
    """

    def __init__(self, shared: SharedParts, calls: SideCalls) -> None:
        main = Side(shared, 0, calls, None)
        others = [Side(shared, number, calls, main) for number in range(1, len(shared.connections))]
        self._sides = (main, *others)

    def __iter__(self) -> Iterator[Side]:
        return iter(self._sides)

    def __getitem__(self, number: int) -> Side:
        return self._sides[number]

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engine of each side."""
        return tuple(side.engine for side in self._sides)

    @property
    def unwritten_registrations(self) -> int:
        """Writes of registrations that failed."""
        return sum(side.discovery.write_failed_count for side in self._sides if side.discovery is not None)

    def pair(self, others: Sides) -> None:
        """Make the sides of one server in two faces the two faces of an engine."""
        for side, other in zip(self._sides, others, strict=True):
            side.engine.face.pair(other.engine.face)

    async def open(self) -> None:
        """Open every engine; close those again that this call opened, if one fails or the call is cancelled."""
        opened: list[Engine] = []
        try:
            for engine in self.engines:
                if engine.open_runtime() is None:
                    await engine.open(gives_up=True)
                    opened.append(engine)
        except BaseException:
            for engine in opened:
                await engine.abandon()
            raise

    async def aclose(self) -> None:
        """Close every engine, the main one last: it sends the counts of the loads that end on the others."""
        main, *others = self.engines
        try:
            await asyncio.gather(*(engine.aclose() for engine in others))
        finally:
            await main.aclose()

    def close_unused(self) -> bool:
        """Close without an event loop; return False, and change nothing, if an engine is in use."""
        if any(engine.is_in_use for engine in self.engines):
            return False
        return all(engine.close_unused() for engine in self.engines)

    def clear_l1(self) -> int:
        """Clear the L1 of every side, those of the other face too; return how many entries they had."""
        return sum(engine.clear_l1() for engine in self.engines)

    async def flush_writes(self) -> None:
        """Return when each Valkey has answered every write queued so far, with success or an error."""
        for engine in self.engines:
            await engine.flush_writes()

    def warn_if_left_open(self) -> None:
        """Warn that the program has dropped the cache, if it leaves connections that ``aclose`` would close."""
        for engine in self.engines:
            engine.warn_if_left_open()
