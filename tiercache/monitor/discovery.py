"""Registration: how the Monitor finds a cache, and sees whether any process of it is alive.

``__betterdb:caches`` is a hash of markers by cache name, ``__betterdb:heartbeat:{name}`` a key that lives 60 s and is
rewritten every 30, ``__betterdb:protocol`` holds ``1``. Several processes share a name: each keeps a member in the
sorted set ``{name}:__tc:alive``, scored with its expiry by the server's clock, and only the last to leave takes the
heartbeat with it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from ..engine.level2.level2 import Level2
from ..engine.level2.replies import send
from ..errors import L2UnavailableError, TierCacheError, UsageError
from ..indexes.names import IndexNames

__all__ = ["Discovery"]

_LOGGER: Final = logging.getLogger("tiercache")
_TYPE: Final = "agent_cache"
_REGISTRY: Final = "__betterdb:caches"
_PROTOCOL: Final = "__betterdb:protocol"
_PROTOCOL_VERSION: Final = 1
_HEARTBEAT_SECONDS: Final = 60
_MOST_POLICIES: Final = 500
# What other software has left of itself is believed in for longer than it takes to rewrite its marker: 30 s.
_OTHERS_SECONDS: Final = 90

# KEYS: alive; ARGV: member, seconds to live.
_JOIN: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
# KEYS: alive, heartbeat; ARGV: member. In one step, so that nobody joins between the look and the delete.
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
    """The registration of one cache of this process.

    Args:
        name: The cache's.
        describe: Returns the parts of the marker that others know: tiers, prices, policies.

    Attributes:
        write_failed_count: Registrations and heartbeats that Valkey did not take.
        found: Whose marker the last registration found: "tiercache", "another" software's or "nobody"'s.
    """

    def __init__(self, name: str, describe: Callable[[], dict[str, Any]]) -> None:
        self._name = name
        self._describe = describe
        self._started_at = datetime.now(UTC).isoformat()
        self._alive = f"{name}:__tc:alive"
        self._heartbeat = f"__betterdb:heartbeat:{name}"
        self._member = secrets.token_hex(8)
        self._joined = False
        self._refusal_logged = False
        self.write_failed_count = 0
        self.found = "another"

    async def check(self, level2: Level2) -> None:
        """Refuse a name that something else than an agent cache is registered under.

        Raises:
            UsageError: It names what is there. A registry that cannot be read refuses nothing, and is counted.
        """
        try:
            (marker,) = await send(level2, [("HGET", _REGISTRY, self._name)])
        except TierCacheError as error:
            self._failed("read", error)
            return
        try:
            kind = json.loads(marker).get("type") if marker else None
        except (ValueError, AttributeError, RecursionError):
            return  # No marker that anybody could read; it is overwritten.
        if kind and kind != _TYPE:
            raise UsageError(f"name {self._name!r} is taken on this Valkey: a cache of type {kind!r} is registered")

    async def beat(self, level2: Level2) -> bool:
        """Write marker, protocol, membership and heartbeat; return False, having counted it, if that failed."""
        commands: list[tuple[str | bytes | int | float, ...]] = [
            ("EVAL", _JOIN, 1, self._alive, self._member, _HEARTBEAT_SECONDS),
            IndexNames.of(self._name).command(
                "register", self._name, json.dumps(self._marker()), _OTHERS_SECONDS * 1000
            ),
            ("SET", _PROTOCOL, _PROTOCOL_VERSION, "NX"),
            ("SET", self._heartbeat, datetime.now(UTC).isoformat(), "EX", _HEARTBEAT_SECONDS),
        ]
        try:
            _, found, *_ = await send(level2, commands)
        except TierCacheError as error:
            self._failed("written", error)
            return False
        self._joined = True
        self.found = found.decode()
        return True

    async def leave(self, level2: Level2) -> None:
        """Take this process out, and the heartbeat with it if it was the last."""
        if not self._joined:
            return
        self._joined = False
        try:
            await send(level2, [("EVAL", _LEAVE, 2, self._alive, self._heartbeat, self._member)])
        except TierCacheError as error:
            self._failed("left, its heartbeat runs out by itself", error)

    def _failed(self, what: str, error: TierCacheError) -> None:
        self.write_failed_count += 1
        # An outage is said by the breaker; a refusal, for want of permission, would be said by nobody.
        level = logging.DEBUG if isinstance(error, L2UnavailableError) or self._refusal_logged else logging.WARNING
        self._refusal_logged |= level == logging.WARNING
        _LOGGER.log(level, "The registry of caches was not %s (counted): %s", what, error)

    def _marker(self) -> dict[str, Any]:
        described = self._describe()
        policies: list[str] = described.pop("tool_policies")
        marker = {
            "type": _TYPE,
            "prefix": self._name,
            "version": _version(),
            "protocol_version": _PROTOCOL_VERSION,
            "capabilities": ["tool_ttl_adjust", "invalidate_by_tool", "tool_effectiveness"],
            "stats_key": f"{self._name}:__stats",
            **described,
            "started_at": self._started_at,
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "tool_policies": policies[:_MOST_POLICIES],
            "engine": "tiercache",
        }
        if len(policies) > _MOST_POLICIES:
            marker["tool_policies_truncated"] = True
        return marker


def _version() -> str:
    try:
        return version("tiercache")
    except PackageNotFoundError:
        return "0"
