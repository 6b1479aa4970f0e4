"""Tool policies: set by a cache or by the Monitor, read tolerantly, and never lost in a refresh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from tests.seams import HeldCommands, fail_commands, internals
from tiercache import NO_EXPIRY, AgentCache, L2UnavailableError, TierOptions, ToolPolicy, UsageError

MakeCache = Callable[..., AgentCache]
KEY = "test:__tool_policies"


async def ttl_of(cache: AgentCache, plain: valkey.Valkey, tool: str, **wish: Any) -> int:
    return int(plain.ttl(await cache.tool.store(tool, {}, "x", **wish)))


async def test_policy_is_written_to_valkey_and_overrides_tier_and_cache(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", default_ttl=100, tool=TierOptions(ttl=200))
    await cache.tool.set_policy("search", ToolPolicy(ttl=300))
    assert plain.hgetall(KEY) == {b"search": b'{"ttl":300}'}
    assert cache.tool.get_policy("search") == ToolPolicy(300)
    assert cache.tool.get_policy("other") is None
    assert await ttl_of(cache, plain, "search") == 300
    assert await ttl_of(cache, plain, "search", ttl=400) == 400
    assert await ttl_of(cache, plain, "other") == 200
    result = await cache.tool.get_or_load("search", {"n": 1}, lambda: "x")
    assert result.ttl == pytest.approx(300, abs=1)


async def test_policy_in_valkey_applies_to_the_first_store(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    plain.hset(KEY, "search", '{"ttl": 600, "proposed_by": "monitor"}')
    assert await ttl_of(make_cache(name="test"), plain, "search") == 600


async def test_policy_of_the_monitor_applies_after_a_refresh(cache: AgentCache, plain: valkey.Valkey) -> None:
    assert await ttl_of(cache, plain, "search") == -1
    plain.hset(KEY, "search", '{"ttl":600}')
    assert await cache.tool.refresh_policies()
    assert await ttl_of(cache, plain, "search") == 600
    plain.hdel(KEY, "search")
    assert await cache.tool.refresh_policies()
    assert await ttl_of(cache, plain, "search") == -1


BAD = [
    b"[1]", b"5", b"null", b'"600"', b"junk", b"", b"\xff", b"{}", b'{"ttl":0}', b'{"ttl":-5}', b'{"ttl":1.5}',
    b'{"ttl":"600"}', b'{"ttl":true}', b'{"ttl":null}', b'{"ttl":99999999999999}', b"[" * 100_000,
]  # fmt: skip


async def test_policy_that_is_malformed_is_counted_and_affects_no_other(
    cache: AgentCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.hset(KEY, mapping={f"bad{n}": value for n, value in enumerate(BAD)})
    plain.hset(KEY, b"\xff", '{"ttl":5}')
    plain.hset(KEY, "good", '{"ttl":600}')
    for _ in range(3):
        assert await cache.tool.refresh_policies()
    assert cache.tool.get_policy("good") == ToolPolicy(600)
    assert all(cache.tool.get_policy(f"bad{n}") is None for n in range(len(BAD)))
    assert internals(cache).tool_policies.malformed_count == len(BAD) + 1
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(BAD) + 1  # Each field is logged once, and not at each refresh.


async def test_policy_set_during_a_refresh_is_kept(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh = HeldCommands(monkeypatch, "HGETALL")
    refreshing = asyncio.create_task(cache.tool.refresh_policies())
    await refresh.answered.wait()
    await cache.tool.set_policy("search", ToolPolicy(300))
    refresh.release.set()
    assert await refreshing
    assert cache.tool.get_policy("search") == ToolPolicy(300)


async def test_policy_of_an_overtaken_refresh_is_ignored(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = HeldCommands(monkeypatch, "HGETALL")
    refreshing = asyncio.create_task(cache.tool.refresh_policies())
    await refresh.answered.wait()
    plain.hset(KEY, "search", '{"ttl":600}')
    assert await cache.tool.refresh_policies()
    refresh.release.set()
    assert await refreshing
    assert cache.tool.get_policy("search") == ToolPolicy(600)


async def test_policy_stays_known_while_valkey_is_unavailable(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.tool.set_policy("search", ToolPolicy(300))

    with monkeypatch.context() as patch:
        fail_commands(patch)
        assert not await cache.tool.refresh_policies()
        with pytest.raises(L2UnavailableError):
            await cache.tool.set_policy("search", ToolPolicy(400))
    assert cache.tool.get_policy("search") == ToolPolicy(300)
    assert internals(cache).tool_policies.refresh_failed_count == 1


async def test_policy_works_without_valkey() -> None:
    async with AgentCache.in_memory() as cache:
        await cache.tool.set_policy("search", ToolPolicy("10m"))
        assert await cache.tool.refresh_policies()
        assert (await cache.tool.get_or_load("search", {}, lambda: "x")).ttl == pytest.approx(600, abs=1)


@pytest.mark.parametrize("ttl", [0, -1, 1.5, "x", None, NO_EXPIRY, True, "500ms"])
def test_policy_refuses_other_lifetimes_than_whole_seconds(ttl: Any) -> None:
    with pytest.raises(UsageError, match=r"ToolPolicy\.ttl must be"):
        ToolPolicy(ttl)


@pytest.mark.parametrize("tool", ["", "a:b", None])
async def test_policy_refuses_a_bad_tool_name(cache: AgentCache, plain: valkey.Valkey, tool: Any) -> None:
    with pytest.raises(UsageError, match="tool "):
        await cache.tool.set_policy(tool, ToolPolicy(5))
    with pytest.raises(UsageError, match="tool "):
        cache.tool.get_policy(tool)
    with pytest.raises(UsageError, match="policy must be"):
        await cache.tool.set_policy("t", {"ttl": 5})  # type: ignore[arg-type]
    assert not plain.exists(KEY)
