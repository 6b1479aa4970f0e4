"""Leases: of all processes one loads a key, and whatever happens to the key or to the holder, nobody waits in vain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import betterdb_agent_cache as betterdb
import pytest
import valkey
import valkey.asyncio

from tests.peers import betterdb_cache
from tests.requests import HELLO, Loader, asking, turns
from tests.support import UNTRACKED, in_l1, until
from tiercache import AgentCache, CoherenceOptions, L2UnavailableError, ResilienceOptions, TierOptions
from tiercache.engine.coherence.leases import Lease, Leases, is_placeholder
from tiercache.engine.level2.write_pipe import WritePipe
from tiercache.engine.level2.writes import Release, TakeLease, WriteSet
from tiercache.stores.valkey.store import ValkeyLevel2

MakeCache = Callable[..., AgentCache]
Pair = tuple[AgentCache, AgentCache]

KEY = "test:__tc:kv:kv:k"
CHANNEL = "test:__tc:bus:0"


def load(cache: AgentCache, loader: Any, key: str = "k", **options: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(cache.kv.get_or_load(key, loader, **options))


async def waiting(cache: AgentCache, count: int = 1) -> None:
    """Return when ``cache`` waits for somebody else's lease."""
    await until(lambda: cache.local_stats().tiers["kv"].lease_waits >= count)


def holds_placeholder(plain: valkey.Valkey, key: str = KEY) -> bool:
    data = plain.get(key)
    return data is not None and is_placeholder(data)


@pytest.fixture
async def pair(make_cache: MakeCache) -> Pair:
    a, b = (make_cache(name="test") for _ in range(2))
    await a.open()
    await b.open()
    return a, b


async def holder(cache: AgentCache, loader: Loader, **options: Any) -> asyncio.Task[Any]:
    """Return a load of ``cache`` that has the lease."""
    task = load(cache, loader, **options)
    await loader.started.wait()
    return task


# One load among all


async def test_two_processes_that_miss_at_once_load_once(pair: Pair) -> None:
    loader = Loader(held=True)
    tasks = [load(cache, loader) for cache in pair]
    await loader.started.wait()
    await until(lambda: sum(cache.local_stats().tiers["kv"].lease_waits for cache in pair) == 1)
    loader.release()
    results = await asyncio.gather(*tasks)
    assert loader.calls == 1
    assert [result.value for result in results] == ["answer", "answer"]
    assert sorted(result.source for result in results) == ["l2", "loader"]


@pytest.mark.parametrize("tier", ["llm", "tool", "kv"])
async def test_every_tier_loads_once(pair: Pair, tier: str) -> None:
    loader = Loader(held=True)

    def ask(cache: AgentCache) -> Any:
        match tier:
            case "llm":
                return cache.llm.get_or_load(HELLO, loader)
            case "tool":
                return cache.tool.get_or_load("t", {}, loader)
        return cache.kv.get_or_load("k", loader)

    tasks = [asyncio.create_task(ask(cache)) for cache in pair for _ in range(3)]
    await loader.started.wait()
    await asyncio.sleep(0.05)
    loader.release()
    await asyncio.gather(*tasks)
    assert loader.calls == 1


