"""Streams of wrapped clients that several processes share while they arrive; a cache stands in for each process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import fakeredis
import pytest
import valkey

from tests.adapters.http.callers import (
    Caller,
    NewCaller,
    Parts,
    callers_of,
    close,
    exchanges,
    followed_bytes,
    follower_of,
    library,
    live_streams,
    nothing_is_left,
    outcome,
    placeholders,
)
from tests.providers import Gate, ProviderServer, Script
from tests.requests import turns
from tests.seams import HeldCommands, HeldReads, HeldWrites, caught_up, exchanges_of, follower_count, internals
from tests.support import UNTRACKED, collect_generators, until
from tiercache import AgentCache, CoherenceOptions, ConnectionOptions, ResilienceOptions, TierOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.call import Loaded
from tiercache.streams.recording import Recording
from tiercache.testing import ChaosProxy
from tiercache.tiers.llm.exchanges import ExchangeOptions, Head

TEXT: Final = "Answer 1: part 1 part 2 part 3 part 4"
KIB: Final = 1024


async def until_followed(plain: valkey.Valkey, count: int = 1) -> bytes:
    """Wait until the one live stream on the server has ``count`` entries; return its key."""
    await until(lambda: [key for key in live_streams(plain) if plain.xlen(key) >= count])
    (key,) = live_streams(plain)
    return key


async def text_up_to(parts: Parts, text: str) -> None:
    """Read parts until they make ``text``."""
    while len(parts.text) < len(text):
        assert await parts.next() is not None
    assert parts.text == text


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_live_stream_brings_each_part_to_readers_in_other_processes_before_the_next_is_made(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, multiplexed: bool
) -> None:
    gates = [Gate(place) for place in range(1, 5)]
    connection = ConnectionOptions(multiplexed=multiplexed)
    # Without tracking: the server's message about the stored value could arrive after that value, and drop it from L1.
    callers = [new_caller(connection=connection, coherence=UNTRACKED) for _ in range(3)]
    provider.enqueue(Script(gates=tuple(gates)))
    started = [await follower_of(callers[0])]
    started += await asyncio.gather(*(follower_of(caller) for caller in callers[1:] for _ in range(2)))
    for number, gate in enumerate(gates):
        expected = "Answer 1:" + "".join(f" part {part}" for part in range(1, number + 1))
        for _, _, parts in started:
            await text_up_to(parts, expected)
        gate.release()
    for _, _, parts in started:
        await parts.read()
        assert parts.text == TEXT
        assert parts.is_done
    sources = [response.extensions["tiercache"].source for _, response, _ in started]
    assert sources == ["loader"] + ["follower"] * 4
    await close(*(context for context, _, _ in started))
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, *(caller.cache for caller in callers))
    assert len(exchanges(plain)) == 1
    for caller in callers:
        async with caller.stream() as response:
            assert response.extensions["tiercache"].source == "l1"
    assert provider.call_count == 1
    for key in live_streams(plain):
        assert 0 < plain.pttl(key) <= 20_000


async def test_live_stream_is_written_only_if_another_process_asks(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other = new_caller(), new_caller()
    await other.cache.open()
    before = plain.info("commandstats")
    for ask in ("a", "b", "a"):
        await asyncio.gather(*(caller.text(ask) for _ in range(5)))
    assert await other.text("a") == TEXT
    assert provider.call_count == 2
    assert not live_streams(plain)
    written = {name for name in plain.info("commandstats") if name not in before}
    assert not written & {"cmdstat_xadd", "cmdstat_xread", "cmdstat_xtrim"}
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_live_stream_is_shared_by_fifty_callers_in_four_processes(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    callers, gate = [new_caller() for _ in range(4)], Gate(1)
    provider.enqueue(Script(gates=(gate,)))
    readers = [asyncio.create_task(callers[number % 4].text()) for number in range(50)]
    await until(lambda: follower_count() >= 50)
    gate.release()
    assert await asyncio.gather(*readers) == [TEXT] * 50
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, *(caller.cache for caller in callers))


@pytest.mark.parametrize("place", [3, "ending", "eof"])
async def test_live_stream_reaches_a_reader_that_joins_late(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, place: Any
) -> None:
    """In the middle; before its last event; and between its end and the moment at which it is stored."""
    caller, other, gate = new_caller(), new_caller(), Gate(place)
    await other.cache.open()
    provider.enqueue(Script(gates=(gate,)))
    first, _, parts = await follower_of(caller)
    await provider.until(gate.held.is_set)
    late = asyncio.create_task(other.text())
    if place != "eof":
        await until_followed(plain)
        await until(lambda: follower_count() == 3)  # Both readers, and the writer of the live stream.
    gate.release()
    assert await late == TEXT
    await parts.read()
    await close(first)
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_live_stream_goes_on_for_other_processes_when_its_own_readers_hang_up(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other, gate = new_caller(), new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    await parts.read(1)
    await close(first)
    gate.release()
    await other_parts.read()
    assert other_parts.text == TEXT
    await close(context)
    assert not provider.hung_up
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_live_stream_is_left_by_a_process_whose_readers_hang_up(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other, gate = new_caller(), new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    await other_parts.read(1)
    await close(context)
    await until(lambda: internals(other.cache).registered == (0, 0, 0))
    gate.release()
    await parts.read()
    assert parts.text == TEXT
    await close(first)
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_live_stream_is_kept_in_memory_by_a_process_whose_reader_leaves_at_its_last_event(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other, gate = new_caller(), new_caller(coherence=UNTRACKED), Gate("eof")
    provider.enqueue(Script(gates=(gate, middle := Gate(1))))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    middle.release()
    while not other_parts.is_done:
        await other_parts.next()
    await close(context)
    gate.release()
    await parts.read()
    await close(first)
    await nothing_is_left(provider, plain, caller.cache, other.cache)
    async with other.stream() as response:
        assert response.extensions["tiercache"].source == "l1"


@pytest.mark.parametrize("is_late", [False, True])
async def test_live_stream_whose_provider_dies_brings_its_parts_and_then_the_error_to_other_processes(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, is_late: bool
) -> None:
    caller, other, gate = new_caller(), new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,), dies_after=3, death="close"))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    if not is_late:
        await other_parts.read(2)
    gate.release()
    await parts.read_to_error()
    await other_parts.read_to_error()
    assert other_parts.text == parts.text == "Answer 1: part 1 part 2"
    assert isinstance(other_parts.error, library().RemoteProtocolError)
    await close(first, context)
    await nothing_is_left(provider, plain, caller.cache, other.cache)
    assert not exchanges(plain)
    assert (await other.text()).startswith("Answer 2")


async def test_refusal_of_the_provider_reaches_other_processes_that_follow_it(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other, gate = new_caller(), new_caller(), Gate(0)
    provider.enqueue(Script(status=429, gates=(gate,)))
    started = [await follower_of(caller), await follower_of(other), await follower_of(other)]
    gate.release()
    bodies = [await response.aread() for _, response, _ in started]
    assert [response.status_code for _, response, _ in started] == [429] * 3
    assert len(set(bodies)) == 1
    await close(*(context for context, _, _ in started))
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache, other.cache)
    assert not exchanges(plain)
    assert (await other.text()).startswith("Answer 2")


# Changes


@pytest.mark.parametrize("tag", ["mine", "late"])
async def test_live_stream_is_stored_with_the_tags_of_a_reader_in_another_process(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, tag: str
) -> None:
    caller, other, third = (new_caller() for _ in range(3))
    gate = Gate(2)
    provider.enqueue(Script(gates=(gate,)), Script())
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other, control="tag=mine")
    late, _, late_parts = await follower_of(other, control="tag=late")
    gate.release()
    for each in (parts, other_parts, late_parts):
        await each.read()
        assert each.text == TEXT
    await close(first, context, late)
    await nothing_is_left(provider, plain, caller.cache, other.cache)
    # In the entry itself, too: a server may evict the index of a tag.
    (stored,) = (plain.get(key) or b"" for key in exchanges(plain))
    assert b"mine" in stored
    assert b"late" in stored
    assert await third.cache.invalidate_tag(tag) == 1
    await caught_up(other.cache, plain)
    await caught_up(caller.cache, plain)
    assert not exchanges(plain)
    assert (await other.text()).startswith("Answer 2")
    assert (await caller.text()).startswith("Answer 2")


@pytest.mark.parametrize("tag", ["mine", "late"])
async def test_live_stream_is_overtaken_by_an_invalidation_of_the_tag_of_a_reader_in_another_process(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, tag: str
) -> None:
    caller, other, third = (new_caller() for _ in range(3))
    gate = Gate(2)
    provider.enqueue(Script(gates=(gate,)), Script())
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other, control="tag=mine")
    late, _, late_parts = await follower_of(other, control="tag=late")
    await other.cache.flush_writes()
    await third.cache.invalidate_tag(tag)
    await caught_up(other.cache, plain)
    await caught_up(caller.cache, plain)
    # No later caller gets the stream that the invalidation has overtaken, in no process.
    assert (await other.text(control=f"tag={tag}")).startswith("Answer 2")
    gate.release()
    for each in (parts, other_parts, late_parts):
        await each.read()
        assert each.text == TEXT
    await close(first, context, late)
    await nothing_is_left(provider, plain, caller.cache, other.cache)
    assert (await caller.text(control=f"tag={tag}")).startswith("Answer 2")
    assert provider.call_count == 2


async def test_live_stream_that_an_invalidation_overtakes_before_it_is_stored_is_joined_by_no_later_caller(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has every part, and waits until the other process has stored the value."""
    caller, other, third = (new_caller() for _ in range(3))
    await third.cache.open()
    provider.enqueue(Script(gates=(middle := Gate(1),)), Script())
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    store = HeldWrites(monkeypatch, cache=caller.cache)
    held = HeldReads(monkeypatch, cache=other.cache)
    middle.release()
    await other_parts.read()
    await store.sending.wait()
    # It looks for the stored value.
    await held.answered.wait()
    await third.cache.llm.clear()
    await caught_up(other.cache, plain)
    held_again = HeldReads(monkeypatch, cache=other.cache)
    held.release.set()
    await held_again.answered.wait()
    later = asyncio.create_task(other.text())
    await turns(20)
    held_again.release.set()
    assert (await later).startswith("Answer 2")
    store.release.set()
    await parts.read()
    await close(first, context)
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_live_stream_of_a_holder_that_has_lost_its_lease_is_followed_by_no_waiting_process(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change has overtaken it: a caller that comes after the change must not get it from a process that waits."""
    caller, other, third = (new_caller() for _ in range(3))
    await other.cache.open()
    gate, second = Gate("head"), Gate(1)
    provider.enqueue(Script(gates=(gate,)), Script(gates=(second,)), Script())
    first = asyncio.create_task(caller.text())
    await provider.until(gate.held.is_set)
    waiting = asyncio.create_task(other.text())
    await until(lambda: internals(other.cache).lease_waiter_count)
    await until(lambda: internals(caller.cache).held_lease_count)
    key = entry_of(caller)
    await until(lambda: internals(caller.cache).is_lease_wanted(key))
    held = HeldReads(monkeypatch, cache=other.cache)
    await held.answered.wait()
    await third.cache.llm.clear()
    holding = asyncio.create_task(third.text())
    await provider.until(second.held.is_set)
    held_again = HeldReads(monkeypatch, cache=other.cache)
    held.release.set()
    # It has found the lease of the third process, and looks now whether the first one shares its stream.
    await held_again.answered.wait()
    gate.release()
    await first
    await until_followed(plain)
    held_again.release.set()
    assert (await waiting)[:8] != "Answer 1"
    second.release()
    assert (await holding).startswith("Answer 2")
    await nothing_is_left(provider, plain, caller.cache, other.cache, third.cache)


def entry_of(caller: Caller) -> str:
    """Return the key of the one lease that the cache of ``caller`` holds."""
    (key,) = internals(caller.cache).held_lease_keys
    return key


# Waiting


async def test_stream_waits_for_no_other_process_with_stream_wait_zero(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other, gate = new_caller(), new_caller(coherence=CoherenceOptions(stream_wait=0)), Gate(1)
    provider.enqueue(Script(gates=(gate,)), Script())
    first, _, parts = await follower_of(caller)
    await parts.read(1)
    assert (await other.text()).startswith("Answer 2")
    gate.release()
    await parts.read()
    assert parts.text == TEXT
    await close(first)
    await nothing_is_left(provider, plain, caller.cache, other.cache)
    # The stream of the holder is stored.
    assert len(exchanges(plain)) == 1
    assert await new_caller().text() == TEXT


async def test_stream_waits_for_the_first_part_of_another_process_for_stream_wait(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other, gate = new_caller(), new_caller(coherence=CoherenceOptions(stream_wait=0.1)), Gate("head")
    provider.enqueue(Script(gates=(gate,)), Script())
    first = asyncio.create_task(caller.text())
    await provider.until(gate.held.is_set)
    assert (await other.text()).startswith("Answer 2")
    gate.release()
    assert await first == TEXT
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_stream_of_a_holder_that_shares_nothing_is_read_whole_when_it_is_stored(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    """Such as a holder of an older version."""
    caller, other = new_caller(), new_caller()
    await other.cache.open()
    await caller.text()
    await caller.cache.flush_writes()
    (key,) = exchanges(plain)
    stored = plain.get(key)
    assert stored is not None
    await caller.cache.llm.clear()
    plain.set(key, b"tc:lease:older:1", px=10_000)
    waiting = asyncio.create_task(other.text())
    await until(lambda: internals(other.cache).lease_waiter_count)
    await turns(50)
    assert not waiting.done()
    plain.set(key, stored)
    assert await waiting == TEXT
    assert provider.call_count == 1
    await nothing_is_left(provider, None, caller.cache, other.cache)


# Sizes and silence


async def test_live_stream_larger_than_its_bound_reaches_other_processes_and_stays_bounded_in_valkey(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other = (new_caller(llm=TierOptions(max_value_bytes=256 * KIB)) for _ in range(2))
    gates = tuple(Gate(place) for place in range(1, 64, 3))
    provider.enqueue(Script.of_size(64 * 32 * KIB, part_bytes=32 * KIB, gates=gates))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    key = await until_followed(plain)
    read = 0
    for gate in gates:
        while read < gate.before:  # type: ignore[operator]
            await asyncio.gather(parts.next(), other_parts.next())
            read += 1
        assert sum(len(fields[b"p"]) for _, fields in plain.xrange(key) if b"p" in fields) <= 400 * KIB
        gate.release()
    await asyncio.gather(parts.read(), other_parts.read())
    assert len(parts.text) == 64 * 32 * KIB
    assert other_parts.text == parts.text
    assert parts.is_done
    assert other_parts.is_done
    await close(first, context)
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, caller.cache, other.cache)
    assert not exchanges(plain)


async def test_live_stream_is_lost_by_a_process_that_is_further_behind_than_the_stream_is_kept(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other = (new_caller(llm=TierOptions(max_value_bytes=256 * KIB)) for _ in range(2))
    provider.enqueue(Script.of_size(4 * 1024 * KIB, part_bytes=32 * KIB, gates=(gate := Gate(1),)))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    gate.release()
    while await parts.next() is not None:
        # Memory is bounded for the reader that does not read, too.
        assert followed_bytes() <= 1024 * KIB
        await asyncio.sleep(0.01)  # So that the other process could follow, if its reader read.
    assert len(parts.text) == 4 * 1024 * KIB
    await other_parts.read_to_error()
    assert isinstance(other_parts.error, library().RemoteProtocolError)
    assert "missing" in str(other_parts.error)
    assert parts.text.startswith(other_parts.text)
    assert other_parts.text
    await close(first, context)
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_live_stream_survives_a_silence_of_the_provider_that_is_longer_than_the_lease(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other = (new_caller(coherence=CoherenceOptions(lease_ttl=0.6)) for _ in range(2))
    gate = Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    await other_parts.read(2)
    await asyncio.sleep(1.5)
    gate.release()
    await asyncio.gather(parts.read(), other_parts.read())
    assert other_parts.text == parts.text == TEXT
    await close(first, context)
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_live_stream_whose_entries_vanish_brings_its_parts_and_then_an_error(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, other, gate, later = new_caller(), new_caller(), Gate(2), Gate(4)
    provider.enqueue(Script(gates=(gate, later)))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    await other_parts.read(2)
    held = HeldCommands(monkeypatch, "XREAD")
    await held.answered.wait()
    gate.release()
    await text_up_to(parts, "Answer 1: part 1 part 2 part 3")
    key = await until_followed(plain, 4)
    await until(lambda: b"part 3" in b"".join(fields.get(b"p", b"") for _, fields in plain.xrange(key)))
    plain.delete(key)
    held.release.set()
    later.release()
    await parts.read()
    assert parts.text == TEXT
    await other_parts.read_to_error()
    assert other_parts.text == "Answer 1: part 1"
    assert isinstance(other_parts.error, library().RemoteProtocolError)
    assert "missing" in str(other_parts.error)
    await close(first, context)
    await nothing_is_left(provider, plain, caller.cache, other.cache)
    assert provider.call_count == 1
    assert await new_caller().text() == TEXT


# Bytes of other software


async def test_live_stream_with_entries_of_other_software_is_read_all_the_same(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    caller, other, gate = new_caller(), new_caller(), Gate(1)
    provider.enqueue(Script(gates=(gate,)))
    first, response, parts = await follower_of(caller)
    key = "test:__tc:live:" + response.extensions["tiercache"].key.rpartition(":")[2]
    (lease,) = (plain.get(each) for each in plain.scan_iter("test:llm:*", count=1000))
    foreign: list[dict[Any, Any]] = [
        {"a": "b"},
        {"l": "x", "n": "0", "h": "x"},
        {"l": lease, "n": "7", "p": "wrong"},
        {"l": lease, "n": "0", "p": "wrong"},
        {"l": lease, "n": "0", "e": "failed"},
        {"l": lease, "n": "0", "h": b"\xff"},
        {"l": lease, "n": "0", "h": '[200,[["set-cookie","a=b"]]]'},
        {"l": lease, "n": "x" * 100, "h": "[]", "more": "fields"},
    ]
    for fields in foreign:
        plain.xadd(key, fields)
    context, _, other_parts = await follower_of(other)
    plain.xadd(key, {"l": "tc:lease:another:1", "n": "1", "p": "wrong"})
    plain.xadd(key, {"nothing": "known"})
    gate.release()
    await asyncio.gather(parts.read(), other_parts.read())
    assert other_parts.text == parts.text == TEXT
    await close(first, context)
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_live_stream_under_a_key_of_another_type_leaves_callers_their_whole_value(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caller, other, gate = new_caller(), new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)), Script())
    first, response, parts = await follower_of(caller)
    plain.set("test:__tc:live:" + response.extensions["tiercache"].key.rpartition(":")[2], "a text")
    waiting = asyncio.create_task(other.text())
    await until(lambda: len(warnings_of(caplog)) == 2)
    gate.release()
    await parts.read()
    assert parts.text == await waiting == TEXT
    await close(first)
    assert provider.call_count == 1
    assert len(warnings_of(caplog)) == 2
    await nothing_is_left(provider, plain, caller.cache, other.cache)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about live streams."""
    return [record.getMessage() for record in caplog.records if "stream" in record.getMessage()]


@pytest.mark.parametrize("missing", ["-xadd", "-xread", "-xtrim"])
async def test_live_stream_without_a_right_leaves_every_caller_a_right_answer_and_logs_once(
    provider: ProviderServer,
    server: EmbeddedValkey,
    plain: valkey.Valkey,
    caplog: pytest.LogCaptureFixture,
    missing: str,
) -> None:
    plain.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "&*", "+@all", missing)
    url = f"unix://limited@{server.url.removeprefix('unix://')}?password=secret"
    try:
        async with (
            AgentCache.from_url(url, name="test") as cache,
            AgentCache.from_url(url, name="test") as other_cache,
            callers_of(provider) as new,
        ):
            caller, other = new(cache), new(other_cache)
            for ask in ("a", "b"):
                provider.enqueue(Script(gates=(gate := Gate(2),)))
                first, _, parts = await follower_of(caller, ask=ask)
                waiting = asyncio.create_task(outcome(other, ask))
                await until(lambda: warnings_of(caplog) or (missing == "-xtrim" and live_streams(plain)))
                await turns(50)
                gate.release()
                await parts.read()
                assert await waiting == (parts.text, None)
                await close(first)
                await nothing_is_left(provider, plain, cache, other_cache)
            assert provider.call_count == 2
            assert len(warnings_of(caplog)) == (missing != "-xtrim")
    finally:
        plain.execute_command("ACL", "DELUSER", "limited")


