"""The parts that the two faces of a cache share: each exists once in the process, and any thread may use it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, cast

from .embedded import EmbeddedValkey
from .engine.engine import Engine
from .engine.entries.counters import CounterBook
from .engine.entries.rules import TierRules
from .engine.hooks.registry import HookRegistry
from .errors import UsageError
from .log import CacheLog
from .monitor.statistics import StatsHash
from .options import ConnectionOptions, ResilienceOptions
from .pricing.prices import PriceTable
from .scopes import CallScopes
from .settings import CacheSettings, checked
from .stores.valkey.logins import Logins
from .stores.valkey.settings import Client, Settings
from .tier_options import TierOptions
from .tier_servers import TierServers
from .tiers.runtime_settings import SettingsTable
from .tiers.session.tier import SessionTier
from .tiers.tool.policies import ToolPolicies

__all__ = ["NO_COPIES", "FaceParts", "SharedParts"]


class _NoCopies:
    """Type of ``NO_COPIES``."""


# The client of a cache that keeps no copies: no Valkey, and nothing in L1.
NO_COPIES: Final = _NoCopies()

_OTHER_FACE: Final = {
    "async": "cache.sync was used first: use cache.sync everywhere",
    "sync": "The async face was used first: use it everywhere",
}


@dataclass(frozen=True, slots=True)
class FaceParts:
    """The parts of one face that the statistics of the cache read.

    Attributes:
        is_sync: Whether the face is the sync face.
        engines: The engine of each side, the main side first.
    """

    is_sync: bool
    engines: tuple[Engine, ...]
    session: SessionTier


class SharedParts:
    """The parts that the two faces of a cache share.

    Attributes:
        settings: The options of the cache.
        log: The log of the cache. Both faces log each warning once together.
        hooks: The hooks of the cache.
        connections: The settings of connections to each server, that of the main side first. None: the main side is
            process memory alone.
        keeps_copies: Whether the tiers store entries at all. Session state is no copy.
        prices: The price table.
        scopes: The scopes of the blocks of ``AgentCache.calls``.
        tool_policies: The tool policies.
        runtime_settings: The settings of tiers and tools that are changed at run time.
        tier_rules: The rules of every tier made so far, of both faces, each with its counters.
        kv_options: The options of every kv tier made so far.
        owners: By tier the object by which a face knows the keys that the other face has made.
        statistics: The statistics hash of the whole fleet, which sends the counts of both faces.
        server: The private Valkey of an embedded cache, or None.
        faces: The faces made so far, the async face first.
    """

    def __init__(self, client: Client | _NoCopies | None, settings: CacheSettings) -> None:
        self.settings = settings
        self.log = CacheLog(settings.name)
        self.hooks = HookRegistry()
        self.keeps_copies = not isinstance(client, _NoCopies)
        has_server = client is not None and not isinstance(client, _NoCopies)
        main = self._connection_settings(cast("Client", client)) if has_server else None
        self._servers = TierServers(settings.clients, state_alone=not self.keeps_copies)
        self.connections = (main, *map(self._connection_settings, self._servers.clients))
        self.scopes = CallScopes()
        self.prices = PriceTable(settings.prices, use_default=settings.use_default_prices)
        self.tool_policies = ToolPolicies(settings.name, self.log)
        self.runtime_settings = SettingsTable(settings.name, self.log)
        self.tier_rules: list[TierRules] = []
        self.kv_options: dict[str, TierOptions] = {}
        self.owners: dict[str, object] = {}
        self.statistics = self.new_statistics()
        self.server: EmbeddedValkey | None = None
        self.faces: list[FaceParts] = []
        self._memory_of: bool | None = None

    def _connection_settings(self, client: Client) -> Settings:
        connection = checked(self.settings.connection, "connection", ConnectionOptions)
        resilience = checked(self.settings.resilience, "resilience", ResilienceOptions)
        logins = Logins(resilience.breaker_pause, self.settings.clock.monotonic)
        return Settings.from_client(client, multiplexes=connection.multiplexed, logins=logins)

    def side_number(self, tier: str) -> int:
        """Return the place in ``connections`` of the server of the tier ``tier``; 0 is that of the main side."""
        return self._servers.numbers.get(tier, 0)

    def connection_of(self, client: Client) -> Settings:
        """Return the settings of connections to another server, that of ``client``."""
        return self._connection_settings(client)

    def claim_memory(self, *, is_sync: bool) -> None:
        """Let one face use the process memory of a cache whose main side has no server.

        Raises:
            UsageError: The other face has used it: the two faces would be two memories.
        """
        if self.connections[0] is not None:
            return
        if self._memory_of is None:
            self._memory_of = is_sync
        if self._memory_of != is_sync:
            reason = _OTHER_FACE["sync" if is_sync else "async"]
            raise UsageError(
                "a cache in process memory alone cannot be used from async and from plain code, because each would "
                f"have a memory of its own. {reason}, or give the cache a server by from_url or embedded"
            )

    # Statistics

    def new_statistics(self) -> StatsHash:
        """Return a statistics hash of which nothing has been sent yet."""
        totals = {
            "session:reads": lambda: sum(face.session.reads for face in self.faces),
            "session:writes": lambda: sum(face.session.writes for face in self.faces),
        }
        return StatsHash(self.settings.name, self._books, totals, self.log)

    def _books(self) -> Iterator[tuple[str, CounterBook]]:
        # The sequence only grows: a statistics hash knows each book by its number in it.
        for rules in tuple(self.tier_rules):
            if rules.tier in ("llm", "tool"):
                yield rules.tier, rules.counters
            elif rules.tier != "session":
                yield "kv", rules.counters

    @property
    def engines_in_use(self) -> list[Engine]:
        """The engines of all sides and faces that have a runtime, or the first one if none has."""
        engines = [engine for face in self.faces for engine in face.engines]
        return [engine for engine in engines if engine.runtime is not None] or engines[:1]

    @property
    def is_trusted(self) -> bool:
        """Whether the L1 of every face in use is known to have followed every change."""
        return all(engine.l1.trusted_until > engine.now() for engine in self.engines_in_use)

    @property
    def tracking(self) -> Literal["interest", "broadcast", "off"]:
        """How Valkey reports the changes of other clients; the least that a face in use has."""
        kinds = {engine.tracking for engine in self.engines_in_use} or {"off"}
        return "off" if "off" in kinds else "broadcast" if "broadcast" in kinds else "interest"

    @property
    def is_degraded(self) -> bool:
        """Whether the breaker of a face takes Valkey for unavailable."""
        return any(engine.is_degraded for engine in self.engines_in_use)
