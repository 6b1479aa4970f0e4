"""The index of a thread: the hash of its fields and their TTLs."""

from __future__ import annotations

import valkey

from tests.support import entry_keys
from tests.tiers.session.threads import key_of, ttls_of
from tiercache import AgentCache


async def test_thread_index_expires_with_its_longest_field(cache: AgentCache, plain: valkey.Valkey) -> None:
    key = "test:__tc:thread:t"
    await cache.session.set("t", "a", "x", ttl=100)
    await cache.session.set("t", "b", "x", ttl=10)
    assert 99_000 < plain.pttl(key) <= 100_000
    await cache.session.set("t", "c", "x")
    assert plain.pttl(key) == -1
    await cache.session.set("t", "d", "x")
    await cache.session.delete("t", "c")
    assert plain.pttl(key) == -1
    await cache.session.set("t", "d", "x", ttl=20)
    assert 99_000 < plain.pttl(key) <= 100_000
    await cache.session.set("t", "e", "x")
    await cache.session.delete("t", "a")
    await cache.session.delete("t", "e")
    assert 19_000 < plain.pttl(key) <= 20_000


async def test_thread_index_forgets_missing_fields_when_used(cache: AgentCache, plain: valkey.Valkey) -> None:
    for field in ("a", "b", "c"):
        await cache.session.set("t", field, "x")
    plain.delete(key_of("t", "a"))
    assert await cache.session.get_all("t") == {"b": "x", "c": "x"}
    assert set(ttls_of(plain, "t")) == {"b", "c"}
    plain.delete(key_of("t", "b"))
    assert await cache.session.touch("t") == 1
    assert set(ttls_of(plain, "t")) == {"c"}
    plain.delete(key_of("t", "c"))
    assert await cache.session.destroy_thread("t") == 0
    assert entry_keys(plain) == []


async def test_thread_index_serves_whole_thread_methods_without_scan(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "a", "x")
    plain.config_resetstat()
    await cache.session.get_all("t")
    await cache.session.touch("t")
    await cache.session.destroy_thread("t")
    assert not {"cmdstat_scan", "cmdstat_keys"} & set(plain.info("commandstats"))


async def test_thread_index_contains_other_writers_field_after_read_or_sweep(
    cache: AgentCache, plain: valkey.Valkey
) -> None:
    for field in ("seen", "unseen"):
        plain.set(key_of("t", field), "x")
    await cache.session.set("t", "own", "x")
    assert await cache.session.get("t", "seen") == "x"
    await cache.flush_writes()
    assert await cache.session.get_all("t") == {"own": "x", "seen": "x"}
    assert await cache.session.touch("t") == 2
    assert await cache.session.touch("t", sweep=True) == 3
    plain.set(key_of("t", "another"), "x")
    assert set(await cache.session.get_all("t", sweep=True)) == {"own", "seen", "unseen", "another"}
    plain.set(key_of("t", "last"), "x")
    assert await cache.session.destroy_thread("t", sweep=True) == 5
    assert entry_keys(plain) == []
