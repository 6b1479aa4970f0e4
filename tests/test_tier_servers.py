"""Servers of single tiers: each tier on its own Valkey, and every call on the whole cache on all of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import valkey
import valkey.asyncio

from tests.every_operation import OPERATIONS
from tests.requests import HELLO
from tests.seams import internals, items_of, set_intervals
from tests.support import MakeCache, entry_keys, until
from tiercache import (
    AgentCache,
    L2UnavailableError,
    ResilienceOptions,
    RuntimeSettings,
    SessionOptions,
    TelemetryOptions,
    UsageError,
    WriteOptions,
)
from tiercache.embedded import EmbeddedValkey
from tiercache.tiers.items.store import Put

STATE_DB = 1


@pytest.fixture
def state(server: EmbeddedValkey, url: str) -> Iterator[valkey.Valkey]:
    """Return a client of another database of the server: channels and keys are its own."""
    with valkey.Valkey.from_url(f"{url}?db={STATE_DB}") as client:
        yield client


@pytest.fixture
def state_url(url: str) -> str:
    return f"{url}?db={STATE_DB}"


@pytest.fixture
async def make_split(make_cache: MakeCache, state_url: str) -> AsyncIterator[MakeCache]:
    """Return a function that makes caches whose sessions, and whose kv tier "embed", have a server of their own."""

    def make(**options: Any) -> AgentCache:
        return make_cache(**{"name": "test", "clients": {"session": state_url, "embed": state_url}, **options})

    return make


async def fill(cache: AgentCache) -> None:
    """Store an entry with the tag "t" in each tier that takes tags, and a field of a session."""
    await cache.llm.store(HELLO, "x", tags=["t"])
    await cache.tool.store("tool", {}, "x", tags=["t"])
    await cache.kv.set("k", 1, tags=["t"])
    await cache.tier("embed").set("e", 1, tags=["t"])
    await cache.session.set("thread", "field", "x")


async def stored(cache: AgentCache) -> Any:
    """Return the value of the entry that ``fill`` stores in the tier "embed", or None."""
    return await cache.tier("embed").get("e")


async def test_tier_keeps_entries_on_its_own_server(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey
) -> None:
    cache = make_split()
    await fill(cache)
    await cache.session.set("thread", "more", "y")
    assert {key.split(":")[1] for key in entry_keys(plain)} == {"llm", "tool", "__tc"}
    assert [key for key in entry_keys(plain) if ":kv:" in key]
    assert not [key for key in entry_keys(plain) if "embed" in key or "session" in key or "thread" in key]
    on_state = entry_keys(state)
    assert "test:session:thread:field" in on_state
    assert len([key for key in on_state if "embed" in key]) == 1
    assert not [key for key in on_state if ":llm:" in key or ":tool:" in key]
    cache.clear_l1()
    assert await stored(cache) == 1
    assert await cache.session.get("thread", "field") == "x"


async def test_framework_state_follows_the_session_tier(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey
) -> None:
    cache = make_split()
    await items_of(cache, "store").run([Put(("a",), "k", b"{}")])
    await OPERATIONS["conversations write"](cache)
    await OPERATIONS["checkpoints.put"](cache)
    assert entry_keys(plain) == []
    assert {key.split(":")[2] for key in entry_keys(state)} == {"conv", "cp", "cpr", "cps", "items"}


async def test_flush_covers_every_server_and_spares_sessions(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey
) -> None:
    cache, other = make_split(), make_split()
    await fill(cache)
    await cache.tool.pin("tool", {"a": 1}, "pinned")
    assert await stored(other) == 1
    assert await cache.flush() == 5
    assert entry_keys(plain) == []
    assert entry_keys(state) == ["test:__tc:thread:thread", "test:session:thread:field"]
    await until(lambda: other.local_stats().l1_entry_count == 0)
    assert await stored(other) is None
    assert await cache.flush(include_session=True) == 1
    assert entry_keys(state) == []


async def test_invalidate_tag_removes_entries_of_every_server_from_every_process(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey
) -> None:
    cache, other = make_split(), make_split()
    await fill(cache)
    assert (await other.llm.check(HELLO)).hit
    assert await stored(other) == 1
    assert await cache.invalidate_tag("t") == 4
    await until(lambda: other.local_stats().l1_entry_count == 0)
    for each in (cache, other):
        assert not (await each.llm.check(HELLO)).hit
        assert await stored(each) is None


@pytest.mark.parametrize("tier", ["kv", "embed"])
async def test_invalidates_bars_stores_on_every_server(make_split: MakeCache, tier: str) -> None:
    cache = make_split()
    began, release = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        began.set()
        await release.wait()
        return "from the old source"

    async with cache.invalidates("t"):
        loading = asyncio.create_task(cache.tier(tier).get_or_load("k", load, tags=["t"]))
        await began.wait()
        release.set()
        await loading
        assert await cache.tier(tier).get("k") is None


async def test_tiers_with_equal_urls_or_one_client_share_a_server(make_cache: MakeCache, url: str) -> None:
    client = valkey.asyncio.Valkey.from_url(f"{url}?db=2")
    cache = make_cache(
        name="test", clients={"a": f"{url}?db=1", "b": f"{url}?db=1", "session": client, "llm": client, "c": client}
    )
    await cache.open()
    with valkey.Valkey.from_url(url) as plain:
        databases = [int(each["db"]) for each in plain.client_list() if each["name"] == "tiercache:test"]
    usual = databases.count(0)
    assert usual > 0
    assert sorted(databases) == [0] * usual + [1] * usual + [2] * usual
    await client.aclose()


async def test_named_tier_without_client_stays_on_the_main_server(
    make_cache: MakeCache, plain: valkey.Valkey, state: valkey.Valkey, state_url: str
) -> None:
    cache = make_cache(name="test", clients={"kv": state_url})
    await cache.kv.set("k", 1)
    await cache.tier("other").set("o", 1)
    assert len(entry_keys(state)) == 1
    assert len(entry_keys(plain)) == 1


async def test_statistics_of_every_server_stand_in_the_main_hash(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey
) -> None:
    cache = make_split()
    await fill(cache)
    await cache.tier("embed").get("e")
    await cache.session.get("thread", "field")
    stats = await cache.stats()
    assert (stats.session.reads, stats.session.writes) == (1, 1)
    assert plain.exists("test:__stats")
    assert not state.exists("test:__stats")


async def test_first_use_of_another_server_opens_the_main_one(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_intervals(monkeypatch, send=0.02)
    cache = make_split()
    # The main server's background worker sends the statistics of all servers, in every round.
    for count in range(1, 20):
        await cache.session.set("thread", "field", "x")
        await until(lambda count=count: plain.hget("test:__stats", "session:writes") == str(count).encode())
    assert not state.exists("test:__stats")


async def test_registration_shows_the_tiers_of_each_server(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey
) -> None:
    cache = make_split()
    await cache.open()

    def enabled(client: valkey.Valkey) -> list[str]:
        tiers = (
            json.loads(client.hget("__betterdb:caches", "test"))["capabilities"]
            and json.loads(client.hget("__betterdb:caches", "test"))["tiers"]
        )
        return [tier for tier, settings in tiers.items() if settings["enabled"]]

    assert enabled(plain) == ["llm", "tool", "session"]
    assert enabled(state) == ["session"]


async def test_setting_disables_tier_on_its_own_server_in_every_process(make_split: MakeCache) -> None:
    cache, other = make_split(), make_split()
    await cache.tier("embed").set("e", 1)
    assert await stored(other) == 1
    await cache.configure("embed", RuntimeSettings(enabled=False))

    async def is_disabled() -> bool:
        return await stored(other) is None

    assert await stored(cache) is None
    await until(is_disabled)
    await cache.configure("embed", None)
    assert await stored(cache) == 1


async def test_exact_number_of_active_threads_counts_on_the_server_of_sessions(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey
) -> None:
    cache = make_split(session=SessionOptions(exact_active=True))
    await cache.session.set("thread", "field", "x")
    await until(lambda: state.exists("test:__tc:active"))
    assert not plain.exists("test:__tc:active")


async def test_reindex_adds_entries_of_every_server(
    make_split: MakeCache, plain: valkey.Valkey, state: valkey.Valkey
) -> None:
    cache = make_split()
    await fill(cache)
    for client in (plain, state):
        client.delete(*[key for key in client.keys("test:__tc:*") if b":__tc:kv" not in key])
    # Three entries have a tag; the tool's has an index of its tool, and the session's field one of its thread.
    assert await cache.reindex() >= 5
    cache.clear_l1()
    assert await cache.invalidate_tag("t") == 4


# One server away


@pytest.fixture
async def with_own_state(make_cache: MakeCache, own_server: tuple[EmbeddedValkey, int]) -> tuple[AgentCache, int]:
    """Return a cache whose sessions, and whose tier "embed", are on a server that a test may stop; and its process."""
    server, pid = own_server
    clients = {"session": server.url, "embed": server.url}
    return make_cache(name="test", clients=clients, resilience=ResilienceOptions(l2_timeout=0.2)), pid


async def test_tiers_of_other_servers_work_while_one_is_away(with_own_state: tuple[AgentCache, int]) -> None:
    cache, pid = with_own_state
    await fill(cache)
    cache.clear_l1()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(L2UnavailableError):
        await cache.session.set("thread", "field", "y")
    assert (await cache.llm.check(HELLO)).source == "l2"
    await cache.kv.set("k", 2)
    assert (await cache.tier("embed").get_or_load("loaded", lambda: 3)).value == 3
    while not cache.local_stats().degraded:
        await cache.tier("embed").get("e")
    with pytest.raises(L2UnavailableError):
        await cache.invalidate_tag("t")
    # The servers that answered have removed their entries all the same.
    assert not (await cache.llm.check(HELLO)).hit
    os.kill(pid, signal.SIGCONT)
    await until(lambda: not cache.local_stats().degraded, 10)
    await until(lambda: cache.local_stats().trusted, 10)
    # The invalidation is repeated on the server that was away.
    assert await stored(cache) is None
    assert await cache.session.get("thread", "field") in ("x", "y")


async def test_tier_works_while_the_main_server_is_away(
    make_cache: MakeCache, own_server: tuple[EmbeddedValkey, int], state_url: str
) -> None:
    server, pid = own_server
    os.kill(pid, signal.SIGSTOP)
    options = {"name": "test", "clients": {"session": state_url}, "resilience": ResilienceOptions(l2_timeout=0.2)}
    async with AgentCache.from_url(server.url, **options) as cache:
        await cache.session.set("thread", "field", "x")
        assert await cache.session.get("thread", "field") == "x"
        assert not (await cache.llm.check(HELLO)).hit
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not cache.local_stats().degraded, 10)
        await cache.llm.store(HELLO, "x")
        cache.clear_l1()
        assert (await cache.llm.check(HELLO)).source == "l2"


async def test_opening_that_fails_at_one_server_leaves_no_other_connection(
    make_cache: MakeCache, url: str, plain: valkey.Valkey, tmp_path: Path
) -> None:
    socket = tmp_path / "absent.sock"
    cache = make_cache(name="test", require_l2=True, clients={"session": f"unix://{socket}"})

    def connections() -> int:
        return len([each for each in plain.client_list() if each["name"] == "tiercache:test"])

    with pytest.raises(L2UnavailableError):
        await cache.open()
    await until(lambda: connections() == 0)
    # A tier whose server answers opens again by itself.
    await cache.kv.set("k", 1)
    assert connections() > 0
    with pytest.raises(L2UnavailableError):
        await cache.open()
    # The call that failed closes only the servers that it opened itself.
    assert connections() > 0
    assert await cache.kv.get("k") == 1


# Process memory, and caches without entries


async def test_cache_in_memory_keeps_sessions_on_their_server(state: valkey.Valkey, state_url: str) -> None:
    async with AgentCache.in_memory(name="test", clients={"session": state_url}) as cache:
        await fill(cache)
        assert [key for key in entry_keys(state) if "session" in key] == ["test:session:thread:field"]
        assert not [key for key in entry_keys(state) if ":kv:" in key or ":llm:" in key]
        # The process memory belongs to one face. The sessions are on a server, for both.
        assert await asyncio.to_thread(cache.sync.session.get, "thread", "field") == "x"
        with pytest.raises(UsageError, match="process memory alone"):
            await asyncio.to_thread(cache.sync.kv.get, "k")


async def test_cache_without_entries_keeps_sessions_alone(state: valkey.Valkey, state_url: str) -> None:
    clients = {"session": state_url, "llm": state_url, "embed": state_url}
    async with AgentCache.null(name="test", clients=clients) as cache:
        await fill(cache)
        assert entry_keys(state) == ["test:__tc:thread:thread", "test:session:thread:field"]
        assert await stored(cache) is None
        assert await cache.session.get("thread", "field") == "x"


# Both faces


async def test_faces_see_changes_of_each_other_on_every_server_at_once(make_split: MakeCache) -> None:
    cache = make_split()
    tier, other_face = cache.tier("embed"), cache.sync.tier("embed")
    await tier.set("e", 1)
    # These calls block the event loop: no announcement arrives between a change and the read of the other face.
    assert other_face.get("e") == 1
    other_face.set("e", 2)
    assert await tier.get("e") == 2
    await tier.set("e", 3)
    assert other_face.get("e") == 3
    cache.sync.flush()
    assert await tier.get("e") is None


async def test_closing_the_sync_face_leaves_servers_in_use(state_url: str) -> None:
    cache = AgentCache.in_memory(name="test", clients={"session": state_url})
    await cache.session.set("thread", "field", "x")
    cache.sync.close()
    await cache.kv.set("k", 1)
    assert await cache.session.get("thread", "field") == "x"
    await cache.aclose()


async def test_flush_writes_waits_for_every_server(make_cache: MakeCache, state: valkey.Valkey, state_url: str) -> None:
    cache = make_cache(name="test", clients={"tool": state_url}, writes=WriteOptions(mode="behind"))
    await cache.open()
    await cache.tool.store("tool", {}, "x")
    await cache.flush_writes()
    assert [key for key in entry_keys(state) if ":tool:" in key]


async def test_sync_face_covers_every_server(make_split: MakeCache, state: valkey.Valkey) -> None:
    cache = make_split(writes=WriteOptions(mode="behind"))

    def work() -> None:
        sync = cache.sync
        sync.tier("embed").set("e", 1, tags=["t"])
        sync.session.set("thread", "field", "x")
        sync.flush_writes()
        assert len(entry_keys(state)) >= 3
        assert sync.clear_l1() >= 1
        assert sync.tier("embed").get("e") == 1
        with sync.invalidates("t"):
            pass
        assert sync.tier("embed").get("e") is None
        sync.close()

    await asyncio.to_thread(work)


# Numbers


async def test_gauges_count_every_server(make_split: MakeCache) -> None:
    registry = prometheus_client.CollectorRegistry()
    cache = make_split(telemetry=TelemetryOptions(registry=registry))
    await cache.kv.set("k", 1)
    await cache.tier("embed").set("e", 1)

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"agent_cache_{name}", {"cache_name": "test", **labels})

    assert cache.local_stats().l1_entry_count == 2
    assert sample("l1_entries") == 2
    assert sample("l1_trusted") == 1
    assert sample("breaker_open") == 0
    assert cache.local_stats().operations["kv.set"].calls == 2
    assert cache.clear_l1() == 2


async def test_closing_closes_every_server(make_split: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_split()
    await fill(cache)
    assert internals(cache).registered == (0, 0, 0)
    await cache.aclose()
    with pytest.raises(UsageError, match="closed"):
        await cache.session.get("thread", "field")
    with pytest.raises(UsageError, match="closed"):
        await cache.kv.get("k")
    await until(lambda: not [each for each in plain.client_list() if each["name"] == "tiercache:test"])


async def test_closing_sends_the_counts_of_loads_that_end_on_another_server(
    make_cache: MakeCache, plain: valkey.Valkey, state_url: str
) -> None:
    cache = make_cache(name="test", clients={"tool": state_url})
    began, release = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        began.set()
        await release.wait()
        return "x"

    loading = asyncio.create_task(cache.tool.get_or_load("tool", {}, load))
    await began.wait()
    closing = asyncio.create_task(cache.aclose())
    # Time enough for the main server to close.
    await asyncio.sleep(0.2)
    release.set()
    await asyncio.gather(loading, closing)
    assert plain.hget("test:__stats", "tool:misses") == b"1"


def test_dropped_cache_warns_if_any_server_was_open(state_url: str) -> None:
    program = f"""
import asyncio, gc
from tiercache import AgentCache

async def main():
    cache = AgentCache.in_memory(name="dropped", clients={{"session": {state_url!r}}})
    await cache.session.set("thread", "field", "x")
    del cache
    gc.collect()
    await asyncio.sleep(1)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    assert "cache 'dropped' was dropped without aclose()" in done.stderr


# Bad input


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        (["session"], "clients must be a mapping from tiers to clients or URLs, not list"),
        ({"": "valkey://x"}, "clients must have names of tiers, 1 to 128 of A-Z a-z 0-9 _ -, not ''"),
        ({1: "valkey://x"}, "clients must have names of tiers, 1 to 128 of A-Z a-z 0-9 _ -, not 1"),
        ({"session": None}, r"clients\['session'\] must be a client or a URL"),
        ({"session": valkey.Valkey()}, r"clients\['session'\]: client must be a valkey.asyncio.Valkey"),
        ({"session": "http://x"}, r"clients\['session'\]: .*a URL looks like"),
    ],
)
def test_wrong_clients_are_refused(clients: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AgentCache.in_memory(clients=clients)
