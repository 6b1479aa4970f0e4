"""Settings at run time: options of tiers and tools that a program changes in Valkey, for all processes of a cache.

The hash ``{name}:__tc:settings`` has a field for each tier or tool with settings: ``tier:{tier}`` or ``tool:{tool}``.
The value is a JSON object with any of ``enabled`` (true or false), ``ttl``, ``stale_for`` (seconds) and ``cost``
(dollars). Readers ignore further members. They ignore a field of another form: its tier or tool then has no settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..engine.entries.entry import Group
from ..engine.entries.overrides import Overrides, Switches
from ..errors import UsageError
from ..log import CacheLog
from ..text import TIER_NAME, check_name, shown
from ..ttl import Ttl, check_ttl
from .shared_fields import SharedFields
from .values.wire import MOST_DOLLARS

__all__ = ["RuntimeSettings", "SettingsTable"]

_TIER: Final = "tier:"
_TOOL: Final = "tool:"
_LONGEST_SECONDS: Final = 100 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """The options of one tier or one tool that ``AgentCache.configure`` changes in all processes.

    Args:
        enabled: Whether the cache looks up and stores entries of the tier or tool. If not, each lookup is a miss, each
            load runs, and stores are accepted and dropped.
        ttl: Lifetime of entries that are stored from now on: seconds, a string such as ``"10m"``, or a timedelta. None
            leaves the choice to the options of the tier.
        stale_for: Seconds past its TTL for which L1 serves a value, 0 or more; see ``TierOptions``. A longer time
            counts for entries that reach L1 from now on, a shorter one at once. None leaves the choice to the options
            of the tier.
        cost: Dollars that a tool call costs which gives no cost itself, 0 to a million; only for the tool tier and its
            tools.

    Raises:
        UsageError: A setting is wrong.
    """

    enabled: bool = True
    ttl: Ttl | None = None
    stale_for: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise UsageError(f"RuntimeSettings.enabled must be True or False, not {shown(self.enabled)}")
        if self.ttl is not None:
            seconds = check_ttl(self.ttl, "RuntimeSettings.ttl")
            if seconds is None:
                raise UsageError("RuntimeSettings.ttl must be a lifetime in seconds, not NO_EXPIRY")
            object.__setattr__(self, "ttl", seconds)
        self._check("stale_for", "seconds from 0 to 100 years", _LONGEST_SECONDS)
        self._check("cost", "dollars from 0 to a million", MOST_DOLLARS)

    def _check(self, name: str, form: str, most: int) -> None:
        value = getattr(self, name)
        if value is not None and not (_is_number(value) and 0 <= value <= most):
            raise UsageError(f"RuntimeSettings.{name} must be {form}, not {shown(value)}")

    @property
    def seconds(self) -> float | None:
        """The ``ttl`` in seconds."""
        return self.ttl  # type: ignore[return-value]  # ``__post_init__`` has replaced the other forms.


class SettingsTable(SharedFields[RuntimeSettings]):
    """The settings of one cache, as this process knows them. Further attributes as for ``SharedFields``.

    Args:
        name: The cache's name.

    Attributes:
        switches: The tiers and tools that are disabled.
        on_disabled: Called, in any thread, with the groups of entries that were disabled just now.
    """

    kind = "settings"
    _complaint = "the settings in field %s are ignored, they cannot be read: %s"

    def __init__(self, name: str, log: CacheLog) -> None:
        super().__init__(f"{name}:__tc:settings", log)
        self.switches = Switches()
        self.on_disabled: list[Callable[[Sequence[Group]], None]] = []
        self._overrides: dict[str, Overrides] = {}

    def overrides(self, tier: str) -> Overrides:
        """Return the overrides of ``tier``, the same object in every call."""
        return self._overrides.setdefault(tier, Overrides())

    def of(self, tier: str, tool: str | None = None) -> RuntimeSettings | None:
        """Return the settings of a tier, or of a tool; None if it has no settings."""
        return self._known.get(_field(tier, tool))

    def is_off(self, tier: str) -> bool:
        """Return whether ``tier`` is disabled."""
        return Group("tier", tier) in self.switches.off

    def tool_ttl(self, tool: str) -> float | None:
        """Return the lifetime in seconds of the settings of ``tool``, or None."""
        settings = self._known.get(_TOOL + tool) if self._known else None
        return None if settings is None else settings.seconds

    def tool_cost(self, tool: str) -> float | None:
        """Return the dollars of a call of ``tool`` by its settings, or else by those of the tool tier, or None."""
        for field in (_TOOL + tool, _TIER + "tool") if self._known else ():
            settings = self._known.get(field)
            if settings is not None and settings.cost is not None:
                return settings.cost
        return None

    @staticmethod
    def field(tier: str, settings: RuntimeSettings | None, tool: str | None) -> str:
        """Return the field of a tier or tool.

        Raises:
            UsageError: There is no such tier, ``tool`` is given for another tier, or ``settings`` do not fit the tier.
        """
        if not isinstance(tier, str) or not TIER_NAME.fullmatch(tier):
            raise UsageError(f"tier must be llm, tool, kv, or the name of a kv tier, not {shown(tier)}")
        if tier == "session":
            raise UsageError("tier must not be session: sessions are state, which cannot be disabled or configured")
        if tool is not None:
            if tier != "tool":
                raise UsageError(f"tool must be None for the tier {shown(tier)}: only the tier tool has tools")
            check_name(tool, "tool")
            if ":" in tool:
                raise UsageError(f"tool must not contain ':', as {shown(tool)} does")
        if settings is not None and not isinstance(settings, RuntimeSettings):
            raise UsageError(f"settings must be RuntimeSettings or None, not {type(settings).__name__}")
        if settings is not None and settings.cost is not None and tier != "tool":
            raise UsageError(f"settings.cost must be None for the tier {shown(tier)}: only tool calls have such a cost")
        return _field(tier, tool)

    def _use(self, rules: dict[str, RuntimeSettings]) -> None:
        super()._use(rules)
        tiers = {field.removeprefix(_TIER): rule for field, rule in rules.items() if field.startswith(_TIER)}
        for tier in tiers:
            self.overrides(tier)
        for tier, overrides in list(self._overrides.items()):
            settings = tiers.get(tier)
            overrides.ttl = None if settings is None else settings.seconds
            overrides.stale_for = None if settings is None else settings.stale_for
        self.overrides("tool").stale_for_of_tools = {
            field.removeprefix(_TOOL): rule.stale_for
            for field, rule in rules.items()
            if field.startswith(_TOOL) and rule.stale_for is not None
        }
        off = frozenset(Group(*field.split(":", 1)) for field, rule in rules.items() if not rule.enabled)
        added = tuple(off - self.switches.off)
        # First the switch, then the drop: what enters L1 before the switch, the drop finds.
        self.switches.off = off
        if added:
            for drop in self.on_disabled:
                drop(added)

    def _encode(self, rule: RuntimeSettings) -> str:
        fields: dict[str, Any] = {} if rule.enabled else {"enabled": False}
        for name in ("ttl", "stale_for", "cost"):
            value = getattr(rule, name)
            if value is not None:
                fields[name] = int(value) if value == int(value) else value
        return json.dumps(fields, separators=(",", ":"))

    def _decode(self, field: str, value: bytes) -> RuntimeSettings | None:
        kind, _, name = field.partition(":")
        try:
            if kind not in ("tier", "tool"):
                return None
            self.field(name if kind == "tier" else kind, None, name if kind == "tool" else None)
            fields: Any = json.loads(value)
            return _settings(fields) if isinstance(fields, dict) else None
        # Not JSON, nested too deeply, a setting with a wrong value, or the field of no tier.
        except (ValueError, RecursionError):
            return None


def _settings(fields: dict[str, Any]) -> RuntimeSettings | None:
    ttl = fields.get("ttl")
    if ttl is not None and not _is_number(ttl):
        return None
    return RuntimeSettings(fields.get("enabled", True), ttl, fields.get("stale_for"), fields.get("cost"))


def _field(tier: str, tool: str | None) -> str:
    return f"{_TIER}{tier}" if tool is None else f"{_TOOL}{tool}"


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))
