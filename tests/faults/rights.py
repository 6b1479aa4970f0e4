"""The faults of permissions: each takes one right from the user while the caches are open."""

from __future__ import annotations

from typing import Final

from tests.faults.faults import UserChanged
from tests.faults.server import NAME

__all__ = ["COMMANDS", "RIGHTS"]

# Every command that a cache sends, and every command that its scripts call.
COMMANDS: Final = (
    *("get", "mget", "pttl", "set", "del", "delifeq", "eval", "eval_ro", "scan", "exists", "pexpire", "persist"),
    *("incr", "incrby", "getex", "getrange", "time", "info", "publish", "subscribe", "ping", "sadd", "srem"),
    *("hget", "hset", "hdel", "hgetall", "hincrby", "hkeys", "hexists", "hvals", "expire", "zadd", "zrem", "zscan"),
    *("sismember", "zscore", "zcard", "zrandmember", "zrangebyscore", "zremrangebyscore", "client|id"),
    *("xadd", "xread", "xtrim", "copy", "zrange", "hlen", "hrandfield"),
    *("client|kill", "client|tracking", "client|trackinginfo", "client|setname", "client|setinfo", "role"),
    *("setrange", "multi", "exec", "config|get", "pubsub|numsub", "unsubscribe"),
)
CATEGORIES: Final = ("@read", "@write", "@scripting", "@pubsub", "@all")
# Beginnings of keys, after the name of the cache.
KEYS: Final = (
    *("llm:", "tool:", "session:", "__tc:kv:", "__tc:idx:", "__tc:thread:", "__tc:sequence", "__tc:"),
    *("__stats", "__tool_policies"),
)


class RightRemoved(UserChanged):
    """A right of the user is taken away."""


def _right(name: str, *rules: str, delays_trust: bool = False) -> type[RightRemoved]:
    return type(name, (RightRemoved,), {"name": name, "rules": rules, "delays_trust": delays_trust})


def _command(command: str) -> type[RightRemoved]:
    name = f"`{command.replace('|', ' ').upper()}`" if command[0] != "@" else f"`{command}`"
    return _right(name, f"-{command}", delays_trust=command in ("subscribe", "@pubsub", "@all"))


def _all_but(prefix: str) -> list[str]:
    """Return the key patterns for every key of the cache, except keys that begin with ``prefix``."""
    full = f"{NAME}:{prefix}"
    return [f"~{full[:at]}[^{full[at]}]*" for at in range(len(NAME) + 1, len(full))]


RIGHTS: Final[tuple[type[RightRemoved], ...]] = (
    *map(_command, (*COMMANDS, *CATEGORIES)),
    *(_right(f"keys `{prefix}*`", "resetkeys", "~__betterdb:*", *_all_but(prefix)) for prefix in KEYS),
    _right("keys `__betterdb:*`", "resetkeys", f"~{NAME}:*"),
    _right("every key, to write it", "resetkeys", "%R~*"),
    _right("every key, to read it", "resetkeys", "%W~*"),
    _right("every key", "resetkeys"),
    _right("the channel of the cache", "resetchannels", "&__redis__:invalidate", delays_trust=True),
    _right("the channel `__redis__:invalidate`", "resetchannels", f"&{NAME}:__tc:bus:*"),
    _right("every channel", "resetchannels", delays_trust=True),
)
