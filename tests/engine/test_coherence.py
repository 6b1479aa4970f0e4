"""Replicas on one server: what one changes leaves the memory of the others, whatever happens to the bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import valkey
import valkey.asyncio

from tests.requests import HELLO, Loader
from tests.support import SEQUENCE, UNTRACKED, HeldReads, caught_up, distrusted, in_l1, until
from tiercache import AgentCache, CoherenceOptions, TierOptions, ToolPolicy
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.coherence.coherence import Coherence
from tiercache.engine.coherence.leases import Leases
from tiercache.engine.entries.entry import Entry, Group
from tiercache.engine.level2.announcement import Announcement, Pong, Received, TrackedChange, Unreadable
from tiercache.engine.level2.level2 import Position
from tiercache.engine.memory.fences import Fences
from tiercache.engine.memory.l1 import L1
from tiercache.testing import ChaosProxy

MakeCache = Callable[..., AgentCache]

CHANNEL = "test:__tc:bus:0"


@pytest.fixture
async def pair(make_cache: MakeCache) -> tuple[AgentCache, AgentCache]:
    """Two replicas that hear of each other on the bus alone."""
    a, b = (make_cache(name="test", coherence=UNTRACKED) for _ in range(2))
    await a.open()
    await b.open()
    return a, b


# Hearing


async def refresh(cache: AgentCache) -> None:
    """Load anew what is there, and have it written."""
    await cache.llm.get_or_load(HELLO, Loader("newer"), mode="refresh")
    await cache.flush_writes()


KV, LLM, TOOL, SESSION = "kv", "llm", "tool", "session"
CHANGES: dict[str, tuple[Callable[[AgentCache], Awaitable[Any]], set[str]]] = {
    "llm.store": (lambda a: a.llm.store(HELLO, "newer"), {LLM}),
    "llm.store_multipart": (lambda a: a.llm.store_multipart(HELLO, [{"type": "text", "text": "newer"}]), {LLM}),
    "llm.invalidate": (lambda a: a.llm.invalidate(HELLO), {LLM}),
    "llm.invalidate_by_model": (lambda a: a.llm.invalidate_by_model("gpt-4o"), {LLM}),
    "llm.clear": (lambda a: a.llm.clear(), {LLM}),
    "llm refreshed": (refresh, {LLM}),
    "tool.store": (lambda a: a.tool.store("t", {}, "newer"), {TOOL}),
    "tool.invalidate": (lambda a: a.tool.invalidate("t", {}), {TOOL}),
    "tool.invalidate_by_tool": (lambda a: a.tool.invalidate_by_tool("t"), {TOOL}),
    "tool.clear": (lambda a: a.tool.clear(), {TOOL}),
    "kv.set": (lambda a: a.kv.set("k", "newer"), {KV}),
    "kv.set_many": (lambda a: a.kv.set_many({"k": "newer", "l": 1}), {KV}),
    "kv.delete": (lambda a: a.kv.delete("k"), {KV}),
    "kv.delete_many": (lambda a: a.kv.delete_many(["k", "l"]), {KV}),
    "kv.clear": (lambda a: a.kv.clear(), {KV}),
    "invalidate_tag": (lambda a: a.invalidate_tag("both"), {KV, LLM}),
    "session.set": (lambda a: a.session.set("thread", "field", "newer"), {SESSION}),
    "session.delete": (lambda a: a.session.delete("thread", "field"), {SESSION}),
    "session.compare_and_set": (lambda a: a.session.compare_and_set("thread", "field", "older", "x"), {SESSION}),
    "session.destroy_thread": (lambda a: a.session.destroy_thread("thread"), {SESSION}),
    "session.clear": (lambda a: a.session.clear(), {SESSION}),
    "flush": (lambda a: a.flush(), {KV, LLM, TOOL}),
    "flush with sessions": (lambda a: a.flush(include_session=True), {KV, LLM, TOOL, SESSION}),
    "another key": (lambda a: a.kv.set("another", "x"), set()),
    "another model": (lambda a: a.llm.invalidate_by_model("gpt-4o-mini"), set()),
    "another tool": (lambda a: a.tool.invalidate_by_tool("tt"), set()),
    "another tag": (lambda a: a.invalidate_tag("neither"), set()),
    "another thread": (lambda a: a.session.destroy_thread("thread2"), set()),
    "another tier": (lambda a: a.tier("named").clear(), set()),
}


async def filled(a: AgentCache, b: AgentCache) -> dict[str, str]:
    """Store an entry of each tier by ``a``, have ``b`` read them; return their keys."""
    keys = {
        LLM: await a.llm.store(HELLO, "older", tags=["both"]),
        TOOL: await a.tool.store("t", {}, "older"),
        KV: "test:__tc:kv:kv:k",
        SESSION: "test:session:thread:field",
    }
    await a.kv.set("k", "older", tags=["both"])
    await a.session.set("thread", "field", "older")
    assert (await b.llm.check(HELLO)).source == "l2"
    assert (await b.tool.check("t", {})).source == "l2"
    assert (await b.kv.get("k"), await b.session.get("thread", "field")) == ("older", "older")
    assert all(in_l1(b, key) for key in keys.values())
    return keys


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_leaves_the_memory_of_another_process(
    pair: tuple[AgentCache, AgentCache], plain: valkey.Valkey, change: str
) -> None:
    a, b = pair
    keys = await filled(a, b)
    await caught_up(b, plain)
    distrusted_before = distrusted(b)
    make, expected = CHANGES[change]
    await make(a)
    await caught_up(b, plain)
    assert {tier for tier, key in keys.items() if not in_l1(b, key)} == expected
    assert distrusted(b) == distrusted_before


async def test_a_change_is_heard_of_within_a_tenth_of_a_second_or_so(pair: tuple[AgentCache, AgentCache]) -> None:
    a, b = pair
    took = []
    for number in range(5):
        await a.kv.set("k", number)
        assert await b.kv.get("k") == number
        assert in_l1(b, "test:__tc:kv:kv:k")
        await a.kv.delete("k")
        began = time.monotonic()
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))
        took.append(time.monotonic() - began)
    assert min(took) < 0.1


async def test_what_a_process_stores_stays_in_its_own_memory(
    pair: tuple[AgentCache, AgentCache], plain: valkey.Valkey
) -> None:
    a, _ = pair
    await a.kv.set("k", "v")
    await a.llm.store(HELLO, "x")
    await caught_up(a, plain)
    assert (await a.kv.get_or_load("k", Loader())).source == "l1"
    assert (await a.llm.check(HELLO)).source == "l1"
    assert a.local_stats().heard_count == 0


async def test_a_first_fill_is_not_announced(cache: AgentCache, plain: valkey.Valkey) -> None:
    with plain.pubsub(ignore_subscribe_messages=True) as bus:
        bus.subscribe(CHANNEL)
        bus.get_message(timeout=1)
        await cache.llm.get_or_load(HELLO, Loader())
        await cache.tool.get_or_load("t", {}, lambda: 1)
        await cache.kv.get_or_load("k", lambda: 1)
        await cache.kv.get_or_load_many(["l", "m"], lambda keys: [1] * len(keys))
        await cache.flush_writes()
        await cache.kv.set("last", 1)
        message = bus.get_message(timeout=2)
        assert message is not None
        assert b'"k":["test:__tc:kv:kv:last"]' in message["data"]


async def test_every_change_has_the_next_number(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.kv.set("k", 1)
    first = int(plain.get(SEQUENCE))
    now = time.time() * 1e6
    assert now - 60e6 < first <= now  # The clock's microseconds, not 1.
    await cache.kv.set("k", 2)
    await cache.kv.delete("k")
    assert int(plain.get(SEQUENCE)) == first + 2


async def test_many_keys_are_announced_in_messages_of_at_most_64(cache: AgentCache, plain: valkey.Valkey) -> None:
    with plain.pubsub(ignore_subscribe_messages=True) as bus:
        bus.subscribe(CHANNEL)
        bus.get_message(timeout=1)
        await cache.kv.set_many({str(number): number for number in range(100)})
        messages = []
        while (message := bus.get_message(timeout=0.2)) is not None:
            messages.append(message["data"])
    counts = [message.count(b"test:__tc:kv:kv:") for message in messages]
    assert sum(counts) == 100
    assert max(counts) <= 64


async def test_a_policy_set_by_one_process_is_known_to_the_others(pair: tuple[AgentCache, AgentCache]) -> None:
    a, b = pair
    await a.tool.set_policy("t", ToolPolicy(7))
    await until(lambda: b.tool.get_policy("t") == ToolPolicy(7), seconds=2)


async def test_caches_of_other_names_hear_nothing(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    a, b = make_cache(name="test"), make_cache(name="test.eu")
    await b.kv.set("k", 1)
    await a.kv.set("k", 1)
    await a.kv.clear()
    await caught_up(a, plain)
    assert (await b.kv.get_or_load("k", Loader())).source == "l1"
    assert b.local_stats().heard_count == 0


# Loads and reads under way in another process


@pytest.mark.parametrize("lease", [True, False])
@pytest.mark.parametrize("change", ["kv.set", "kv.delete", "kv.clear", "invalidate_tag"])
async def test_a_load_that_another_process_has_overtaken_is_neither_kept_nor_joined(
    make_cache: MakeCache, plain: valkey.Valkey, change: str, lease: bool
) -> None:
    a, b = (make_cache(name="test", coherence=UNTRACKED, kv=TierOptions(lease=lease)) for _ in range(2))
    await a.open()
    loader = Loader("older", held=True)
    loading = asyncio.create_task(b.kv.get_or_load("k", loader, tags=["both"]))
    await loader.started.wait()
    await CHANGES[change][0](a)
    await caught_up(b, plain)
    later = await b.kv.get_or_load("k", Loader("newest"))
    assert later.value == ("newer" if change == "kv.set" else "newest")
    loader.release()
    assert (await loading).value == "older"
    await b.flush_writes()
    assert await b.kv.get("k") == later.value
    b.clear_l1()
    assert await b.kv.get("k") == later.value


async def test_a_read_that_another_process_has_overtaken_is_not_kept(
    pair: tuple[AgentCache, AgentCache], plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    await a.kv.set("k", "older")
    reads = HeldReads(monkeypatch)
    reading = asyncio.create_task(b.kv.get("k"))
    await reads.answered.wait()
    await a.kv.set("k", "newer")
    await caught_up(b, plain)
    reads.release.set()
    assert await reading == "older"
    assert not in_l1(b, "test:__tc:kv:kv:k")
    assert await b.kv.get("k") == "newer"


async def test_a_load_in_doubt_is_not_kept_in_memory(pair: tuple[AgentCache, AgentCache], plain: valkey.Valkey) -> None:
    _, b = pair
    loader = Loader("older", held=True)
    loading = asyncio.create_task(b.kv.get_or_load("k", loader))
    await loader.started.wait()
    before = distrusted(b)
    plain.publish(CHANNEL, "what is this?")
    await until(lambda: distrusted(b) > before)
    loader.release()
    await loading
    assert not in_l1(b, "test:__tc:kv:kv:k")


# Trust


@pytest.fixture
async def proxied(url: str) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(url) as proxy:
        yield proxy


async def test_what_was_invalidated_is_not_served_past_the_bound_while_the_bus_hangs(
    make_cache: MakeCache, proxied: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    async with AgentCache.from_url(proxied.url, name="test", coherence=CoherenceOptions(max_staleness=0.6)) as b:
        await a.kv.set("k", "older")
        await caught_up(b, plain)
        assert await b.kv.get("k") == "older"
        proxied.stall(lane="bus")
        await a.kv.delete("k")
        acknowledged = time.monotonic()
        assert await b.kv.get("k") == "older"  # Nobody has told it.
        while time.monotonic() <= acknowledged + 0.6:
            await b.kv.get("k")
            await asyncio.sleep(0.01)
        assert await b.kv.get("k") is None
        proxied.heal()


async def test_memory_is_believed_while_the_bus_answers_and_again_once_it_does(
    make_cache: MakeCache, proxied: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    options = CoherenceOptions(max_staleness=0.6, tracking="off")
    async with AgentCache.from_url(proxied.url, name="test", coherence=options) as b:
        await a.kv.set("k", "v")
        await caught_up(b, plain)
        first = await b.kv.get_or_load("k", Loader())
        assert first.source == "l2"
        loaded = time.monotonic()
        await until(lambda: time.monotonic() > loaded + 0.8)  # Longer than it would be believed by itself.
        assert (await b.kv.get_or_load("k", Loader())).source == "l1"
        proxied.stall(lane="bus")
        await until(lambda: not b.local_stats().trusted)
        assert (await b.kv.get_or_load("k", Loader())).source == "l2"
        proxied.heal()
        await until(lambda: b.local_stats().trusted)
        await b.kv.get("k")
        assert (await b.kv.get_or_load("k", Loader())).source == "l1"


async def test_a_load_is_not_joined_past_the_bound_while_the_bus_hangs(proxied: ChaosProxy) -> None:
    options = CoherenceOptions(max_staleness=0.6)
    async with AgentCache.from_url(proxied.url, name="test", coherence=options, kv=TierOptions(lease=False)) as b:
        await until(lambda: b.local_stats().trusted)
        loader = Loader(held=True)
        proxied.stall(lane="bus")
        first = asyncio.create_task(b.kv.get_or_load("k", loader))
        await loader.started.wait()
        joined = asyncio.create_task(b.kv.get_or_load("k", loader))
        began = time.monotonic()
        await until(lambda: not b.local_stats().trusted and time.monotonic() > began + 0.7)
        assert (await b.kv.get_or_load("k", Loader("newer"))).value == "newer"
        assert loader.calls == 1
        loader.release()
        assert [(await task).value for task in (first, joined)] == ["answer", "answer"]
        proxied.heal()


async def cut(proxy: ChaosProxy) -> None:
    proxy.refuse()
    proxy.kill(lane="bus")
    await until(lambda: proxy.connection_count("bus") == 0)


async def test_what_was_missed_while_the_bus_was_cut_is_not_served_afterwards(
    make_cache: MakeCache, proxied: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    # A bound that says nothing within this test.
    options = CoherenceOptions(max_staleness=300, tracking="off")
    async with AgentCache.from_url(proxied.url, name="test", coherence=options) as b:
        await a.kv.set("k", "older")
        await caught_up(b, plain)
        assert await b.kv.get("k") == "older"
        before = distrusted(b)
        await cut(proxied)
        await a.kv.set("k", "newer")
        assert await b.kv.get("k") == "older"
        proxied.refuse(False)
        await until(lambda: distrusted(b) > before)
        assert await b.kv.get("k") == "newer"
        await a.kv.set("k", "newest")
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))


async def test_memory_stays_when_nothing_was_missed_while_the_bus_was_cut(
    make_cache: MakeCache, proxied: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    options = CoherenceOptions(max_staleness=300, tracking="off")
    async with AgentCache.from_url(proxied.url, name="test", coherence=options) as b:
        await a.kv.set("k", "v")
        await caught_up(b, plain)
        assert await b.kv.get("k") == "v"
        before = distrusted(b)
        listener = b._engine.runtime.l2.listener  # type: ignore[union-attr]
        subscription = listener._subscription
        await cut(proxied)
        proxied.refuse(False)
        await until(lambda: listener._subscription not in (None, subscription))
        await a.kv.set("another", "x")
        await caught_up(b, plain)
        assert distrusted(b) == before
        assert (await b.kv.get_or_load("k", Loader())).source == "l1"


async def test_a_bus_that_hangs_for_long_is_given_up_for_a_new_one(
    make_cache: MakeCache, proxied: ChaosProxy, plain: valkey.Valkey
) -> None:
    a = make_cache(name="test")
    options = CoherenceOptions(max_staleness=0.6)
    async with AgentCache.from_url(proxied.url, name="test", coherence=options) as b:
        await a.kv.set("k", "older")
        await caught_up(b, plain)
        assert await b.kv.get("k") == "older"
        proxied.half_open(lane="bus")  # For ever.
        await a.kv.set("k", "newer")
        await until(lambda: not b.local_stats().trusted)
        await until(lambda: b.local_stats().trusted)
        assert await b.kv.get("k") == "newer"
        await a.kv.set("k", "newest")
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"), seconds=1)


# Distrust


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"what is this?",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"v":2,"s":null,"o":"x","k":["test:__tc:kv:kv:k"]}',
        b'{"v":1,"s":null,"o":"x","k":["test:__tc:kv:kv:k"]}',
        b'{"v":1,"s":null,"o":"x","later":1}',
        b'{"v":1,"s":null,"o":"x","k":"test:__tc:kv:kv:k"}',
        b"[" * 100_000,
    ],
)
async def test_memory_is_dropped_after_a_message_that_makes_no_sense(
    pair: tuple[AgentCache, AgentCache], plain: valkey.Valkey, message: bytes
) -> None:
    a, b = pair
    await filled(a, b)
    await caught_up(b, plain)
    before = distrusted(b)
    plain.publish(CHANNEL, message)
    await until(lambda: distrusted(b) == before + 1)
    assert b.local_stats().l1_entry_count == 0
    await a.kv.set("k", "newer")
    assert await b.kv.get("k") == "newer"


async def test_memory_is_dropped_after_a_gap_in_the_numbers(
    pair: tuple[AgentCache, AgentCache], plain: valkey.Valkey
) -> None:
    a, b = pair
    keys = await filled(a, b)
    await caught_up(b, plain)
    before = distrusted(b)
    plain.incr(SEQUENCE)  # By somebody of whom nothing was heard.
    await a.kv.set("another", "x")
    await caught_up(b, plain)
    assert distrusted(b) == before + 1
    assert not any(in_l1(b, key) for key in keys.values())


async def test_memory_is_dropped_when_a_number_was_given_and_nothing_said(
    make_cache: MakeCache, plain: valkey.Valkey
) -> None:
    a, b = (make_cache(name="test", coherence=CoherenceOptions(tracking="off", max_staleness=0.6)) for _ in range(2))
    await filled(a, b)
    await caught_up(b, plain)
    before = distrusted(b)
    plain.incr(SEQUENCE)
    await until(lambda: distrusted(b) == before + 1, seconds=1)


async def test_a_change_is_not_missed_after_the_counter_was_lost(
    pair: tuple[AgentCache, AgentCache], plain: valkey.Valkey
) -> None:
    a, b = pair
    await filled(a, b)
    await caught_up(b, plain)
    before = distrusted(b)
    plain.delete(SEQUENCE)
    await a.kv.set("another", "x")
    await until(lambda: distrusted(b) > before)
    await a.kv.set("k", "newer")
    await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))
    assert await b.kv.get("k") == "newer"


@pytest.mark.parametrize("junk", [b"no number", b"9223372036854775807"])
async def test_a_counter_that_cannot_count_is_begun_anew(
    pair: tuple[AgentCache, AgentCache], plain: valkey.Valkey, junk: bytes
) -> None:
    a, b = pair
    await filled(a, b)
    plain.set(SEQUENCE, junk)
    await a.kv.set("k", "newer")
    await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"))
    assert int(plain.get(SEQUENCE)) > 1e15


@pytest.fixture
def silent_writer(server: EmbeddedValkey, plain: valkey.Valkey) -> Iterator[valkey.asyncio.Valkey]:
    """A client of a user who may do everything but publish and subscribe."""
    plain.acl_setuser(
        "silent", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"], reset_channels=True
    )
    path = server.url.removeprefix("unix://")
    yield valkey.asyncio.Valkey(unix_socket_path=path, username="silent", password="secret")
    plain.acl_deluser("silent")


async def test_changes_by_who_may_not_publish_are_followed_within_the_bound(
    make_cache: MakeCache, silent_writer: valkey.asyncio.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    options = CoherenceOptions(tracking="off", max_staleness=0.9)
    b = make_cache(name="test", coherence=options)
    async with AgentCache(silent_writer, name="test", coherence=options) as writer:
        assert "Cannot subscribe to invalidations" in caplog.text
        await writer.kv.set("k", "older")
        assert await b.kv.get("k") == "older"
        await until(lambda: b.local_stats().trusted)
        for number in range(3):
            await writer.kv.set("k", number)
            acknowledged = time.monotonic()
            while await b.kv.get("k") != number:
                assert time.monotonic() < acknowledged + 0.9 + 0.1  # A slow machine's.
                await asyncio.sleep(0.005)


async def test_the_very_first_change_is_not_missed_when_who_made_it_may_not_publish(
    make_cache: MakeCache, silent_writer: valkey.asyncio.Valkey, plain: valkey.Valkey
) -> None:
    """No change has ever been made when the replica subscribes; the second one is announced by somebody who may."""
    options = CoherenceOptions(tracking="off", max_staleness=3)
    a, b = (make_cache(name="test", coherence=options) for _ in range(2))
    await a.kv.get_or_load("k", lambda: "older")
    await a.flush_writes()
    assert await b.kv.get("k") == "older"
    async with AgentCache(silent_writer, name="test", coherence=options) as writer:
        await b.open()
        await writer.kv.set("k", "newer")
        await a.kv.set("another", "x")
        await caught_up(b, plain)
        await until(lambda: not in_l1(b, "test:__tc:kv:kv:k"), seconds=3.5)


async def test_an_answer_proves_nothing_of_what_was_numbered_after_it_was_asked_for(
    make_cache: MakeCache, silent_writer: valkey.asyncio.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question for the last number is answered long before the ping that carries it is sent."""
    options = CoherenceOptions(tracking="off", max_staleness=0.9)
    b = make_cache(name="test", coherence=options)
    async with AgentCache(silent_writer, name="test", coherence=options) as writer:
        await writer.kv.set("k", "older")
        assert await b.kv.get("k") == "older"
        await until(lambda: b.local_stats().trusted)
        level2 = b._engine.runtime.level2._level2  # type: ignore[union-attr]
        answered, release = asyncio.Event(), asyncio.Event()
        ask = level2.last_number

        async def held() -> int:
            number = await ask()
            answered.set()
            await release.wait()
            return number

        monkeypatch.setattr(level2, "last_number", held)
        await answered.wait()
        await writer.kv.set("k", "newer")
        acknowledged = time.monotonic()
        await until(lambda: time.monotonic() > acknowledged + 0.3)
        answered.clear()
        release.set()
        release.clear()
        await answered.wait()  # The next ping is held too: the one before is all the proof there is.
        assert b._engine.l1.trusted_until <= acknowledged + 0.9
        release.set()


