"""Pins: approved answers that win over both levels, in every process, until they are removed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking, load_llm
from tests.seams import deaf_to_announcements
from tests.support import UNTRACKED, MakeCache, Pair, until
from tiercache import AgentCache, L1Options, LlmResponse, Pin, TierOptions, UsageError
from tiercache.testing import FakeClock

WEATHER = {"city": "Sofia"}


@pytest.fixture(params=["valkey", "memory"])
def any_cache(request: pytest.FixtureRequest, cache: AgentCache, memory: AgentCache) -> AgentCache:
    """Return a cache on the server, and one of process memory alone."""
    return cache if request.param == "valkey" else memory


async def answer(cache: AgentCache, params: Any = HELLO) -> tuple[Any, Any]:
    result = await cache.llm.check(params)
    return result.response, result.source


# The pinned answer wins


async def test_pin_wins_over_stored_answer(any_cache: AgentCache) -> None:
    await any_cache.llm.store(HELLO, "cached")
    key = await any_cache.llm.pin(HELLO, "approved")
    result = await any_cache.llm.check(HELLO)
    assert (result.response, result.source, result.hit, result.ttl) == ("approved", "pin", True, None)
    assert key == result.key == any_cache.llm.key(HELLO).key


async def test_pin_survives_store_and_ttl(make_cache: MakeCache) -> None:
    clock = FakeClock()
    cache = make_cache(name="test", clock=clock.clock, default_ttl=0.05)
    await cache.llm.pin(HELLO, "approved")
    await cache.llm.store(HELLO, "stored", ttl=0.05)
    assert await answer(cache) == ("approved", "pin")
    clock.advance(1000)
    await asyncio.sleep(0.06)
    assert await answer(cache) == ("approved", "pin")


async def test_pinned_key_calls_no_loader(any_cache: AgentCache) -> None:
    await any_cache.llm.pin(HELLO, "approved")
    await any_cache.tool.pin("weather", WEATHER, {"high": 31})
    loader = Loader("loaded")
    for tags in ((), ("tag",)):
        result = await any_cache.llm.get_or_load(HELLO, loader, tags=tags)
        assert (result.response, result.source) == ("approved", "pin")
    value = await any_cache.tool.get_or_load("weather", WEATHER, lambda city: {})
    assert (value.value, value.source) == ({"high": 31}, "pin")
    only = await any_cache.llm.get_or_load(HELLO, loader, mode="only_cached", tags=["tag"])
    assert only.response == "approved"
    assert loader.calls == 0


async def test_pin_takes_response_or_blocks(any_cache: AgentCache) -> None:
    await any_cache.llm.pin(HELLO, LlmResponse("Hi", tokens={"input": 1_000_000}))
    assert (await any_cache.llm.check(HELLO)).cost == 2.5
    blocks = [{"type": "text", "text": "Hello"}, {"type": "image", "url": "x"}]
    await any_cache.llm.pin(HELLO, blocks)
    result = await any_cache.llm.check(HELLO)
    assert (result.response, result.content_blocks) == ("Hello", blocks)


async def test_decorated_function_returns_pinned_answer(any_cache: AgentCache) -> None:
    @any_cache.tool.cached
    async def weather(city: str) -> str:
        return "loaded"

    assert await weather("Sofia") == "loaded"
    await any_cache.tool.pin("weather", WEATHER, "approved")
    assert await weather("Sofia") == "approved"
    assert weather.metrics().l1_hits == 1


async def test_refresh_loads_and_stores_beneath_pin(cache: AgentCache) -> None:
    await cache.llm.pin(HELLO, "approved")
    for mode in ("refresh", "store_only", "bypass"):
        result = await cache.llm.get_or_load(HELLO, lambda mode=mode: mode, mode=mode)  # type: ignore[misc]
        assert (result.response, result.source) == (mode, "loader")
        assert await answer(cache) == ("approved", "pin")
    await cache.flush_writes()
    assert await cache.llm.unpin(HELLO)
    assert await answer(cache) == ("store_only", "l2")


async def test_unpin_returns_whether_there_was_a_pin(any_cache: AgentCache) -> None:
    await any_cache.llm.pin(HELLO, "approved")
    assert await any_cache.llm.unpin(HELLO)
    assert not await any_cache.llm.unpin(HELLO)
    assert await answer(any_cache) == (None, None)
    key = await any_cache.tool.pin(any_cache.tool.key("weather", WEATHER), 1)
    assert await any_cache.tool.unpin(any_cache.tool.key("weather", WEATHER))
    assert not await any_cache.llm.unpin(any_cache.llm.key(HELLO).key)
    assert key.startswith(f"{any_cache.name}:tool:weather:")


async def test_pins_returns_the_pins_of_the_tier(any_cache: AgentCache) -> None:
    llm = await any_cache.llm.pin(HELLO, "approved")
    tool = await any_cache.tool.pin("weather", WEATHER, [1])
    (pin,) = await any_cache.llm.pins()
    assert pin == Pin(llm, "llm", "gpt-4o", None, "approved", pin.pinned_at)
    assert pin.response == "approved"
    (pin,) = await any_cache.tool.pins()
    assert pin == Pin(tool, "tool", None, "weather", [1], pin.pinned_at)


async def test_pin_hit_counts_with_its_cost(any_cache: AgentCache) -> None:
    await any_cache.tool.pin("weather", WEATHER, 1, cost=0.25)
    await any_cache.tool.check("weather", WEATHER)
    tool = (await any_cache.stats()).per_tool["weather"]
    assert (tool.hits, tool.misses, tool.cost_saved_micros) == (1, 0, 250_000)


async def test_explain_says_that_key_is_pinned(any_cache: AgentCache) -> None:
    assert not (await any_cache.llm.explain(HELLO)).pinned
    await any_cache.llm.pin(HELLO, "approved")
    explanation = await any_cache.llm.explain(HELLO)
    assert (explanation.pinned, explanation.source, explanation.l1) == (True, "pin", "absent")
    assert "is pinned, and would be answered by its pin: " in str(explanation)


async def test_pin_refuses_wrong_answer(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", llm=TierOptions(max_value_bytes=100))
    for wrong in (1, object(), [1], LlmResponse("x", tokens={"input": -1}), "x" * 101):
        with pytest.raises(UsageError):
            await cache.llm.pin(HELLO, wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cost"):
        await cache.tool.pin("t", {}, 1, cost=-1)
    assert not plain.keys("test:__tc:pin:*")


# Bytes


async def test_pin_has_documented_bytes(cache: AgentCache, plain: valkey.Valkey) -> None:
    clock_free = await cache.llm.pin(HELLO, "approved")
    await cache.tool.pin("weather", WEATHER, "sun")
    sha = clock_free.removeprefix("test:llm:")
    data = plain.get(f"test:__tc:pin:llm:{sha}")
    assert data is not None
    assert data.startswith(b'{"response":"approved","model":"gpt-4o","storedAt":')
    assert plain.ttl(f"test:__tc:pin:llm:{sha}") == -1
    tool = cache.tool.key("weather", WEATHER).key.removeprefix("test:")
    assert plain.get(f"test:__tc:pin:{tool}").startswith(b'{"response":"sun","toolName":"weather"')  # type: ignore[union-attr]
    assert set(plain.zrange("test:__tc:idx:pin:all", 0, -1)) == {
        f"test:__tc:pin:llm:{sha}".encode(),
        f"test:__tc:pin:{tool}".encode(),
    }
    assert plain.ttl("test:__tc:idx:pin:all") == -1


# Invalidations leave the pin, a flush removes it


INVALIDATIONS: dict[str, Any] = {
    "key": lambda cache: cache.llm.invalidate(HELLO),
    "model": lambda cache: cache.llm.invalidate_by_model("gpt-4o", sweep=True),
    "tag": lambda cache: cache.invalidate_tag("tag"),
    "tier": lambda cache: cache.llm.clear(),
    "l1": lambda cache: asyncio.sleep(0, cache.clear_l1()),
}


@pytest.mark.parametrize("kind", INVALIDATIONS)
async def test_invalidation_leaves_pin_and_removes_entry(any_cache: AgentCache, kind: str) -> None:
    await any_cache.llm.pin(HELLO, "approved")
    await any_cache.llm.store(HELLO, "beneath", tags=["tag"])
    await INVALIDATIONS[kind](any_cache)
    assert await answer(any_cache) == ("approved", "pin")
    if kind != "l1":
        await any_cache.llm.unpin(HELLO)
        assert await answer(any_cache) == (None, None)


async def test_invalidation_of_tool_leaves_pin(any_cache: AgentCache) -> None:
    await any_cache.tool.pin("weather", WEATHER, "approved")
    await any_cache.tool.store("weather", WEATHER, "beneath")
    await any_cache.tool.invalidate("weather", WEATHER)
    await any_cache.tool.invalidate_by_tool("weather")
    assert (await any_cache.tool.check("weather", WEATHER)).value == "approved"


async def test_flush_removes_pins(any_cache: AgentCache, plain: valkey.Valkey) -> None:
    await any_cache.llm.pin(HELLO, "approved")
    await any_cache.tool.pin("weather", WEATHER, 1)
    assert await any_cache.flush() == 2
    assert await answer(any_cache) == (None, None)
    assert await any_cache.llm.pins() == await any_cache.tool.pins() == []
    assert not plain.keys("*:__tc:pin:*")


async def test_pin_is_found_by_later_cache(cache: AgentCache, make_cache: MakeCache) -> None:
    await cache.llm.store(HELLO, "cached")
    await cache.llm.pin(HELLO, "approved")
    await cache.aclose()
    assert await answer(make_cache(name="test")) == ("approved", "pin")


# Several processes


async def test_other_process_follows_pin_and_unpin(replicas: Pair) -> None:
    a, b = replicas
    await a.llm.store(HELLO, "cached")
    await until(lambda: b_answers(b, "cached"))
    await a.llm.pin(HELLO, "approved")
    await until(lambda: b_answers(b, "approved"))
    await a.llm.pin(HELLO, "better")
    await until(lambda: b_answers(b, "better"))
    await a.llm.unpin(HELLO)
    await until(lambda: b_answers(b, "cached"))


async def test_other_process_follows_flush(replicas: Pair) -> None:
    a, b = replicas
    await a.llm.pin(HELLO, "approved")
    await until(lambda: b_answers(b, "approved"))
    await a.flush()
    await until(lambda: b_answers(b, None))


async def b_answers(cache: AgentCache, text: str | None) -> bool:
    return bool((await cache.llm.check(HELLO)).response == text)


async def test_tracked_process_follows_delete_of_pin_by_other_software(cache: AgentCache, plain: valkey.Valkey) -> None:
    await until(lambda: is_tracked(cache))
    key = await cache.llm.pin(HELLO, "approved")
    assert await answer(cache) == ("approved", "pin")
    plain.delete(key.replace("test:", "test:__tc:pin:", 1))
    await until(lambda: b_answers(cache, None))


async def is_tracked(cache: AgentCache) -> bool:
    return (await cache.kv.explain("k")).tracked


async def test_faces_follow_pins_of_each_other_at_once(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message has to arrive: the face that changes a pin hands the change over."""
    deaf_to_announcements(monkeypatch)
    cache = make_cache(name="test", coherence=UNTRACKED)
    await cache.llm.store(HELLO, "cached")
    plain_face = cache.sync.llm

    def plain_steps() -> None:
        assert plain_face.check(HELLO).response == "cached"
        plain_face.pin(HELLO, "approved")

    await asyncio.to_thread(plain_steps)
    assert await answer(cache) == ("approved", "pin")
    await cache.llm.pin(HELLO, "better")
    assert (await asyncio.to_thread(plain_face.check, HELLO)).response == "better"
    (pin,) = await asyncio.to_thread(plain_face.pins)
    assert pin.response == "better"
    assert await asyncio.to_thread(plain_face.unpin, HELLO)
    assert await answer(cache) == ("cached", "l2")
    await asyncio.to_thread(cache.sync.tool.pin, "t", {}, 1)
    assert (await cache.tool.check("t", {})).value == 1
    assert await asyncio.to_thread(cache.sync.tool.unpin, "t", {})
    assert await asyncio.to_thread(cache.sync.tool.pins) == []


