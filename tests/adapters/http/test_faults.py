"""Streams of wrapped clients when a reader, the provider, the cache or Valkey fails: in one process."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from typing import Any, Final

import pytest
import valkey

from tests.adapters.http.callers import (
    NewCaller,
    Parts,
    callers_of,
    close,
    exchanges,
    followed_bytes,
    follower_of,
    library,
    nothing_is_left,
    outcome,
    text_of,
)
from tests.providers import Gate, ProviderServer, Script
from tests.requests import turns
from tests.seams import follower_count, internals
from tests.support import collect_generators, until
from tiercache import AgentCache, ResilienceOptions, TierOptions
from tiercache.testing import ChaosProxy

MIB: Final = 1 << 20
TEXT: Final = "Answer 1: part 1 part 2 part 3 part 4"


# Readers that leave


async def test_stream_goes_on_for_the_other_readers_of_one_that_hangs_up(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    first, _, parts = await follower_of(caller)
    others = [asyncio.create_task(caller.text()) for _ in range(5)]
    await until(lambda: follower_count() == 6)
    await parts.read(2)
    await close(first)  # The reader whose request it was.
    gate.release()
    assert await asyncio.gather(*others) == [TEXT] * 5
    assert provider.call_count == 1
    assert not provider.hung_up
    await nothing_is_left(provider, plain, caller.cache)
    assert len(exchanges(plain)) == 1


async def test_stream_is_cancelled_when_its_last_reader_hangs_up(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    readers = [await follower_of(caller) for _ in range(3)]
    for context, _, parts in readers:
        await parts.read(2)
        assert not provider.hung_up
        await close(context)
    await provider.until(lambda: provider.hung_up)
    await nothing_is_left(provider, plain, caller.cache)
    assert not exchanges(plain)
    # Not from the recording that was given up.
    assert await caller.text() == TEXT.replace("1", "2", 1)
    assert provider.call_count == 2


async def test_stream_is_read_to_its_end_without_readers_if_the_tier_finishes_loads(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(llm=TierOptions(on_abandon="finish")), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    context, _, parts = await follower_of(caller)
    await parts.read(1)
    await close(context)
    gate.release()
    await nothing_is_left(provider, plain, caller.cache)
    assert not provider.hung_up
    assert await caller.text() == TEXT
    assert provider.call_count == 1


async def test_stream_that_is_complete_is_stored_although_its_reader_leaves_at_the_last_event(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(), Gate("eof")
    provider.enqueue(Script(gates=(gate,)))
    context, _, parts = await follower_of(caller)
    while not parts.is_done:
        await parts.next()
    await close(context)
    gate.release()
    await nothing_is_left(provider, plain, caller.cache)
    assert len(exchanges(plain)) == 1
    assert await caller.text() == TEXT
    assert provider.call_count == 1


async def test_stream_is_stored_before_its_body_has_ended(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(), Gate("eof")
    provider.enqueue(Script(gates=(gate,)))
    with caller.cache.watch() as seen:
        assert await caller.text() == TEXT
        assert await caller.text() == TEXT  # The connection is still open: its end does not count.
    assert [outcome.source for outcome in seen] == ["loader", "l1"]
    await until(gate.held.is_set)  # The provider has written all events, and not the end.
    gate.release()
    await nothing_is_left(provider, plain, caller.cache)
    assert provider.connection_count == 1


async def test_stream_of_a_response_that_its_caller_drops_is_cancelled(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(), Gate(1)
    provider.enqueue(Script(gates=(gate,)))
    request = caller.client.build_request("POST", "chat/completions", json=caller.body("hello", stream=True))
    response = await caller.client.send(request, stream=True)
    assert response.extensions["tiercache"].source == "loader"
    del response, request
    await collect_generators()
    gc.collect()
    await provider.until(lambda: provider.hung_up)
    await nothing_is_left(provider, plain, caller.cache)


async def test_stream_survives_random_cancellation_of_five_hundred_readers(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    caller = new_caller()
    provider.script = Script(parts=tuple(f"<{number}>" for number in range(40)), delay_part=0.002)
    text = "".join(f"<{number}>" for number in range(40))
    whole, cancelled = 0, 0

    async def read(ask: str) -> str:
        async with caller.stream(ask) as response:
            parts = Parts(response)
            while await parts.next() is not None:
                assert text.startswith(parts.text)
            assert parts.is_done
            return parts.text

    for wave in range(25):
        readers = [asyncio.create_task(read(f"wave {wave}")) for _ in range(20)]
        if wave % 3 == 0:
            await turns(dice.randrange(40))
        else:
            await asyncio.sleep(dice.uniform(0, 0.12))
        for reader in dice.sample(readers, dice.choice((5, 15, 20))):
            reader.cancel()
            if dice.random() < 0.3:
                await turns(dice.randrange(4))
        for result in await asyncio.gather(*readers, return_exceptions=True):
            if isinstance(result, asyncio.CancelledError):
                cancelled += 1
            else:
                assert result == text, f"seed {seed}"
                whole += 1
    assert whole + cancelled == 500
    assert whole, f"seed {seed}"
    assert cancelled, f"seed {seed}"
    await collect_generators()
    await nothing_is_left(provider, plain, caller.cache)


# A provider that fails


@pytest.mark.parametrize("death", ["reset", "close"])
async def test_stream_whose_provider_dies_brings_each_reader_its_parts_and_then_the_error(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, death: Any
) -> None:
    caller, gate = new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,), dies_after=3, death=death))
    readers = [asyncio.create_task(outcome(caller)) for _ in range(10)]
    await until(lambda: follower_count() == 10)
    gate.release()
    for text, error in await asyncio.gather(*readers):
        assert TEXT.startswith(text)
        # A reset may overtake the last bytes on their way.
        assert text.startswith("Answer 1: part 1")
        assert isinstance(error, library().TransportError)
    assert provider.call_count == 1
    await collect_generators()
    await nothing_is_left(provider, plain, caller.cache)
    assert not exchanges(plain)
    assert await caller.text() == TEXT.replace("1", "2", 1)
    await nothing_is_left(provider, plain, caller.cache)


async def test_stream_that_fails_is_not_shared_with_a_caller_that_tries_again_at_once(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller = new_caller()
    provider.enqueue(Script(dies_after=2), Script(dies_after=2), Script())
    errors = 0
    while True:
        text, error = await outcome(caller)
        if error is None:
            break
        errors += 1
    assert errors == 2
    assert provider.call_count == 3
    assert text.startswith("Answer 3")
    await collect_generators()
    await nothing_is_left(provider, plain, caller.cache)


async def test_error_of_a_shared_stream_has_no_cycle_of_causes(new_caller: NewCaller, provider: ProviderServer) -> None:
    caller = new_caller()
    provider.enqueue(Script(dies_after=1))
    _, error = await outcome(caller)
    seen: list[BaseException] = []
    while error is not None:
        assert error not in seen
        seen.append(error)
        error = error.__cause__  # type: ignore[assignment]
    await collect_generators()


@pytest.mark.parametrize("is_stream", [True, False])
async def test_refusal_of_the_provider_reaches_ten_concurrent_callers_by_one_request(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, is_stream: bool
) -> None:
    caller, gate = new_caller(), Gate("head")
    provider.enqueue(Script(status=429, retry_after="1", gates=(gate,)))

    async def call() -> tuple[int, bytes]:
        if not is_stream:
            response = await caller.whole()
            return response.status_code, response.content
        async with caller.stream() as response:
            return response.status_code, await response.aread()

    calls = [asyncio.create_task(call()) for _ in range(10)]
    await provider.until(gate.held.is_set)
    await turns(50)
    gate.release()
    answers = await asyncio.gather(*calls)
    assert {status for status, _ in answers} == {429}
    assert len({body for _, body in answers}) == 1
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache)
    assert not exchanges(plain)
    assert (await caller.text()).startswith("Answer 2")


@pytest.mark.parametrize(
    "script",
    [
        Script(error_after=3),
        Script(omits_terminal=True),
        Script(finish="length"),
        Script(finish="refusal"),
        Script(finish="content_filter"),
    ],
    ids=["error event", "no terminal event", "length", "refusal", "content filter"],
)
async def test_stream_without_a_full_answer_reaches_its_readers_and_is_not_stored(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, script: Script
) -> None:
    caller, gate = new_caller(), Gate(1)
    provider.enqueue(Script(**{**vars(script), "gates": (gate,)}))

    async def body() -> bytes:
        async with caller.stream() as response:
            return await response.aread()

    readers = [asyncio.create_task(body()) for _ in range(3)]
    await provider.until(gate.held.is_set)
    gate.release()
    bodies = await asyncio.gather(*readers)
    assert len(set(bodies)) == 1
    assert b"Answer 1" in bodies[0] or script.finish == "refusal"
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache)
    assert not exchanges(plain)
    assert (await caller.text()).startswith("Answer 2")
    await nothing_is_left(provider, plain, caller.cache)


# Sizes


async def test_stream_of_twenty_megabytes_reaches_a_fast_and_a_slow_reader_within_bounded_memory(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller = new_caller(llm=TierOptions(max_value_bytes=MIB))
    provider.enqueue(Script.of_size(20 * MIB))
    fast, _, fast_parts = await follower_of(caller)
    slow, _, slow_parts = await follower_of(caller)
    reading = asyncio.create_task(fast_parts.read())
    most = 0
    while await slow_parts.next() is not None:
        most = max(most, followed_bytes())
        await turns(5)
    await reading
    for parts in (fast_parts, slow_parts):
        assert parts.is_done
        assert len(parts.text) == 20 * MIB
    assert fast_parts.text == slow_parts.text
    assert 0 < most <= 2 * MIB
    await close(fast, slow)
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache)
    assert not exchanges(plain)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_answer_that_is_too_large_at_once_reaches_every_caller_from_its_first_byte(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, is_stream: bool
) -> None:
    """The parts arrive faster than the callers wake: no part may be forgotten before they have their places."""
    caller, gate = new_caller(llm=TierOptions(max_value_bytes=1024)), Gate("head")
    provider.enqueue(Script.of_size(3 * MIB, part_bytes=4096, gates=(gate,)))

    async def call() -> str:
        if is_stream:
            return await caller.text()
        return (await caller.whole()).json()["choices"][0]["message"]["content"]

    calls = [asyncio.create_task(call()) for _ in range(5)]
    await provider.until(gate.held.is_set)
    gate.release()
    for text in await asyncio.gather(*calls):
        assert len(text) == 3 * MIB
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache)
    assert not exchanges(plain)


async def test_stream_that_has_become_too_large_leaves_later_callers_their_own_request(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    """It gives its lease up: no caller can follow it, and it will never be stored."""
    caller, gate = new_caller(llm=TierOptions(max_value_bytes=64 * 1024)), Gate(4)
    provider.enqueue(Script.of_size(8 * 65_536, gates=(gate,)), Script())
    large, _, parts = await follower_of(caller)
    await parts.read(4)
    assert (await caller.text()).startswith("Answer 2")
    gate.release()
    await parts.read()
    assert len(parts.text) == 8 * 65_536
    await close(large)
    await nothing_is_left(provider, plain, caller.cache)
    assert len(exchanges(plain)) == 1
    assert (await caller.text()).startswith("Answer 2")


# Limits


async def test_stream_that_waits_for_its_reader_lends_its_slot_to_the_load_that_the_reader_waits_for(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller = new_caller(llm=TierOptions(max_value_bytes=64 * 1024), resilience=ResilienceOptions(max_loads=1))
    provider.enqueue(Script.of_size(4 * MIB), Script())
    context, _, parts = await follower_of(caller)
    await parts.read(1)
    await until(lambda: followed_bytes() > 256 * 1024)
    assert (await caller.text("other")).startswith("Answer 2")
    await parts.read()
    assert len(parts.text) == 4 * MIB
    await close(context)
    await nothing_is_left(provider, plain, caller.cache)


async def test_stream_that_takes_longer_than_load_timeout_ends_with_that_error_after_its_parts(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(resilience=ResilienceOptions(load_timeout=0.5)), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    readers = [asyncio.create_task(outcome(caller)) for _ in range(3)]
    for text, error in await asyncio.gather(*readers):
        assert text == "Answer 1: part 1"
        assert isinstance(error, library().ReadTimeout)
        assert "load_timeout" in str(error)
    await collect_generators()
    await provider.until(lambda: provider.hung_up)
    await nothing_is_left(provider, plain, caller.cache)
    assert not exchanges(plain)


async def test_streams_of_nested_callers_are_left_when_they_are_cancelled_while_they_get_their_slot_back(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(resilience=ResilienceOptions(max_loads=2)), Gate("head")
    cache: AgentCache = caller.cache
    provider.enqueue(Script(gates=(gate, Gate(1))))
    started, busy = asyncio.Event(), asyncio.Event()

    async def loader() -> str:
        return await caller.text()

    async def other() -> str:
        started.set()
        await busy.wait()
        return "other"

    # The stream takes one slot, the nested caller lends the other, and a third load takes that one.
    first = asyncio.create_task(follower_of(caller))
    await provider.until(gate.held.is_set)
    nested = asyncio.create_task(cache.kv.get_or_load("nested", loader))
    third = asyncio.create_task(cache.kv.get_or_load("third", other))
    await started.wait()
    gate.release()
    context, _, parts = await first
    await parts.read(1)
    # The nested caller has its place in the stream, and waits for a slot.
    assert follower_count() == 2
    await turns(20)
    nested.cancel()
    with pytest.raises(asyncio.CancelledError):
        await nested
    await close(context)
    busy.set()
    await third
    await provider.until(lambda: provider.hung_up)
    await nothing_is_left(provider, plain, cache)


# Changes while a stream is under way


@pytest.mark.parametrize("change", ["tag", "model", "clear", "delete"])
async def test_stream_that_a_change_overtakes_reaches_its_readers_and_is_not_stored(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, change: str
) -> None:
    caller, gate = new_caller(), Gate(2)
    cache: AgentCache = caller.cache
    provider.enqueue(Script(gates=(gate,)), Script())
    context, response, parts = await follower_of(caller, control="tag=a")
    await parts.read(1)
    if change == "tag":
        await cache.invalidate_tag("a")
    elif change == "model":
        await cache.llm.invalidate_by_model("gpt-4o")
    elif change == "clear":
        await cache.llm.clear()
    else:
        plain.delete(response.extensions["tiercache"].key)
    if change != "delete":
        # Not from the stream that the change has overtaken, although it is still under way.
        assert (await caller.text(control="tag=a")).startswith("Answer 2")
    gate.release()
    await parts.read()
    assert parts.text == TEXT
    await close(context)
    await nothing_is_left(provider, plain, cache)
    assert (await caller.text(control="tag=a")).startswith("Answer 2")
    assert provider.call_count == 2
    await nothing_is_left(provider, plain, cache)


# A cache that is closed


async def test_stream_is_read_to_its_end_while_the_cache_is_closed(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    context, _, parts = await follower_of(caller)
    await parts.read(1)
    closing = asyncio.create_task(caller.cache.aclose())
    await until(lambda: closing.done() or caller.cache.local_stats() is not None)
    await turns(10)
    assert not closing.done()
    async with caller.stream("another") as response:
        assert response.status_code == 400
        assert response.headers["x-should-retry"] == "false"
        assert "closed" in json.loads(await response.aread())["error"]["message"]
    gate.release()
    await parts.read()
    assert parts.text == TEXT
    await close(context)
    await closing
    assert len(exchanges(plain)) == 1
    assert provider.call_count == 1
    await nothing_is_left(provider, plain)


async def test_stream_ends_with_an_error_if_the_cache_is_closed_and_waits_no_longer(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, gate = new_caller(resilience=ResilienceOptions(drain_timeout=0.1)), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    readers = [asyncio.create_task(outcome(caller)) for _ in range(3)]
    await provider.until(gate.held.is_set)
    await until(lambda: followed_bytes() > 0)
    await caller.cache.aclose()
    for text, error in await asyncio.gather(*readers):
        assert text == "Answer 1: part 1"
        assert isinstance(error, library().RemoteProtocolError)
        assert "closed" in str(error)
    await collect_generators()
    await provider.until(lambda: provider.hung_up)
    await nothing_is_left(provider, plain)
    assert not exchanges(plain)


async def test_body_of_a_stream_is_read_after_the_cache_was_closed(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller = new_caller()
    context, response, _ = await follower_of(caller)
    await caller.cache.aclose()
    assert await text_of(response) == TEXT
    await close(context)
    await nothing_is_left(provider, plain)


# Valkey that fails


async def test_stream_goes_on_while_valkey_is_killed_and_is_cached_in_memory(
    provider: ProviderServer, proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    options = {"resilience": ResilienceOptions(l2_timeout=0.2, breaker_failures=2, breaker_pause=0.05)}
    async with AgentCache.from_url(proxy.url, name="test", **options) as cache, callers_of(provider) as new:
        caller, gate = new(cache), Gate(2)
        provider.enqueue(Script(gates=(gate,)))
        context, _, parts = await follower_of(caller)
        await parts.read(1)
        proxy.refuse()
        proxy.kill()
        follower = asyncio.create_task(caller.text())
        await turns(20)
        gate.release()
        await parts.read()
        assert parts.text == await follower == TEXT
        await close(context)
        assert provider.call_count == 1
        proxy.heal()
        await until(lambda: not cache.local_stats().degraded, 10)
        await nothing_is_left(provider, None, cache)
        assert (await caller.text()).startswith("Answer")
        assert (await caller.text("other")).startswith("Answer")
        await nothing_is_left(provider, None, cache)


async def test_stream_works_on_a_cache_in_memory(provider: ProviderServer, memory: AgentCache) -> None:
    async with callers_of(provider) as new:
        caller, gate = new(memory), Gate(2)
        provider.enqueue(Script(gates=(gate,)))
        readers = [asyncio.create_task(caller.text()) for _ in range(10)]
        await provider.until(gate.held.is_set)
        gate.release()
        assert await asyncio.gather(*readers) == [TEXT] * 10
        assert await caller.text() == TEXT
        assert provider.call_count == 1


# Stream wait and leases


async def test_stream_that_cannot_be_joined_after_a_lost_message_is_read_live_from_valkey(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    """Its load still has the lease: no change has overtaken it, although this process may have missed one."""
    caller, gate = new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    context, _, parts = await follower_of(caller)
    await parts.read(1)
    internals(caller.cache).distrust()
    later, _, later_parts = await follower_of(caller)
    await later_parts.read(2)
    assert later_parts.text == "Answer 1: part 1"
    gate.release()
    for each in (parts, later_parts):
        await each.read()
        assert each.text == TEXT
    await close(context, later)
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache)


# Through an SDK


async def test_stream_of_an_sdk_whose_last_caller_breaks_off_is_cancelled_and_a_read_one_is_stored(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    cache, gate = new_caller().cache, Gate(2)
    provider.enqueue(Script(gates=(gate,)), Script())
    asked: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with cache.wrap(openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k")) as client:
        for count in (1, 2):
            async with await client.chat.completions.create(**asked) as events:
                async for _ in events:
                    if count == 1:
                        break
            await collect_generators()
            if count == 1:
                await provider.until(lambda: provider.hung_up, 10)
            await nothing_is_left(provider, plain, cache)
            assert len(exchanges(plain)) == count - 1
        async with await client.chat.completions.create(**asked) as events:
            text = "".join([event.choices[0].delta.content or "" async for event in events if event.choices])
    assert text == TEXT.replace("1", "2", 1)
    assert provider.call_count == 2
