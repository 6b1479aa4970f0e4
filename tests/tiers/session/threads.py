"""The keys of a thread in Valkey."""

from __future__ import annotations

from typing import Any

import valkey

from tiercache import AgentCache


def windows(plain: valkey.Valkey, thread: str, name: str = "test") -> dict[str, int]:
    """The thread's hash."""
    return {field.decode(): int(window) for field, window in plain.hgetall(f"{name}:__tc:thread:{thread}").items()}


def key_of(thread: str, field: str) -> str:
    return f"test:session:{thread}:{field}"


def expire_calls(plain: valkey.Valkey) -> int:
    stats = plain.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("expire", "pexpire", "pexpireat"))


def left(plain: valkey.Valkey, field: str) -> Any:
    return plain.pttl(f"test:session:t:{field}")


async def change_all(cache: AgentCache, **options: Any) -> None:
    await cache.session.append("t", "list", 1, **options)
    await cache.session.incr("t", "n", **options)
    await cache.session.compare_and_set("t", "text", await cache.session.get("t", "text"), "x", **options)