# Races


async def test_load_that_began_before_pin_leaves_pin(any_cache: AgentCache) -> None:
    loader = Loader("loaded", held=True)
    loading = load_llm(any_cache, loader)
    await loader.started.wait()
    await any_cache.llm.pin(HELLO, "approved")
    # A later caller does not wait for the load.
    assert (await any_cache.llm.get_or_load(HELLO, loader)).response == "approved"
    loader.release()
    assert (await loading).response == "loaded"
    await any_cache.flush_writes()
    assert await answer(any_cache) == ("approved", "pin")


async def test_load_in_other_process_leaves_pin(replicas: Pair) -> None:
    a, b = replicas
    loader = Loader("loaded", held=True)
    loading = load_llm(b, loader)
    await loader.started.wait()
    before = b.local_stats().heard_count
    await a.llm.pin(HELLO, "approved")
    await until(lambda: b.local_stats().heard_count > before)
    loader.release()
    assert (await loading).response == "loaded"
    await b.flush_writes()
    assert await answer(b) == ("approved", "pin")


async def test_pin_of_other_tier_option_off_l1_is_served(make_cache: MakeCache) -> None:
    cache = make_cache(name="test", llm=TierOptions(l1=False), l1=L1Options(max_entries=1))
    requests = [asking(str(number)) for number in range(5)]
    for number, request in enumerate(requests):
        await cache.llm.pin(request, str(number))
    assert [await answer(cache, request) for request in requests] == [(str(n), "pin") for n in range(5)]


async def test_reindex_finds_pins_that_their_index_lacks(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache, other = make_cache(name="test"), make_cache(name="test")
    await cache.llm.pin(HELLO, "approved")
    await cache.tool.pin("weather", WEATHER, "approved")
    await cache.aclose()
    plain.delete("test:__tc:idx:pin:all")
    await other.llm.store(HELLO, "cached")
    assert await answer(other) == ("cached", "l1")
    assert await other.llm.pins() == []
    assert await other.reindex() == 2
    assert [pin.key for pin in await other.llm.pins()] == [other.llm.key(HELLO).key]
    # The entry has left L1.
    assert await answer(other) == ("approved", "pin")
    assert (await other.tool.check("weather", WEATHER)).source == "pin"
    assert await other.flush() == 3
    assert not list(plain.scan_iter("test:__tc:pin:*"))
