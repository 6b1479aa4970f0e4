"""Pins while Valkey is away, refuses, or has lost the messages about them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
import valkey

from tests.faults.server import FaultServer, running_server
from tests.requests import HELLO, Loader, asking
from tests.seams import HeldCommands, deaf_to_announcements, internals, set_pin_limits
from tests.support import UNTRACKED, MakeCache, Pair, until
from tiercache import AgentCache, L2CommandError, L2UnavailableError, ResilienceOptions
from tiercache.embedded import EmbeddedValkey

QUICK = ResilienceOptions(l2_timeout=0.2, breaker_failures=1, breaker_pause=0.05)


@pytest.fixture
def mortal() -> Iterator[FaultServer]:
    """Return a server that a test may kill and start again."""
    with running_server() as server:
        yield server


async def answers(cache: AgentCache, text: str | None) -> bool:
    return bool((await cache.llm.check(HELLO)).response == text)


async def is_degraded(cache: AgentCache) -> bool:
    return (await cache.llm.check(asking("other"))).degraded


async def test_known_pin_is_served_while_valkey_is_killed(mortal: FaultServer) -> None:
    async with AgentCache.from_url(mortal.admin_url, name="test", resilience=QUICK) as cache:
        await cache.llm.pin(HELLO, "approved")
        mortal.save()
        mortal.kill()
        await until(lambda: is_degraded(cache), 20)
        result = await cache.llm.get_or_load(HELLO, Loader())
        assert (result.response, result.source) == ("approved", "pin")
        with pytest.raises(L2UnavailableError):
            await cache.llm.pin(HELLO, "better")
        with pytest.raises(L2UnavailableError):
            await cache.llm.unpin(HELLO)
        with pytest.raises(L2UnavailableError):
            await cache.llm.pins()
        # The failed changes may have been made: the older answer is served until Valkey tells.
        assert await answers(cache, "approved")
        mortal.start()
        await until(lambda: not cache.local_stats().degraded, 20)
        assert await answers(cache, "approved")
        assert await cache.llm.unpin(HELLO)
        assert await answers(cache, None)


async def test_cache_without_valkey_at_open_finds_pin_later(own_server: tuple[EmbeddedValkey, int]) -> None:
    server, pid = own_server
    async with AgentCache.from_url(server.url, name="test") as other:
        await other.llm.pin(HELLO, "approved")
    os.kill(pid, signal.SIGSTOP)
    async with AgentCache.from_url(server.url, name="test", resilience=QUICK) as cache:
        # Valkey may have a pin, but does not tell: the loader answers.
        assert (await cache.llm.get_or_load(HELLO, Loader("loaded"))).response == "loaded"
        os.kill(pid, signal.SIGCONT)
        await until(lambda: answers(cache, "approved"), 20)


async def test_pin_whose_message_was_lost_is_found_once_l1_is_distrusted(
    replicas: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that may have missed a change lists the pins again."""
    a, b = replicas
    deaf_to_announcements(monkeypatch)
    await b.llm.get_or_load(HELLO, Loader("loaded"))
    await a.llm.pin(HELLO, "approved")
    assert await answers(b, "loaded")
    internals(b).distrust()
    assert await answers(b, "approved")


async def test_removed_pin_is_noticed_once_l1_is_distrusted(replicas: Pair, plain: valkey.Valkey) -> None:
    a, b = replicas
    key = await a.llm.pin(HELLO, "approved")
    await until(lambda: answers(b, "approved"))
    plain.delete(key.replace("test:", "test:__tc:pin:", 1))
    assert await answers(b, "approved")
    internals(b).distrust()
    assert await answers(b, None)


async def test_due_listing_is_made_without_a_lookup(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose L1 answers every lookup makes the listing all the same."""
    held = HeldCommands(monkeypatch, "ZSCAN")
    internals(cache).distrust()
    await until(held.answered.is_set)
    held.release.set()


def refused_count(plain: valkey.Valkey) -> int:
    """Return how many ZSCANs the server has refused."""
    return int(plain.info("commandstats").get("cmdstat_zscan", {}).get("rejected_calls", 0))


async def test_user_without_right_to_index_gets_refusal(url: str, plain: valkey.Valkey) -> None:
    plain.execute_command("ACL", "SETUSER", "worker", "reset", "on", "nopass", "~*", "&*", "+@all", "-zscan")
    user = f"unix://worker@{url.removeprefix('unix://')}?password=x"
    async with AgentCache.from_url(user, name="test") as cache:
        await cache.llm.pin(HELLO, "approved")
        assert await answers(cache, "approved")
        assert (await cache.llm.get_or_load(asking("other"), Loader("loaded"))).response == "loaded"
        with pytest.raises(L2CommandError):
            await cache.llm.pins()
        before = refused_count(plain)
        for number in range(30):
            await cache.llm.check(asking(str(number)))
        # The refusal does not cost every lookup a listing.
        assert refused_count(plain) - before < 10
    plain.execute_command("ACL", "DELUSER", "worker")


async def test_pins_beyond_memory_are_read_from_valkey(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    set_pin_limits(monkeypatch, most_bytes=300)
    requests = [asking(str(number)) for number in range(120)]
    a = make_cache(name="test")
    for number, request in enumerate(requests):
        await a.llm.pin(request, str(number))
    b = make_cache(name="test")
    for cache in (a, b):
        found = [await cache.llm.check(request) for request in requests]
        assert [(result.response, result.source) for result in found] == [(str(n), "pin") for n in range(120)]
    assert len(await b.llm.pins()) == 120


async def test_pin_set_during_listing_is_served(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing was asked for before the pin, and its answer arrives after it."""
    cache = make_cache(name="test", coherence=UNTRACKED)
    await cache.open()
    await cache.llm.pin(asking("other"), "other")
    internals(cache).distrust()
    held = HeldCommands(monkeypatch, "ZSCAN")
    lookup = asyncio.create_task(cache.llm.check(HELLO))
    await held.answered.wait()
    await cache.llm.pin(HELLO, "approved")
    held.release.set()
    assert (await lookup).response == "approved"
    assert await answers(cache, "approved")


async def test_flush_removes_pin_that_was_set_during_the_flush(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush has read the index, and deletes the key: this process must not go on serving the later pin."""
    await cache.llm.pin(HELLO, "approved")
    held = HeldCommands(monkeypatch, "EXISTS")  # Sent with the first page of the index.
    flushing = asyncio.create_task(cache.flush())
    await held.answered.wait()
    await cache.llm.pin(HELLO, "better")
    held.release.set()
    assert await flushing == 1
    assert await answers(cache, None)
