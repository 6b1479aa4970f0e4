"""The assembly: builds the parts of a cache from its options. No connection is made and no task is started here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

from .engine.coherence.placeholders import is_placeholder
from .engine.entries.counters import OTHER
from .engine.entries.entry import Group
from .engine.entries.rules import Codec, TierRules
from .engine.memory.loaders import RunPlain
from .errors import UsageError
from .options import CoherenceOptions, ResilienceOptions, TelemetryOptions, WriteOptions
from .scopes import KeyScopes
from .settings import checked, freshness_of, llm_options, session_options, tier_options
from .shared_parts import FaceParts, SharedParts
from .side import Side, SideCalls, Sides
from .telemetry import names
from .telemetry.prometheus import CacheCollector, report
from .telemetry.source import CacheSource
from .text import TIER_NAME, shown
from .tier_options import LlmOptions, SessionOptions, TierOptions
from .tiers.checkpoints.tier import CheckpointTier
from .tiers.conversations.in_memory import MemoryConversations
from .tiers.conversations.in_valkey import ValkeyConversations
from .tiers.conversations.key import ConversationKeys
from .tiers.conversations.store import Conversations
from .tiers.items.in_memory import MemoryItems
from .tiers.items.in_valkey import ValkeyItems
from .tiers.items.key import StoreKeys
from .tiers.items.store import ItemStore
from .tiers.keys.key import groups_of_model
from .tiers.kv.entry import KvCodec, shared_kv
from .tiers.kv.tier import KvTier
from .tiers.llm.codec import LlmCodec
from .tiers.llm.entry import LlmEntry
from .tiers.llm.exchanges import Exchanges
from .tiers.llm.key import LlmKeys
from .tiers.llm.tier import LlmTier
from .tiers.session.active import ActiveThreads
from .tiers.session.entry import SessionCodec
from .tiers.session.exact_active import ExactActive
from .tiers.session.tier import SessionTier
from .tiers.stored import StoredEntries
from .tiers.tool.entry import ToolCodec, shared_tool
from .tiers.tool.tier import ToolTier
from .tiers.values.compression import Compression

__all__ = ["Assembly"]

# Makes of an entry the form in which every caller gets the same object.
_SHARED: Final[dict[type, Callable[[Any], Any]]] = {KvCodec: shared_kv, ToolCodec: shared_tool}


class Assembly:
    """The parts of one face of a cache.

    Args:
        shared: The parts that the faces of the cache share.
        run_plain: Calls the plain loaders of the sync face; None makes the async face.

    Attributes:
        sides: The servers, or the process memory, that keep the tiers, each with its engine.
        log: The log of the cache.
        llm, tool, session, checkpoints: The tiers; ``kv_tier`` returns the kv tiers.
        exchanges: The exchanges of the llm tier.
        shared: See the arguments.
    """

    def __init__(self, shared: SharedParts, *, run_plain: RunPlain | None = None) -> None:
        settings = shared.settings
        self.shared = shared
        self._settings = settings
        self._name = name = settings.name
        self._is_sync = run_plain is not None
        self.log = shared.log
        self._coherence = checked(settings.coherence, "coherence", CoherenceOptions)
        self._writes = checked(settings.writes, "writes", WriteOptions)
        self._resilience = checked(settings.resilience, "resilience", ResilienceOptions)
        telemetry = checked(settings.telemetry, "telemetry", TelemetryOptions)
        self._tool_policies = shared.tool_policies
        self._own_rules: list[TierRules] = []
        calls = SideCalls(self._describe, StoredEntries(self._model_of), self._on_start, run_plain)
        self.sides = Sides(shared, calls)
        for engine in self.sides.engines:
            shared.runtime_settings.on_disabled.append(engine.face.drop_groups)
        self.tool = self._new_tool_tier()
        self.llm = self._new_llm_tier()
        self.exchanges = self._new_exchanges()
        session_rules = self._session_rules = self._new_session_rules()
        self._state_side = state_side = self._side("session")
        self._active = ActiveThreads()
        if state_side.has_server and session_options(settings.session).exact_active:
            state_side.jobs["active threads"] = ExactActive(self._active, name, settings.clock.monotonic).send
        state_engine, in_memory = state_side.engine, not state_side.has_server
        self.checkpoints = CheckpointTier(state_engine, session_rules, name, in_memory=in_memory)
        parts = session_rules, self._active, self.checkpoints
        self.session = SessionTier(state_engine, name, *parts, in_memory=in_memory)
        self._kv_tiers: dict[str, KvTier] = {}
        self._item_stores: dict[str, ItemStore] = {}
        self._conversations: dict[str, Conversations] = {}
        self.kv_tier("kv", settings.kv)
        shared.faces.append(FaceParts(self._is_sync, self.sides.engines, self.session))
        self._source = self._new_source()
        self._collector = self._report(telemetry) if telemetry.metrics else None

    def new_sync_face(self, run_plain: RunPlain) -> Assembly:
        """Return the parts of the sync face of the same cache. Call it once, on the async face.

        Args:
            run_plain: Calls the plain loaders.
        """
        face = Assembly(self.shared, run_plain=run_plain)
        self.sides.pair(face.sides)
        self._active.pair(face._active)
        return face

    # The sides

    def _side(self, tier: str) -> Side:
        """Return the side that keeps the tier ``tier``."""
        return self.sides[self.shared.side_number(tier)]

    async def open(self) -> None:
        """Open every side; close everything again if that fails or is cancelled. Errors as for ``AgentCache.open``."""
        try:
            await self.sides.open()
        except BaseException:
            if all(engine.runtime is None for face in self.shared.faces for engine in face.engines):
                await self.stop_server()
            raise

    async def aclose(self) -> None:
        """Close the sides of this face, and report the face to Prometheus no longer."""
        await self.sides.aclose()
        self._leave_collector()

    def close_unused(self) -> bool:
        """Close the sides without an event loop; return False, and change nothing, if one is in use."""
        is_closed = self.sides.close_unused()
        if is_closed:
            self._leave_collector()
        return is_closed

    @property
    def drain_timeout(self) -> float:
        """The most seconds for which the end of the engine waits for loads and writes."""
        return self._resilience.drain_timeout

    def _leave_collector(self) -> None:
        if self._collector is not None:
            self._collector.leave(self._source)

    async def stop_server(self) -> None:
        """Stop the private Valkey of an embedded cache, once no face uses it."""
        if self.shared.server is not None:
            await asyncio.to_thread(self.shared.server.stop)

    # The tiers

    def _new_tool_tier(self) -> ToolTier:
        options = tier_options(self._settings.tool, "tool")
        codec = ToolCodec(self._compression(options, as_text=True))
        rules = self._new_rules("tool", options, codec)
        return ToolTier(self._side("tool").engine, rules, self._tool_policies, self.shared.runtime_settings, self._name)

    def _new_llm_tier(self) -> LlmTier:
        options = llm_options(self._settings.llm)
        codec = LlmCodec(self._compression(options, as_text=True))
        rules = self._new_rules("llm", options, codec, finish_abandoned=True, groups_of=_groups_of(options))
        keys = LlmKeys(f"{self._name}:llm:", ignore=options.ignore, transform=options.key)
        return LlmTier(self._side("llm").engine, rules, keys, self.shared.prices, self._name)

    def _new_exchanges(self) -> Exchanges:
        options, rules = llm_options(self._settings.llm), self._rules_of("llm")
        given = self._side("llm").engine, rules, self.shared.prices, self._name, self._coherence
        return Exchanges(
            *given,
            # A whole answer is paid for in any case. A stream that no reader wants costs until it ends.
            streams_finish=options.on_abandon == "finish",
        )

    def _new_session_rules(self) -> TierRules:
        return self._new_rules("session", session_options(self._settings.session), SessionCodec(), is_state=True)

    def kv_tier(self, name: str, options: TierOptions | None = None) -> KvTier:
        """Return the kv tier ``name``, made now or earlier. Arguments and errors as for ``AgentCache.tier``."""
        if not isinstance(name, str) or not TIER_NAME.fullmatch(name) or name in ("llm", "tool", "session"):
            raise UsageError(
                f"name must be 1 to 128 of A-Z a-z 0-9 _ - and not llm, tool or session, which are tiers already, "
                f"not {shown(name)}"
            )
        given = None if options is None else tier_options(options, name)
        # A plain str: the cache keeps no object of the caller's. The other face may have made the tier.
        name = str.__str__(name)
        known = self.shared.kv_options.setdefault(name, given or TierOptions())
        if given is not None and given != known:
            raise UsageError(f"the tier {name!r} has been made with other options: {known}")
        made = self._kv_tiers.get(name)
        if made is None:
            codec = KvCodec(self._compression(known, as_text=False))
            # Any thread may make a tier of the sync face: the first one counts.
            tier = KvTier(self._side(name).engine, self._new_rules(name, known, codec), self._name)
            made = self._kv_tiers.setdefault(name, tier)
        return made

    def items(self, store: str) -> ItemStore:
        """Return the item store ``store``, made now or earlier. Errors as for ``StoreKeys``."""
        keys = StoreKeys(self._name, store)
        made = self._item_stores.get(store)
        if made is None:
            kind = ValkeyItems if self._state_side.has_server else MemoryItems
            # Any thread may make a store of the sync face: the first one counts.
            made = self._item_stores.setdefault(store, kind(self._state_side.engine, keys))
        return made

    def conversations(self, store: str) -> Conversations:
        """Return the store of conversations ``store``, made now or earlier. Errors as for ``ConversationKeys``."""
        keys = ConversationKeys(self._name, store)
        made = self._conversations.get(store)
        if made is None:
            kind = ValkeyConversations if self._state_side.has_server else MemoryConversations
            made = self._conversations.setdefault(store, kind(self._state_side.engine, self._session_rules, keys))
        return made

    def _new_rules(
        self,
        tier: str,
        options: TierOptions | SessionOptions,
        codec: Codec,
        *,
        finish_abandoned: bool = False,
        groups_of: Callable[[Any], tuple[Group, ...]] | None = None,
        is_state: bool = False,
    ) -> TierRules:
        of_tier = options if isinstance(options, TierOptions) else TierOptions()
        has_server = self._side(tier).has_server
        rules = TierRules(
            tier=tier,
            codec=codec,
            ttl=options.ttl if options.ttl is not None else self._settings.default_ttl,
            l1=options.l1 and self.shared.keeps_copies,
            # A copy in L1 must not outlive Valkey's entry. Without Valkey there is no other entry.
            l1_ttl=math.inf if options.l1_ttl is None or not has_server else float(options.l1_ttl),
            jitter=of_tier.jitter,
            lease=of_tier.lease and has_server,
            finish_abandoned=finish_abandoned if options.on_abandon is None else options.on_abandon == "finish",
            # Other than a whole answer, a stream that no reader wants costs until it ends.
            streams_finish=options.on_abandon == "finish",
            groups_of=groups_of,
            store_when=of_tier.store_when,
            admit=of_tier.admit,
            threads=of_tier.threads,
            shared=_SHARED.get(type(codec)) if of_tier.share else None,
            is_state=is_state,
            on_error=of_tier.on_error,
            max_value_bytes=options.max_value_bytes,
            writes_behind=self._writes.mode == "behind" and tier in ("llm", "tool"),
            scopes=KeyScopes(self.shared.scopes, of_tier.scope),
            freshness=freshness_of(of_tier) if options.l1 else None,
            overrides=self.shared.runtime_settings.overrides(tier),
            owner=self.shared.owners.setdefault(tier, object()),
        )
        if rules.freshness is not None and rules.freshness.outlives_valkey:
            self._side(tier).engine.l1.announcements.require()
        self._own_rules.append(rules)
        self.shared.tier_rules.append(rules)
        return rules

    def _compression(self, options: TierOptions, *, as_text: bool) -> Compression:
        return Compression(
            above=options.compress_above, max_bytes=options.max_value_bytes, as_text=as_text, log=self.log
        )

    # Statistics and telemetry

    def _new_source(self) -> CacheSource:
        shared, sides = self.shared, self.sides
        fields = self._tool_policies, shared.runtime_settings
        # The async face reports the tiers of both faces, and the numbers that the faces have together.
        source = CacheSource(self._name, sides.engines, () if self._is_sync else shared.tier_rules, self.log)
        source.counters[names.DISCOVERY_WRITE_FAILED.name] = lambda: sides.unwritten_registrations
        if self._is_sync:
            for metric in (names.L1_TRUSTED, names.BREAKER_OPEN):
                del source.gauges[metric.name]
            return source
        session = self.session
        source.gauges[names.L1_TRUSTED.name] = lambda: shared.is_trusted
        source.gauges[names.BREAKER_OPEN.name] = lambda: shared.is_degraded
        source.gauges[names.ACTIVE_SESSIONS.name] = lambda: session.active_count
        source.counters[names.CONFIG_REFRESH_FAILED.name] = lambda: sum(each.refresh_failed_count for each in fields)
        return source

    def _report(self, options: TelemetryOptions) -> CacheCollector | None:
        return report(
            self._source, registry=options.registry, prefix=options.metrics_prefix, max_labels=options.max_labels
        )

    def _on_start(self, number: int) -> None:
        if number == 0:
            self.shared.claim_memory(is_sync=self._is_sync)
        if self._collector is not None:
            self._collector.start(self._source)

    def policy_ttl(self, tool: str) -> int | None:
        """Return the seconds of a tool's policy, or None if the tool has no policy."""
        policy = self._tool_policies.get(tool)
        return None if policy is None else int(policy.ttl)  # type: ignore[arg-type]

    def tool_ttl(self, tool: str) -> float | None:
        """Return the lifetime of a tool's results in seconds, or None for no expiry."""
        ttl = self.shared.runtime_settings.tool_ttl(tool)
        if ttl is None:
            ttl = self.policy_ttl(tool)
        return self._rules_of("tool").default_lifetime() if ttl is None else ttl

    def _model_of(self, data: bytes) -> str | None:
        rules = self._rules_of("llm")
        assert isinstance(rules.codec, LlmCodec)
        model = rules.codec.model_of(data)
        # No lookup has read the entry, so that no model is known for it.
        rules.counters.of(OTHER).undecodable += model is None and not is_placeholder(data)
        return model

    def _rules_of(self, tier: str) -> TierRules:
        return next(rules for rules in self._own_rules if rules.tier == tier)

    def _describe(self, number: int) -> dict[str, Any]:
        """Return the fields of the registration on a side that depend on the cache's options.

        The main side has the statistics of all tiers. Another side shows its own tiers alone as enabled.
        """
        is_off, side_of = self.shared.runtime_settings.is_off, self.shared.side_number
        tiers: dict[str, Any] = {
            tier: {"enabled": number in (0, side_of(tier)) and not is_off(tier)} for tier in ("llm", "tool", "session")
        }
        for rules in self._own_rules:
            ttl = rules.default_lifetime()
            if rules.tier in tiers and ttl is not None:
                tiers[rules.tier]["ttl_default"] = math.ceil(ttl)
        return {
            "tiers": tiers,
            "has_cost_table": self.shared.prices.has_prices,
            "uses_default_cost_table": self.shared.prices.uses_default,
            "tool_policies": self._tool_policies.names(),
        }


def _groups_of(options: LlmOptions) -> Callable[[LlmEntry], tuple[Group, ...]] | None:
    """A key function may let requests for several models share an answer; the answer's own model then counts."""
    return None if options.key is None else lambda entry: groups_of_model(entry.model)
