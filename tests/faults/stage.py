"""The stage of one run: a server, caches with old values in Valkey, and the calls under a fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.entries import OLD, Entry
from tests.faults.outcomes import Outcome
from tests.faults.relay import Relay
from tests.faults.server import NAME, FaultServer, running_server
from tiercache import (
    AgentCache,
    CoherenceOptions,
    L2CommandError,
    L2UnavailableError,
    ResilienceOptions,
    TelemetryOptions,
    WriteOptions,
)
from tiercache.options import TrackingMode
from tiercache.testing import ChaosProxy

__all__ = ["Stage", "opened_stage"]

# No call of the matrix may take longer, under any fault.
HANG_SECONDS: Final = 20.0
# Deadline of one exchange: short for the faults that leave exchanges without an answer, else long, because other
# programs on the machine may hold a test up.
_SILENT_TIMEOUT: Final = 0.25
_TIMEOUT: Final = 2.0


@dataclass
class Stage:
    """A server and caches of one name.

    Attributes:
        proxy, relay: In front of the server; the caches connect by one of them, by the other or directly.
        cache: The cache under the fault.
        behind: A second one, which writes behind.
        leaver: A third one, which closes under the fault.
        neighbour: A cache that connects directly and has every right: another process of the fleet.
        waits: The name and the seconds of every call up to now.
    """

    server: FaultServer
    proxy: ChaosProxy
    relay: Relay
    cache: AgentCache
    behind: AgentCache
    leaver: AgentCache
    neighbour: AgentCache
    waits: dict[str, float]

    @property
    def under_fault(self) -> tuple[AgentCache, AgentCache, AgentCache]:
        """The caches that connect as the user."""
        return self.cache, self.behind, self.leaver

    async def fill(self, entries: Sequence[Entry]) -> None:
        """Store the old value of ``entries``; leave it in Valkey and in the L1 of the neighbour alone."""
        await asyncio.gather(*(entry.store(self.cache, OLD) for entry in entries))
        for cache in self.under_fault:
            cache.clear_l1()
        found = await asyncio.gather(*(entry.look_up(self.neighbour) for entry in entries))
        assert {value for value, _ in found} == {OLD}

    async def outcome_of(self, call: Awaitable[Any], name: str = "") -> Any:
        """Return the outcome of a call, or a text for an outcome that no cell of the matrix allows."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(HANG_SECONDS):
                return await call
        except L2UnavailableError:
            return Outcome.UNAVAILABLE
        except L2CommandError:
            return Outcome.REFUSED
        except TimeoutError:
            return f"no outcome after {HANG_SECONDS:.0f} s"
        # Any other error is a failure of the cell, which the test shows with all others.
        except Exception as error:
            return f"raised {type(error).__name__}: {error}"
        finally:
            self.waits[name] = time.monotonic() - began


@asynccontextmanager
async def opened_stage(route: str, *, is_silent: bool, tracking: TrackingMode) -> AsyncIterator[Stage]:
    """Return a stage with opened caches, which are closed at the end.

    Args:
        route: "direct", "proxy" or "relay": how the caches reach the server.
        is_silent: Whether the fault leaves exchanges without an answer.
        tracking: The option of every cache.
    """
    timeout = _SILENT_TIMEOUT if is_silent else _TIMEOUT
    resilience = ResilienceOptions(l2_timeout=timeout, breaker_pause=0.2, drain_timeout=2.0)
    options: dict[str, Any] = {
        "name": NAME,
        "default_ttl": 3600,
        "coherence": CoherenceOptions(tracking=tracking),
        "resilience": resilience,
        "telemetry": TelemetryOptions(metrics=False),
    }
    async with AsyncExitStack() as stack:
        server = stack.enter_context(running_server())
        proxy = await stack.enter_async_context(ChaosProxy(server.user_url))
        relay = await stack.enter_async_context(Relay(server.user_url))
        url = {"direct": server.user_url, "proxy": proxy.url, "relay": relay.url}[route]
        # The clients of valkey-py in a stage are four; each cache opens its own connections.
        caches = [
            AgentCache.from_url(url, **options),
            AgentCache.from_url(url, **options, writes=WriteOptions(mode="behind")),
            AgentCache.from_url(url, **options),
            AgentCache.from_url(server.admin_url, **options),
        ]
        for cache in caches:
            stack.push_async_callback(cache.aclose)
            await cache.open()
        yield Stage(server, proxy, relay, *caches, waits={})
