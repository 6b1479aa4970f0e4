"""A process of the soak whose cache breaks one promise after the other; the soak must notice each of them."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from tests.seams import replace_public
from tiercache.testing.soak import worker
from tiercache.tiers.kv.tier import KvTier
from tiercache.tiers.llm.tier import LlmTier
from tiercache.tiers.session.tier import SessionTier
from tiercache.tiers.tool.tier import ToolTier

_tasks: list[asyncio.Task[None]] = []


def _break(monkeypatch: Any) -> None:
    get, check, session_get = KvTier.get, LlmTier.check, SessionTier.get
    calls = iter(range(sys.maxsize))

    async def get_of_another_key(tier: KvTier, key: str, default: Any = None) -> Any:
        """Return the value of another key."""
        return await get(tier, "0", default)

    async def check_and_leak(tier: LlmTier, params: Any) -> Any:
        """Leave a task and a descriptor behind, and let an exception go its own way."""
        if next(calls) < 5:
            _tasks.append(asyncio.create_task(asyncio.sleep(3600), name="leaked"))
            os.dup(0)
            asyncio.get_running_loop().call_soon(_raise)
        return await check(tier, params)

    async def invalidate_nothing(*_: object) -> bool:
        """Acknowledge an invalidation that did not happen."""
        return True

    async def get_and_raise(tier: SessionTier, thread_id: str, field: str, *, fresh: bool = False) -> str | None:
        """Raise an error that no caller expects, and write to standard error."""
        value = await session_get(tier, thread_id, field, fresh=fresh)
        if fresh:
            print("lost", file=sys.stderr)
            raise KeyError("lost")
        return value

    replace_public(monkeypatch, KvTier, "get", get_of_another_key)
    replace_public(monkeypatch, LlmTier, "check", check_and_leak)
    for tier, method in ((ToolTier, "invalidate"), (LlmTier, "invalidate"), (KvTier, "delete")):
        replace_public(monkeypatch, tier, method, invalidate_nothing)
    replace_public(monkeypatch, SessionTier, "get", get_and_raise)


def _raise() -> None:
    raise RuntimeError("no caller catches this")


if __name__ == "__main__":
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        _break(patch)
        worker.main()