async def test_a_load_longer_than_its_lease_is_still_the_only_one(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    a, b = (make_cache(name="test", coherence=CoherenceOptions(lease_ttl=0.3)) for _ in range(2))
    await b.open()
    first, second = Loader("first", held=True), Loader("second")
    loading = await holder(a, first)
    began = time.monotonic()
    other = load(b, second)
    await waiting(b)
    await until(lambda: time.monotonic() > began + 1)
    assert holds_placeholder(plain)
    assert 0 < plain.pttl(KEY) <= 300
    first.release()
    assert ((await loading).value, (await other).value) == ("first", "first")
    assert (first.calls, second.calls) == (1, 0)


async def test_a_lease_is_renewed_no_more_once_it_has_ended(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(lease_ttl=0.1))
    await cache.kv.get_or_load("k", Loader(), ttl=0.4)
    await cache.flush_writes()
    began = time.monotonic()
    await until(lambda: plain.get(KEY) is None, seconds=2)
    assert time.monotonic() > began + 0.2


async def test_a_waiter_is_told_and_a_lease_that_nobody_wants_is_not_talked_of(
    pair: Pair, plain: valkey.Valkey
) -> None:
    a, b = pair
    with plain.pubsub(ignore_subscribe_messages=True) as bus:
        bus.subscribe(CHANNEL)
        bus.get_message(timeout=1)
        await a.kv.get_or_load("alone", Loader())
        loader = Loader(held=True)
        loading = await holder(a, loader)
        other = load(b, Loader())
        await until(lambda: a._engine.runtime.l2.leases._held[KEY].is_wanted)  # type: ignore[union-attr]
        loader.release()
        await asyncio.gather(loading, other)
        messages = []
        while (message := bus.get_message(timeout=0.1)) is not None:
            messages.append(message["data"])
    assert not any(b"alone" in message for message in messages)
    wanted = [message for message in messages if b'"w":["test:__tc:kv:kv:k"]' in message]
    settled = [message for message in messages if b'"d":["test:__tc:kv:kv:k"]' in message]
    assert len(settled) == 1
    assert wanted + settled == messages
    assert all(b'"s":null' in message for message in messages)


async def test_a_waiter_looks_again_where_nothing_is_to_be_heard(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, plain: valkey.Valkey
) -> None:
    a, b = pair
    monkeypatch.setattr(Leases, "wake", lambda self, key: None)
    loader = Loader(held=True)
    loading = await holder(a, loader)
    other = load(b, Loader("never"))
    await waiting(b)
    loader.release()
    await loading
    async with asyncio.timeout(2):
        assert (await other).source == "l2"


# How a lease ends


async def test_when_the_loader_raises_a_waiter_loads_at_once(pair: Pair, plain: valkey.Valkey) -> None:
    a, b = pair
    failing = Loader(ValueError("no"), held=True)
    loading = await holder(a, failing)
    other = load(b, Loader("second"))
    await waiting(b)
    failing.release()
    with pytest.raises(ValueError, match="no"):
        await loading
    async with asyncio.timeout(2):
        result = await other
    assert (result.value, result.source) == ("second", "loader")
    await b.flush_writes()
    assert plain.get(KEY) == b"ssecond"
    assert (await a.kv.get_or_load("k", Loader())).source == "l2"


async def test_a_load_that_failed_leaves_nothing_behind(cache: AgentCache, plain: valkey.Valkey) -> None:
    with pytest.raises(ValueError, match="no"):
        await cache.kv.get_or_load("k", Loader(ValueError("no")))
    await cache.flush_writes()
    assert plain.get(KEY) is None


async def test_what_is_not_to_be_stored_gives_the_lease_back(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", kv=TierOptions(store_when=lambda value: False))
    await cache.kv.get_or_load("k", Loader())
    await cache.flush_writes()
    assert plain.get(KEY) is None


async def test_a_cancelled_holder_gives_the_lease_back(pair: Pair, plain: valkey.Valkey) -> None:
    a, b = pair
    cancelled = Loader(held=True)
    loading = await holder(a, cancelled)
    assert holds_placeholder(plain)
    other = load(b, Loader("second"))
    await waiting(b)
    loading.cancel()
    async with asyncio.timeout(2):
        assert (await other).value == "second"
    assert cancelled.cancelled == 1


async def test_closing_gives_the_leases_back(make_cache: MakeCache, plain: valkey.Valkey, url: str) -> None:
    cache = AgentCache.from_url(url, name="test")
    loading = await holder(cache, Loader(held=True))
    assert holds_placeholder(plain)
    loading.cancel()
    await turns()
    await cache.aclose()
    assert plain.get(KEY) is None


async def test_a_waiter_that_is_cancelled_leaves_the_others(make_cache: MakeCache) -> None:
    a, b, c = (make_cache(name="test") for _ in range(3))
    loader, unwanted = Loader(held=True), Loader()
    loading = await holder(a, loader)
    tasks = [load(b, unwanted), load(b, unwanted), load(c, unwanted), load(c, unwanted)]
    await waiting(b)
    await waiting(c)
    tasks[0].cancel()
    tasks[2].cancel()
    await turns()
    loader.release()
    for task in (loading, tasks[1], tasks[3]):
        assert (await task).value == "answer"
    assert (tasks[0].cancelled(), tasks[2].cancelled()) == (True, True)
    assert unwanted.calls == 0
    assert not b._engine.runtime.l2.leases._waiting  # type: ignore[union-attr]


class HeldTakes:
    """Holds back the answers to leases taken: Valkey has given them, the news is on the way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = asyncio.Event()
        self.release = asyncio.Event()
        apply = ValkeyLevel2.apply

        async def held(level2: ValkeyLevel2, writes: Any) -> Any:
            outcomes = await apply(level2, writes)
            if any(isinstance(write, TakeLease) for write in writes):
                self.taken.set()
                await self.release.wait()
            return outcomes

        monkeypatch.setattr(ValkeyLevel2, "apply", held)


@pytest.mark.parametrize("many", [False, True])
async def test_a_lease_that_arrives_after_the_cancellation_is_given_back(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    takes, loader = HeldTakes(monkeypatch), Loader()
    if many:
        loading: asyncio.Future[Any] = asyncio.ensure_future(cache.kv.get_or_load_many(["k"], lambda keys: ["v"]))
    else:
        loading = load(cache, loader)
    await takes.taken.wait()
    assert holds_placeholder(plain)
    loading.cancel()
    await turns()
    takes.release.set()
    await until(lambda: plain.get(KEY) is None, seconds=2)
    assert loader.calls == 0


@pytest.mark.parametrize("many", [False, True])
async def test_a_lease_that_arrives_together_with_the_cancellation_is_given_back(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Answered in the same turn of the loop in which the load is cancelled."""
    await cache.open()
    submit = WritePipe.submit

    def cancel() -> None:
        for task in asyncio.all_tasks():
            if task.get_name() == "tiercache-load":
                task.cancel()

    def submitted(pipe: WritePipe, write: Any, on_done: Any = None) -> Any:
        def done(outcome: Any) -> None:
            on_done(outcome)
            if isinstance(write, TakeLease):
                # Before whoever waits for the answer runs.
                asyncio.get_running_loop().call_soon(cancel)

        return submit(pipe, write, done if on_done is not None else None)

    monkeypatch.setattr(WritePipe, "submit", submitted)
    kv = cache.kv
    loading: Any = kv.get_or_load_many(["k"], lambda keys: ["v"]) if many else kv.get_or_load("k", Loader(held=True))
    with pytest.raises(asyncio.CancelledError):
        await loading
    await until(lambda: plain.get(KEY) is None, seconds=2)


async def test_lease_wait_is_the_longest_wait_and_what_is_loaded_then_is_not_stored(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    b = make_cache(name="test", coherence=CoherenceOptions(lease_wait=0.2))
    await b.open()
    loader = Loader("theirs", held=True)
    loading = await holder(a, loader)
    began = time.monotonic()
    result = await b.kv.get_or_load("k", Loader("ours"))
    assert 0.2 <= time.monotonic() - began < 1.5
    assert (result.value, result.source) == ("ours", "loader")
    await b.flush_writes()
    assert holds_placeholder(plain)
    loader.release()
    assert (await loading).value == "theirs"
    await a.flush_writes()
    assert plain.get(KEY) == b"stheirs"
    assert a.local_stats().tiers["kv"].overtaken == 0


async def test_a_lease_whose_holder_is_gone_holds_nobody_up_for_longer_than_it_lives(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test")
    await cache.open()
    plain.set(KEY, b"tc:lease:gone:1", px=400)
    began = time.monotonic()
    result = await cache.kv.get_or_load("k", Loader())
    assert result.source == "loader"
    assert 0.3 < time.monotonic() - began < 2
    await cache.flush_writes()
    assert plain.get(KEY) == b"sanswer"


@pytest.mark.parametrize("through", [False, True], ids=["its own key", "through another load"])
async def test_a_loader_may_ask_for_what_nobody_may_join_any_more(cache: AgentCache, through: bool) -> None:
    """Its own load has become doubtful, so that a new one begins, which finds the lease of the first."""

    async def other(_: object) -> str:
        return (await cache.llm.get_or_load(HELLO, lambda: "inner")).response or ""

    async def outer(_: object) -> str:
        assert cache._engine.coherence is not None
        cache._engine.coherence.distrust("a test")
        inner = await (cache.llm.get_or_load(asking("other"), other) if through else other(None))
        return f"outer of {inner if isinstance(inner, str) else inner.response}"

    await cache.open()
    async with asyncio.timeout(10):
        result = await cache.llm.get_or_load(HELLO, outer)
    assert result.response == "outer of inner"


async def test_a_load_that_waits_for_a_lease_of_its_process_is_waited_for_by_no_loader_of_that(
    cache: AgentCache,
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def other(_: object) -> str:
        return (await cache.llm.get_or_load(HELLO, lambda: "inner")).response or ""

    async def outer(_: object) -> str:
        began.set()
        await go_on.wait()
        return f"outer of {(await cache.llm.get_or_load(asking('other'), other)).response}"

    await cache.open()
    async with asyncio.timeout(10):
        first = asyncio.create_task(cache.llm.get_or_load(HELLO, outer))
        await began.wait()
        assert cache._engine.coherence is not None
        cache._engine.coherence.distrust("a test")
        second = asyncio.create_task(cache.llm.get_or_load(HELLO, lambda: "second"))
        await until(lambda: cache.local_stats().tiers["llm"].lease_waits == 1)
        go_on.set()
        assert (await first).response == "outer of inner"
        assert (await second).response == "outer of inner"


async def test_waiting_takes_no_place_among_the_loads(make_cache: MakeCache) -> None:
    """A loader that asks for what another process loads lends its own place meanwhile."""
    a = make_cache(name="test")
    b = make_cache(name="test", resilience=ResilienceOptions(max_loads=1))
    loader = Loader(held=True)
    loading = await holder(a, loader)

    async def outer() -> Any:
        return (await b.kv.get_or_load("k", Loader("never"))).value

    other = load(b, outer, key="outer")
    await waiting(b)
    async with asyncio.timeout(2):
        assert (await b.kv.get_or_load("another", Loader())).source == "loader"
    loader.release()
    await loading
    assert (await other).value == "answer"


# What takes the right to store away


@pytest.mark.parametrize("tracking", ["off", "auto"])
@pytest.mark.parametrize("change", ["deleted", "replaced"])
async def test_a_load_whose_lease_was_lost_is_stored_nowhere(
    make_cache: MakeCache, plain: valkey.Valkey, tracking: Any, change: str
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking=tracking))
    loader = Loader("older", held=True)
    loading = await holder(cache, loader)
    if change == "deleted":
        plain.delete(KEY)
    else:
        plain.set(KEY, b"snewer")
    loader.release()
    assert (await loading).value == "older"
    await cache.flush_writes()
    assert plain.get(KEY) == (None if change == "deleted" else b"snewer")
    assert not in_l1(cache, KEY)
    assert cache.local_stats().tiers["kv"].overtaken == 1
    assert await cache.kv.get("k") == (None if change == "deleted" else "newer")


async def test_a_fill_that_is_refused_takes_no_later_value_out_of_memory(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right was lost; before that is known a later load has brought a newer value."""
    cache = make_cache(name="test", coherence=UNTRACKED)
    first, second = Loader("older", held=True), Loader("newer", held=True)
    tasks = [await holder(cache, first)]
    tasks.append(await holder(cache, second, mode="refresh"))  # Which takes the lease over.
    placeholder = plain.get(KEY)
    plain.delete(KEY)
    sent, release = asyncio.Event(), asyncio.Event()
    apply = ValkeyLevel2.apply

    async def held(level2: ValkeyLevel2, writes: Any) -> Any:
        outcomes = await apply(level2, writes)
        sent.set()
        await release.wait()
        return outcomes

    monkeypatch.setattr(ValkeyLevel2, "apply", held)
    first.release()
    await sent.wait()
    plain.set(KEY, placeholder)
    second.release()
    assert [(await task).value for task in tasks] == ["older", "newer"]
    release.set()
    await cache.flush_writes()
    assert cache.local_stats().tiers["kv"].overtaken == 1
    assert plain.get(KEY) == b"snewer"
    assert in_l1(cache, KEY)
    assert await cache.kv.get("k") == "newer"


@pytest.mark.parametrize("tracking", ["off", "auto"])
async def test_an_explicit_write_by_another_process_wins_in_both_levels(
    make_cache: MakeCache, plain: valkey.Valkey, tracking: Any
) -> None:
    a, b = (make_cache(name="test", coherence=CoherenceOptions(tracking=tracking)) for _ in range(2))
    loader = Loader("loaded", held=True)
    loading = await holder(a, loader)
    await b.kv.set("k", "stored")
    loader.release()
    assert (await loading).value == "loaded"
    await a.flush_writes()
    assert plain.get(KEY) == b"sstored"
    for cache in (a, b):
        assert await cache.kv.get("k") == "stored"
        cache.clear_l1()
        assert await cache.kv.get("k") == "stored"


@pytest.mark.parametrize("tracking", ["off", "auto"])
@pytest.mark.parametrize("change", [None, "replaced", "deleted"])
async def test_a_refresh_replaces_the_value_that_it_found_and_no_other(
    make_cache: MakeCache, plain: valkey.Valkey, tracking: Any, change: str | None
) -> None:
    cache = make_cache(name="test", coherence=CoherenceOptions(tracking=tracking))
    await cache.kv.set("k", "older")
    loader = Loader("refreshed", held=True)
    loading = await holder(cache, loader, mode="refresh")
    if change == "replaced":
        plain.set(KEY, b"sforeign")
    elif change == "deleted":
        plain.delete(KEY)
    loader.release()
    assert (await loading).value == "refreshed"
    await cache.flush_writes()
    expected = {None: "refreshed", "replaced": "foreign", "deleted": None}[change]
    assert plain.get(KEY) == (None if expected is None else f"s{expected}".encode())
    await until(lambda: tracking == "off" or change is None or not in_l1(cache, KEY))
    assert await cache.kv.get("k") == expected


async def test_a_refresh_of_nothing_takes_a_lease(cache: AgentCache, plain: valkey.Valkey) -> None:
    loader = Loader(held=True)
    loading = await holder(cache, loader, mode="refresh")
    assert holds_placeholder(plain)
    loader.release()
    await loading
    await cache.flush_writes()
    assert plain.get(KEY) == b"sanswer"


@pytest.mark.parametrize("junk", ["bytes", "hash", "empty"])
@pytest.mark.parametrize("many", [False, True])
async def test_what_no_tier_can_read_is_replaced(
    cache: AgentCache, plain: valkey.Valkey, junk: str, many: bool
) -> None:
    if junk == "hash":
        plain.hset(KEY, "a", "b")
    else:
        plain.set(KEY, b"\xff what is this?" if junk == "bytes" else b"")
    if many:
        assert await cache.kv.get_or_load_many(["k"], lambda keys: ["answer"]) == {"k": "answer"}
    else:
        assert (await cache.kv.get_or_load("k", Loader())).source == "loader"
    await cache.flush_writes()
    assert plain.get(KEY) == b"sanswer"
    assert (await cache.kv.get_or_load("k", Loader())).source == "l1"


async def test_what_cannot_be_read_is_not_replaced_once_somebody_else_has(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    cache = make_cache(name="test", coherence=UNTRACKED)
    plain.set(KEY, b"\xff what is this?")
    loader = Loader(held=True)
    loading = await holder(cache, loader)
    plain.set(KEY, b"snewer")
    loader.release()
    await loading
    await cache.flush_writes()
    assert plain.get(KEY) == b"snewer"


# A placeholder is nothing


async def test_a_placeholder_is_nothing_to_anybody(pair: Pair, plain: valkey.Valkey) -> None:
    a, b = pair
    loaders = [Loader(held=True) for _ in range(3)]
    tasks = [
        asyncio.create_task(a.kv.get_or_load("k", loaders[0])),
        asyncio.create_task(a.llm.get_or_load(HELLO, loaders[1])),
        asyncio.create_task(a.tool.get_or_load("t", {}, loaders[2])),
    ]
    for loader in loaders:
        await loader.started.wait()
    assert (
        len([key for key in plain.scan_iter() if plain.type(key) == b"string" and holds_placeholder(plain, key)]) == 3
    )
    for cache in pair:
        assert await cache.kv.get("k") is None
        assert not await cache.kv.exists("k")
        assert await cache.kv.get_many(["k", "l"]) == {"k": None, "l": None}
        assert not (await cache.kv.get_or_load("k", Loader(), mode="only_cached")).hit
        assert not (await cache.llm.check(HELLO)).hit
        assert not (await cache.tool.check("t", {})).hit
    assert b.local_stats().tiers["kv"].undecodable == 0
    assert await b.kv.delete("k") is False
    assert await b.kv.delete_many(["k"]) == 0
    assert await b.llm.invalidate(HELLO) is False
    assert await b.tool.invalidate("t", {}) is False
    for loader in loaders:
        loader.release()
    await asyncio.gather(*tasks)
    await a.flush_writes()
    assert await b.kv.get("k") is None  # Deleted with its placeholder.


@pytest.mark.parametrize("change", ["clear", "by tool", "by model", "by tag", "flush"])
async def test_a_placeholder_is_counted_by_nobody_and_goes_with_its_group(
    pair: Pair, plain: valkey.Valkey, change: str
) -> None:
    a, b = pair
    await a.llm.store({**HELLO, "seed": 1}, "x", tags=["tag"])
    await a.tool.store("t", {"a": 1}, "x", tags=["tag"])
    loaders = [Loader(held=True) for _ in range(2)]
    tasks = [
        asyncio.create_task(a.llm.get_or_load(HELLO, loaders[0], tags=["tag"])),
        asyncio.create_task(a.tool.get_or_load("t", {}, loaders[1], tags=["tag"])),
    ]
    for loader in loaders:
        await loader.started.wait()
    match change:
        case "clear":
            counts = await b.llm.clear() + await b.tool.clear()
        case "by tool":
            counts = await b.tool.invalidate_by_tool("t") + await b.llm.clear()
        case "by model":
            counts = await b.llm.invalidate_by_model("gpt-4o") + await b.tool.clear()
        case "by tag":
            counts = await b.invalidate_tag("tag")
        case _:
            counts = await b.flush()
    assert counts == 2
    for loader in loaders:
        loader.release()
    await asyncio.gather(*tasks)
    await a.flush_writes()
    assert not (await b.llm.check(HELLO)).hit
    assert not (await b.tool.check("t", {})).hit


@pytest.fixture
async def peer(url: str) -> AsyncIterator[betterdb.AgentCache]:
    async with betterdb_cache(url) as cache:
        yield cache


@pytest.mark.parametrize("tier", ["llm", "tool"])
async def test_betterdb_misses_on_a_placeholder_and_whoever_loads_is_not_hurt(
    cache: AgentCache, peer: betterdb.AgentCache, plain: valkey.Valkey, tier: str
) -> None:
    loader = Loader(held=True)
    if tier == "llm":
        loading = asyncio.create_task(cache.llm.get_or_load(HELLO, loader))
        await loader.started.wait()
        theirs: Any = await peer.llm.check(HELLO)  # type: ignore[arg-type]
    else:
        loading = asyncio.create_task(cache.tool.get_or_load("t", {}, loader))  # type: ignore[arg-type]
        await loader.started.wait()
        theirs = await peer.tool.check("t", {})
    assert not theirs.hit
    loader.release()
    result = await loading
    assert result.response == "answer"
    await cache.flush_writes()
    # It takes what it cannot read away; the answer is there, and is not stored.
    assert plain.get(result.key) is None
    assert not in_l1(cache, result.key)


# Without leases


async def test_without_leases_every_process_loads(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    a, b = (make_cache(name="test", kv=TierOptions(lease=False)) for _ in range(2))
    await b.open()
    loader = Loader("first", held=True)
    loading = await holder(a, loader)
    assert plain.get(KEY) is None
    async with asyncio.timeout(2):
        assert (await b.kv.get_or_load("k", Loader("second"))).value == "second"
    loader.release()
    await loading
    assert b.local_stats().tiers["kv"].lease_waits == 0


async def test_a_cache_of_memory_alone_waits_for_nobody() -> None:
    async with AgentCache.in_memory() as cache:
        results = await asyncio.gather(*(cache.kv.get_or_load("k", Loader()) for _ in range(10)))
        assert {result.value for result in results} == {"answer"}
        assert cache.local_stats().tiers["kv"].lease_waits == 0


async def test_what_is_bypassed_takes_no_lease(pair: Pair, plain: valkey.Valkey) -> None:
    a, b = pair
    loader = Loader(held=True)
    loading = await holder(a, loader, mode="bypass")
    assert plain.get(KEY) is None
    assert (await b.kv.get_or_load("k", Loader("b"))).value == "b"
    loader.release()
    await loading


# Many keys


async def test_a_batch_loads_what_another_process_loads_too_and_leaves_its_lease_alone(
    pair: Pair, plain: valkey.Valkey
) -> None:
    a, b = pair
    loader = Loader("theirs", held=True)
    loading = await holder(a, loader)
    got = await b.kv.get_or_load_many(["k", "l"], lambda keys: {key: f"own {key}" for key in keys})
    assert got == {"k": "own k", "l": "own l"}
    await b.flush_writes()
    assert holds_placeholder(plain)
    assert plain.get("test:__tc:kv:kv:l") == b"sown l"
    loader.release()
    await loading
    await a.flush_writes()
    assert plain.get(KEY) == b"stheirs"


async def test_a_batch_that_fails_gives_all_its_leases_back(cache: AgentCache, plain: valkey.Valkey) -> None:
    def fail(keys: list[str]) -> list[str]:
        assert all(holds_placeholder(plain, f"test:__tc:kv:kv:{key}") for key in keys)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await cache.kv.get_or_load_many(["k", "l"], fail)
    await cache.flush_writes()
    assert not plain.exists(KEY, "test:__tc:kv:kv:l")


# Pieces


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"tc:lease:abc:1", True),
        (b"tc:lease:", True),
        (b"tc:lease", False),
        (b"", False),
        (b'{"response":"tc:lease:"}', False),
    ],
)
def test_a_placeholder_is_known_by_how_it_begins(data: bytes, expected: bool) -> None:
    assert is_placeholder(data) is expected


async def test_a_text_that_looks_like_a_placeholder_is_a_value(cache: AgentCache) -> None:
    await cache.kv.set("k", "tc:lease:abc:1")
    await cache.kv.set("b", b"tc:lease:abc:1")
    await cache.llm.store(HELLO, "tc:lease:abc:1")
    await cache.tool.store("t", {}, "tc:lease:abc:1")
    await cache.session.set("thread", "field", "tc:lease:abc:1")
    cache.clear_l1()
    assert await cache.kv.get_many(["k", "b"]) == {"k": "tc:lease:abc:1", "b": b"tc:lease:abc:1"}
    assert (await cache.llm.check(HELLO)).response == "tc:lease:abc:1"
    assert (await cache.tool.check("t", {})).response == "tc:lease:abc:1"
    assert await cache.session.get("thread", "field") == "tc:lease:abc:1"
    assert await cache.kv.delete("k") is True


async def test_a_lease_that_stands_on_a_value_is_neither_renewed_nor_removed() -> None:
    lease = Lease("k", b"value")
    assert not lease.is_placeholder
    Leases(None, origin="me", ttl=1).give_up(lease)  # type: ignore[arg-type]
    lease.end()


# Answers that are lost


class LostAnswers:
    """Carries out the batches with a write of one of ``kinds``, and then says that Valkey has not answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *kinds: type) -> None:
        self.is_on = True
        self.lost: list[Any] = []
        apply = ValkeyLevel2.apply

        async def lossy(level2: ValkeyLevel2, writes: Any) -> Any:
            concerned = [write for write in writes if self.is_on and isinstance(write, kinds)]
            if any(isinstance(write, Release) for write in concerned):
                self.lost += concerned
                raise L2UnavailableError("not even sent")
            outcomes = await apply(level2, writes)
            if concerned:
                self.lost += concerned
                raise L2UnavailableError("the answer was lost")
            return outcomes

        monkeypatch.setattr(ValkeyLevel2, "apply", lossy)


async def test_a_placeholder_whose_answer_was_lost_is_taken_away(
    pair: Pair, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = LostAnswers(monkeypatch, TakeLease)
    assert (await pair[0].kv.get_or_load("k", lambda: "unleased")).value == "unleased"
    lost.is_on = False
    assert len(lost.lost) == 1
    await until(lambda: plain.get(KEY) is None)


async def test_a_placeholder_of_its_own_that_nobody_loads_is_waited_for_by_nobody(
    pair: Pair, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = pair[0]
    lost = LostAnswers(monkeypatch, TakeLease, Release)
    await cache.kv.get_or_load("k", lambda: "unleased")
    await until(lambda: any(isinstance(write, Release) for write in lost.lost))
    lost.is_on = False
    assert holds_placeholder(plain)
    cache.clear_l1()
    result = await cache.kv.get_or_load("k", lambda: "leased")
    await cache.flush_writes()
    assert (result.source, cache.local_stats().tiers["kv"].lease_waits) == ("loader", 0)
    assert plain.get(KEY) == b"sleased"


async def test_a_caller_waits_no_longer_for_a_load_whose_fill_was_lost(
    pair: Pair, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = pair[0]
    loader = Loader("first", held=True)
    first = await holder(cache, loader, mode="store_only")
    second = load(cache, lambda: "second")
    await waiting(cache)
    apply = ValkeyLevel2.apply

    async def unsent(level2: ValkeyLevel2, writes: Any) -> Any:
        if any(isinstance(write, WriteSet) and not is_placeholder(write.value) for write in writes):
            monkeypatch.setattr(ValkeyLevel2, "apply", apply)
            raise L2UnavailableError("not sent")
        return await apply(level2, writes)

    monkeypatch.setattr(ValkeyLevel2, "apply", unsent)
    loader.release()
    assert (await first).value == "first"
    async with asyncio.timeout(4):  # Less than the 10 s that the placeholder lives.
        assert (await second).value == "second"
    await cache.flush_writes()
    assert plain.get(KEY) == b"ssecond"