# Decisions, without a server


class Decided:
    """A Coherence with all that it decides over."""

    def __init__(self) -> None:
        self.l1 = L1(max_entries=100, max_bytes=10_000, max_staleness=3)
        self.fences = Fences(lambda: 0.0)
        self.leases = Leases(None, origin="me", ttl=1)  # type: ignore[arg-type]
        self.policies_changed = 0
        self.coherence = Coherence(
            self.l1,
            self.fences,
            self.leases,
            origin="me",
            max_staleness=3,
            policies_key="settings",
            on_policies_changed=self._on_policies_changed,
        )
        self.coherence.subscribed(Position("server", 7))
        self.coherence.apply(Pong(0.0, 7))
        self.put("k", Group("tier", "kv"))
        self.put("l", Group("tier", "llm"))
        self.before = self.coherence.generation

    def _on_policies_changed(self) -> None:
        self.policies_changed += 1

    def put(self, key: str, *groups: Group) -> None:
        entry = Entry("v", deadline=100, began=0, expires_at=100, stored_at=0, groups=groups, size_bytes=10)
        assert self.l1.put(key, entry)

    @property
    def distrusted(self) -> int:
        return self.coherence.generation - self.before

    @property
    def kept(self) -> set[str]:
        return {key for key in ("k", "l") if self.l1.peek(key) is not None}

    def hear(self, number: int | None, origin: str = "other", **said: Any) -> None:
        self.coherence.apply(Received(Announcement(**said), origin, number))