async def test_stream_that_valkey_does_not_let_others_read_is_cancelled_when_its_last_reader_hangs_up(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caller, other, gate = new_caller(), new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    first, response, parts = await follower_of(caller)
    await parts.read(1)
    plain.set("test:__tc:live:" + response.extensions["tiercache"].key.rpartition(":")[2], "a text")
    waiting = asyncio.create_task(other.text())
    await until(lambda: len(warnings_of(caplog)) == 2)
    await until(lambda: follower_count() == 1)
    await turns(5)
    await close(first)
    await provider.until(lambda: provider.hung_up, 10)
    # The other process streams for itself.
    assert (await waiting).startswith("Answer 2")
    await nothing_is_left(provider, plain, caller.cache, other.cache)


async def test_stream_that_its_last_reader_has_just_left_is_not_shared(cache: AgentCache, plain: valkey.Valkey) -> None:
    """Its load is about to be cancelled: a reader in another process would get an error, and could load instead."""
    exchanges_of_cache = exchanges_of(cache)
    key = exchanges_of_cache.key("0" * 64, "gpt-4o")

    async def record(show: Callable[[Recording], None]) -> Loaded:
        show(Recording(Head(200, (), ()), max_bytes=1000))
        await asyncio.sleep(60)
        raise AssertionError

    lookup = await exchanges_of_cache.get_or_record(key, record, ExchangeOptions(True))
    lookup.ongoing.leave()
    internals(cache).note_awaited(key.key)
    await until(lambda: internals(cache).registered == (0, 0, 0))
    await until(lambda: not placeholders(plain))
    assert not live_streams(plain)


# Outages and ends


@pytest.mark.parametrize("is_long", [False, True])
async def test_live_stream_is_read_on_after_an_outage_of_valkey_that_is_shorter_than_the_lease(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, proxy: ChaosProxy, is_long: bool
) -> None:
    options = {
        "resilience": ResilienceOptions(l2_timeout=0.2, breaker_failures=2, breaker_pause=0.05),
        "coherence": CoherenceOptions(lease_ttl=0.8 if is_long else 10),
    }
    caller, gate = new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    async with AgentCache.from_url(proxy.url, name="test", **options) as cache, callers_of(provider) as new:
        first, _, parts = await follower_of(caller)
        context, _, other_parts = await follower_of(new(cache))
        await other_parts.read(2)
        proxy.refuse()
        proxy.kill()
        gate.release()
        await parts.read()
        assert parts.text == TEXT
        if is_long:
            await other_parts.read_to_error()
            assert other_parts.text == "Answer 1: part 1"
            assert isinstance(other_parts.error, library().RemoteProtocolError)
            proxy.heal()
        else:
            await turns(50)
            proxy.heal()
            await other_parts.read()
            assert other_parts.text == TEXT
        await close(first, context)
        await until(lambda: not cache.local_stats().degraded, 10)
        await nothing_is_left(provider, plain, caller.cache, cache)
    assert provider.call_count == 1


@pytest.mark.parametrize("drain_timeout", [5.0, 0.1])
async def test_live_stream_of_a_cache_that_is_closed_reaches_other_processes_as_far_as_it_gets(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, drain_timeout: float
) -> None:
    caller = new_caller(resilience=ResilienceOptions(drain_timeout=drain_timeout))
    other, gate = new_caller(), Gate(2)
    provider.enqueue(Script(gates=(gate,)))
    first, _, parts = await follower_of(caller)
    context, _, other_parts = await follower_of(other)
    await other_parts.read(2)
    closing = asyncio.create_task(caller.cache.aclose())
    if drain_timeout < 1:
        await closing
    gate.release()
    await parts.read_to_error()
    await other_parts.read_to_error()
    await closing
    assert parts.text == other_parts.text == (TEXT if drain_timeout > 1 else "Answer 1: part 1")
    assert (other_parts.error is None) == (drain_timeout > 1)
    await close(first, context)
    await nothing_is_left(provider, plain, other.cache)


async def test_live_stream_whose_entry_valkey_does_not_answer_leaves_no_task_behind_a_closed_cache(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = new_caller(resilience=ResilienceOptions(drain_timeout=0.1))
    other, gate = new_caller(), Gate(2)
    await other.cache.open()
    provider.enqueue(Script(gates=(gate,)), Script())
    held = HeldCommands(monkeypatch, "XADD")
    first, _, parts = await follower_of(caller)
    waiting = asyncio.create_task(outcome(other))
    await held.answered.wait()
    gate.release()
    await parts.read()
    assert parts.text == TEXT
    await close(first)
    await caller.cache.aclose()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "tiercache-live"]
    held.release.set()
    assert await waiting == (TEXT, None)
    assert provider.call_count == 1
    await nothing_is_left(provider, plain, other.cache)


async def test_live_streams_survive_random_cancellation_in_four_processes(
    new_caller: NewCaller, provider: ProviderServer, plain: valkey.Valkey
) -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    callers = [new_caller() for _ in range(4)]
    provider.script = Script(parts=tuple(f"<{number}>" for number in range(30)), delay_part=0.004)
    text = "".join(f"<{number}>" for number in range(30))
    whole = 0
    for wave in range(10):
        readers = [asyncio.create_task(outcome(dice.choice(callers), f"wave {wave}")) for _ in range(20)]
        await asyncio.sleep(dice.uniform(0, 0.25))
        for reader in dice.sample(readers, dice.choice((5, 15, 20))):
            reader.cancel()
        for result in await asyncio.gather(*readers, return_exceptions=True):
            if isinstance(result, asyncio.CancelledError):
                continue
            assert not isinstance(result, BaseException), f"seed {seed}"
            assert result == (text, None), f"seed {seed}"
            whole += 1
    assert whole, f"seed {seed}"
    await collect_generators()
    await nothing_is_left(provider, plain, *(caller.cache for caller in callers))


# Other servers


async def test_live_stream_is_shared_on_a_fake_server(provider: ProviderServer) -> None:
    server = fakeredis.FakeServer()
    async with callers_of(provider) as new:
        clients = [fakeredis.FakeAsyncValkey(server=server) for _ in range(2)]
        caches = [AgentCache(client, name="test", coherence=UNTRACKED) for client in clients]
        caller, other = map(new, caches)
        gate = Gate(2)
        provider.enqueue(Script(gates=(gate,)))
        first, _, parts = await follower_of(caller)
        waiting = asyncio.create_task(other.text())
        await turns(100)
        gate.release()
        await parts.read()
        assert parts.text == await waiting == TEXT
        await close(first)
        for cache in caches:
            await cache.aclose()
        for client in clients:
            await client.aclose()
    assert provider.call_count == 1
