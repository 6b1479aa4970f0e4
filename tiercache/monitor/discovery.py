"""Registration: BetterDB Monitor finds a cache in Valkey, and sees whether any process of the cache is alive.

``__betterdb:caches`` is a hash of markers by cache name. ``__betterdb:heartbeat:{name}`` is a key that lives 60 s and
that a process rewrites every 30 s. ``__betterdb:protocol`` holds ``1``. Several processes share a name: each process
keeps a member in the sorted set ``{name}:__tc:alive``, scored with its expiry by the server's clock, and only the last
process to leave deletes the heartbeat.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from ..engine.level2.level2 import Level2
from ..engine.level2.replies import send
from ..errors import PASSING, TierCacheError, UsageError
from ..indexes.names import IndexNames
from ..log import CacheLog
from ..text import shown
from ..version import __version__
from .applications import DEFAULT_NAME, new_member, warn_of_other_application

__all__ = ["Discovery"]

_TYPE: Final = "agent_cache"
_ENGINE: Final = "tiercache"
_REGISTRY: Final = "__betterdb:caches"
_PROTOCOL: Final = "__betterdb:protocol"
_PROTOCOL_VERSION: Final = 1
_HEARTBEAT_SECONDS: Final = 60
_MAX_POLICIES: Final = 500
# The trace of other software lives longer than the 30 s in which that software rewrites its marker.
_OTHERS_SECONDS: Final = 90

# KEYS: alive; ARGV: member, seconds to live.
_JOIN: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
# KEYS: heartbeat; ARGV: time, seconds to live. The server reports each write to every process.
# So a write follows only after a quarter of its life, and a fleet makes four a minute, however many processes it has.
_BEAT: Final = """
if redis.call('PTTL', KEYS[1]) > ARGV[2] * 750 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
# KEYS: alive, heartbeat; ARGV: member. One script, so that no process can join between the count and the delete.
_LEAVE: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) == 0 then
    return redis.call('DEL', KEYS[2])
end
return 0
"""


class Discovery:
    """The registration of one cache by this process.

    Args:
        name: The cache's name.
        describe: Returns the parts of the marker that other modules know: tiers, prices, policies.
        log: The cache's log.

    Attributes:
        heartbeat: The key of the heartbeat.
        write_failed_count: Registrations, heartbeats and reads of the registry that Valkey did not carry out.
        found: Owner of the marker that the last registration replaced: ``"tiercache"``, ``"another"`` for other
            software, or ``"nobody"`` if there was no marker.
    """

    def __init__(self, name: str, describe: Callable[[], dict[str, Any]], log: CacheLog) -> None:
        self._name = name
        self._describe = describe
        self._log = log
        self._started_at = datetime.now(UTC).isoformat()
        self._alive = f"{name}:__tc:alive"
        self.heartbeat = f"__betterdb:heartbeat:{name}"
        self._member = new_member()
        self._joined = False
        self._refusal_logged = False
        self.write_failed_count = 0
        self.found = "another"

    async def check(self, level2: Level2) -> None:
        """Refuse a name that is registered for another kind of cache.

        A registry that cannot be read refuses no name; the failure is counted.

        Raises:
            UsageError: The name is registered; the message has the other kind.
        """
        try:
            (marker,) = await send(level2, [("HGET", _REGISTRY, self._name)])
        except TierCacheError as error:
            self._count_failure("cannot read the registry of caches", error)
            return
        if self._name == DEFAULT_NAME:
            await warn_of_other_application(level2, self._alive, self._log)
        # A marker that no software can read may be overwritten by the registration.
        kind = _field_of(marker, "type")
        if isinstance(kind, str) and kind and kind != _TYPE:
            raise UsageError(
                f"cannot use the name {self._name!r} on this Valkey: a cache of type {shown(kind)} is registered under "
                "it; choose another name"
            )

    async def beat(self, level2: Level2) -> bool:
        """Write marker, protocol, membership and heartbeat; return False, with the failure counted, if that failed."""
        commands: list[tuple[str | bytes | int | float, ...]] = [
            ("EVAL", _JOIN, 1, self._alive, self._member, _HEARTBEAT_SECONDS),
            IndexNames.of(self._name).command(
                "register", self._name, json.dumps(self._marker()), _OTHERS_SECONDS * 1000
            ),
            ("SET", _PROTOCOL, _PROTOCOL_VERSION, "NX"),
            ("EVAL", _BEAT, 1, self.heartbeat, datetime.now(UTC).isoformat(), _HEARTBEAT_SECONDS),
        ]
        # Before the answer: a cancelled registration may have reached Valkey, and ``leave`` must remove it.
        self._joined = True
        try:
            _, found, *_ = await send(level2, commands)
        except TierCacheError as error:
            self._count_failure("cannot write the registry of caches", error)
            return False
        self.found = found.decode()
        return True

    async def restore(self, level2: Level2) -> str | None:
        """Write the heartbeat if it is missing, and the whole registration if the marker is not one of tiercache.

        betterdb-agent-cache deletes the heartbeat when it closes, although other processes live on, and overwrites the
        marker while it lives.

        Returns:
            The owner of the replaced marker as in ``found``, or None if no marker was written.
        """
        now = datetime.now(UTC).isoformat()
        # NX: a heartbeat that is there stays unchanged, so that the server reports no change to the other processes.
        commands: list[tuple[str | bytes | int | float, ...]] = [
            ("HGET", _REGISTRY, self._name),
            ("SET", self.heartbeat, now, "NX", "EX", _HEARTBEAT_SECONDS),
        ]
        try:
            marker, _ = await send(level2, commands)
        except TierCacheError as error:
            self._count_failure("cannot restore the registration", error)
            return None
        if _field_of(marker, "engine") == _ENGINE or not await self.beat(level2):
            return None
        return self.found

    async def leave(self, level2: Level2) -> None:
        """Remove this process from the registry, and the heartbeat too if it was the last process."""
        if not self._joined:
            return
        self._joined = False
        try:
            await send(level2, [("EVAL", _LEAVE, 2, self._alive, self.heartbeat, self._member)])
        except TierCacheError as error:
            self._count_failure("cannot leave the registry of caches, so the heartbeat must expire by itself", error)

    def _count_failure(self, attempt: str, error: TierCacheError) -> None:
        self.write_failed_count += 1
        # The breaker logs an outage. No other part logs a refusal, for example for lack of permission.
        level = logging.DEBUG if isinstance(error, PASSING) or self._refusal_logged else logging.WARNING
        self._refusal_logged |= level == logging.WARNING
        self._log.log(level, "%s (counted as discovery_write_failed): %s", attempt, error)

    def _marker(self) -> dict[str, Any]:
        described = self._describe()
        policies: list[str] = described.pop("tool_policies")
        marker = {
            "type": _TYPE,
            "prefix": self._name,
            "version": __version__,
            "protocol_version": _PROTOCOL_VERSION,
            "capabilities": ["tool_ttl_adjust", "invalidate_by_tool", "tool_effectiveness"],
            "stats_key": f"{self._name}:__stats",
            **described,
            "started_at": self._started_at,
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "tool_policies": policies[:_MAX_POLICIES],
            "engine": _ENGINE,
        }
        if len(policies) > _MAX_POLICIES:
            marker["tool_policies_truncated"] = True
        return marker


def _field_of(marker: bytes | None, field: str) -> Any:
    """Return a field of a marker, or None if there is no marker, or none that can be read."""
    try:
        return json.loads(marker).get(field) if marker else None
    except (ValueError, AttributeError, RecursionError):
        return None