@pytest.fixture
def decided() -> Decided:
    return Decided()


@pytest.mark.parametrize(("number", "is_gap"), [(8, False), (9, True), (7, True), (6, True), (1, True)])
def test_any_number_but_the_next_is_a_gap(decided: Decided, number: int, is_gap: bool) -> None:
    decided.hear(number, keys=("k",))
    assert decided.distrusted == is_gap
    assert decided.kept == (set() if is_gap else {"l"})
    decided.hear(number + 1, keys=("x",))
    assert decided.distrusted == is_gap


@pytest.mark.parametrize("number", [8, 9])
def test_own_changes_count_in_the_sequence_and_are_not_applied(decided: Decided, number: int) -> None:
    decided.hear(number, "me", keys=("k",))
    assert decided.distrusted == (number == 9)
    assert decided.kept == (set() if number == 9 else {"k", "l"})
    assert decided.coherence.heard_count == 0


def test_a_group_takes_its_entries_and_loads_with_it(decided: Decided) -> None:
    ours, theirs = (decided.fences.open("x", (Group("tier", tier),)) for tier in ("kv", "llm"))
    decided.hear(8, groups=(Group("tier", "kv"),))
    assert decided.kept == {"l"}
    assert (ours.holds, theirs.holds) == (False, True)


def test_an_overtaken_group_leaves_its_entries(decided: Decided) -> None:
    fence = decided.fences.open("x", (Group("tier", "kv"),))
    decided.hear(8, overtaken=(Group("tier", "kv"),))
    assert decided.kept == {"k", "l"}
    assert not fence.holds


