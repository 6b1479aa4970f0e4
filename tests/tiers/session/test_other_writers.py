"""Session fields that another program wrote: betterdb-agent-cache, undecodable values, a full server."""

from __future__ import annotations

import betterdb_agent_cache as betterdb
import pytest
import valkey

from tests.peers import betterdb_cache
from tests.tiers.session.threads import key_of, ttls_of
from tiercache import AgentCache, L2CommandError


async def test_session_shares_fields_with_betterdb(
    peer: betterdb.AgentCache, cache: AgentCache, plain: valkey.Valkey
) -> None:
    await peer.session.set("thread-1", "theirs:x", "é", 60)
    await cache.session.set("thread-1", "ours", "👍🏽", ttl=60)
    assert await cache.session.get("thread-1", "theirs:x") == "é"
    assert await peer.session.get("thread-1", "ours") == "👍🏽"
    both = {"theirs:x": "é", "ours": "👍🏽"}
    assert await cache.session.get_all("thread-1", sweep=True) == both
    # The methods of the peer for whole threads need a client that decodes replies.
    async with betterdb_cache(cache_url(plain), decode_responses=True) as decoding:
        assert await decoding.session.get_all("thread-1") == both
        assert await decoding.session.destroy_thread("thread-1") == 2
    assert await cache.session.get("thread-1", "ours", fresh=True) is None
    assert await cache.session.get_all("thread-1") == {}


def cache_url(plain: valkey.Valkey) -> str:
    kwargs = plain.connection_pool.connection_kwargs
    return f"unix://{kwargs['path']}" if "path" in kwargs else f"valkey://{kwargs['host']}:{kwargs['port']}"


@pytest.mark.parametrize("junk", [b"\xff", None], ids=["not UTF-8", "not a string"])
async def test_session_counts_undecodable_field_as_miss_and_replaces_it(
    cache: AgentCache, plain: valkey.Valkey, junk: bytes | None
) -> None:
    def spoil(field: str) -> None:
        if junk is None:
            plain.hset(key_of("t", field), "a", "b")
        else:
            plain.set(key_of("t", field), junk)

    spoil("a")
    assert await cache.session.get("t", "a") is None
    assert cache.local_stats().tiers["session"].undecodable == 1
    assert await cache.session.get_all("t", sweep=True) == {}
    assert await cache.session.touch("t", sweep=True) == 1
    assert await cache.session.get_or_load("t", "a", lambda: "repaired") == "repaired"
    assert plain.get(key_of("t", "a")) == b"repaired"
    spoil("b")
    await cache.session.set("t", "b", "repaired")
    assert await cache.session.get_all("t") == {"a": "repaired", "b": "repaired"}


async def test_session_skips_field_with_non_utf8_name_and_destroys_it(cache: AgentCache, plain: valkey.Valkey) -> None:
    plain.set(b"test:session:t:\xff", "x")
    assert await cache.session.get_all("t", sweep=True) == {}
    assert await cache.session.destroy_thread("t", sweep=True) == 1
    assert plain.exists(b"test:session:t:\xff") == 0


async def test_session_reads_and_deletes_when_server_is_out_of_memory(cache: AgentCache, plain: valkey.Valkey) -> None:
    for thread in ("t", "u"):
        plain.set(key_of(thread, "foreign"), "x")
    await cache.session.set("t", "own", "x", ttl=100)
    plain.pexpire(key_of("t", "own"), 5000)
    plain.config_set("maxmemory", 1)
    try:
        assert await cache.session.get_all("t", sweep=True) == {"own": "x", "foreign": "x"}
        assert plain.pttl(key_of("t", "own")) > 99_000
        assert await cache.session.get_all("u", sweep=True) == {"foreign": "x"}
        for change in (
            lambda: cache.session.set("t", "n", "1"),
            lambda: cache.session.incr("t", "n"),
            lambda: cache.session.append("t", "n", 1),
        ):
            with pytest.raises(L2CommandError, match="maxmemory"):
                await change()
        assert "n" not in ttls_of(plain, "t")
        assert await cache.session.destroy_thread("t", sweep=True) == 2
    finally:
        plain.config_set("maxmemory", 0)
