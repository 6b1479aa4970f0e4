"""The keys of a thread in Valkey, and a change of each kind."""

from __future__ import annotations

from typing import Any

import valkey

from tiercache import AgentCache


def ttls_of(plain: valkey.Valkey, thread: str, name: str = "test") -> dict[str, int]:
    """Return the hash of a thread: the TTL of each field in milliseconds, 0 for no expiry."""
    return {field.decode(): int(window) for field, window in plain.hgetall(f"{name}:__tc:thread:{thread}").items()}


def key_of(thread: str, field: str) -> str:
    """Return the key of a field."""
    return f"test:session:{thread}:{field}"


def expire_calls(plain: valkey.Valkey) -> int:
    """Return the number of commands that set an expiry."""
    stats = plain.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("expire", "pexpire", "pexpireat"))


def ttl_left_ms(plain: valkey.Valkey, field: str) -> Any:
    """Return the milliseconds that a field of thread "t" has left, -1 for no expiry."""
    return plain.pttl(f"test:session:t:{field}")


async def change_all(cache: AgentCache, **options: Any) -> None:
    """Change a field of thread "t" by ``append``, by ``incr`` and by ``compare_and_set``."""
    await cache.session.append("t", "list", 1, **options)
    await cache.session.incr("t", "n", **options)
    await cache.session.compare_and_set("t", "text", await cache.session.get("t", "text"), "x", **options)