def test_what_was_said_between_subscribing_and_asking_for_the_position_is_no_gap(decided: Decided) -> None:
    decided.coherence.subscribed(Position("server", 7))
    for number in (6, 7):
        decided.hear(number, keys=("k",))
    decided.coherence.apply(Pong(1.0, 7))
    decided.hear(8, keys=("x",))
    assert decided.distrusted == 0
    assert decided.kept == {"l"}  # It is applied all the same.


@pytest.mark.parametrize(
    ("position", "is_proof"),
    [
        (Position("server", 7), True),
        (Position("server", 8), False),
        (Position("server", 0), False),
        (Position("restarted", 7), False),
        (Position(None, 7), False),
    ],
)
def test_memory_outlives_a_subscription_only_with_proof(decided: Decided, position: Position, is_proof: bool) -> None:
    decided.coherence.subscribed(position)
    assert decided.distrusted == (not is_proof)
    assert decided.kept == ({"k", "l"} if is_proof else set())


def test_a_server_that_does_not_say_who_it_is_never_proves_anything(decided: Decided) -> None:
    decided.coherence.subscribed(Position(None, 7))
    decided.coherence.subscribed(Position(None, 7))
    assert decided.distrusted == 2


@pytest.mark.parametrize(("number", "is_missed"), [(7, False), (6, False), (0, False), (8, True)])
def test_an_answer_with_a_later_number_shows_what_was_not_heard(decided: Decided, number: int, is_missed: bool) -> None:
    decided.coherence.apply(Pong(5.0, number))
    assert decided.distrusted == is_missed
    assert decided.l1.trusted_until == 8.0
    decided.hear(max(number, 7) + 1, keys=("x",))
    assert decided.distrusted == is_missed


def test_an_older_answer_takes_no_trust_away(decided: Decided) -> None:
    decided.coherence.apply(Pong(5.0, 7))
    decided.coherence.apply(Pong(4.0, 7))
    assert decided.l1.trusted_until == 8.0


@pytest.mark.parametrize("event", [TrackedChange(None), Unreadable("it makes no sense")])
def test_what_says_nothing_definite_drops_everything(decided: Decided, event: Any) -> None:
    fence = decided.fences.open("x", ())
    decided.coherence.apply(event)
    assert decided.distrusted == 1
    assert decided.kept == set()
    assert (fence.holds, fence.in_doubt) == (True, True)


def test_the_servers_own_word_drops_keys_and_tells_of_settings(decided: Decided) -> None:
    fence = decided.fences.open("k", ())
    decided.coherence.apply(TrackedChange(("k", "settings", "unknown")))
    assert decided.kept == {"l"}
    assert not fence.holds
    assert (decided.policies_changed, decided.distrusted) == (1, 0)


def test_settings_changed_by_this_process_are_known_to_it(decided: Decided) -> None:
    decided.hear(None, "me", settings=True)
    assert decided.policies_changed == 0
    decided.hear(None, settings=True)
    assert decided.policies_changed == 1


async def test_whoever_waits_for_a_lease_is_woken_by_a_change_and_by_its_end(decided: Decided) -> None:
    for wake in (
        lambda: decided.hear(decided.coherence._position.number + 1, keys=("k",)),  # type: ignore[union-attr]
        lambda: decided.hear(None, settled=("k",)),
        lambda: decided.coherence.apply(TrackedChange(("k",))),
        lambda: decided.coherence.distrust("no reason"),
    ):
        waiting = asyncio.create_task(decided.leases.wait("k", 60))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        wake()
        async with asyncio.timeout(2):
            await waiting
