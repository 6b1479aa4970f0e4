"""A slow backplane: messages on their way keep the subscription, and a PONG behind them may take its time."""

from __future__ import annotations

import pytest
import valkey

from tests.engine.coherence.replicas import CHANNEL
from tests.seams import CountedCalls, HeldNumbers, internals, number_of
from tests.support import SEQUENCE, UNTRACKED, MakeCache, until
from tiercache import AgentCache, CoherenceOptions
from tiercache.testing import ChaosProxy

# Forty messages of about 8 KB: seven seconds at the speed of ``SLOW``, in which no PONG arrives.
KEYS = [f"{'k' * 100}:{n}" for n in range(40 * 64)]
SLOW = 50_000


async def test_subscription_lasts_while_messages_arrive_slowly(
    make_cache: MakeCache, proxy: ChaosProxy, plain: valkey.Valkey
) -> None:
    near = make_cache(name="test", coherence=UNTRACKED)
    # A PING each 0.3 s: four of them without a message end the subscription, and so do sixty without a PONG.
    options = CoherenceOptions(max_staleness=0.9, tracking="off")
    async with AgentCache.from_url(proxy.url, name="test", coherence=options) as far:
        await far.open()
        before = internals(far).subscription
        proxy.slow_link(SLOW, lane="bus")
        await near.kv.delete_many(KEYS)
        last = int(plain.get(SEQUENCE) or 0)
        await until(lambda: number_of(internals(far).coherence) >= last, seconds=40)
        assert internals(far).subscription is before
        await until(lambda: far.local_stats().trusted, seconds=40)


async def test_subscription_begins_while_messages_delay_its_first_pong(
    make_cache: MakeCache, proxy: ChaosProxy, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = make_cache(name="test", coherence=UNTRACKED)
    async with AgentCache.from_url(proxy.url, name="test", coherence=UNTRACKED) as far:
        await near.open()
        await far.open()
        subscriptions = CountedCalls(monkeypatch, internals(far).unguarded_level2, "subscribe")
        position = HeldNumbers(monkeypatch, far)
        proxy.slow_link(SLOW, lane="bus")
        proxy.kill(lane="bus")
        await until(lambda: subscriptions.calls >= 1, seconds=20)
        await until(lambda: plain.pubsub_numsub(CHANNEL)[0][1] == 2, seconds=20)
        # The end of the connection may have met an attempt that had begun just before.
        count = subscriptions.calls
        await near.kv.delete_many(KEYS)  # The PING is not sent yet: its PONG comes behind these messages.
        position.release.set()
        await until(lambda: internals(far).subscription is not None, seconds=40)
        assert subscriptions.calls == count
        assert number_of(internals(far).coherence) >= int(plain.get(SEQUENCE) or 0)


async def test_subscription_ends_although_messages_arrive_while_no_ping_is_answered(
    make_cache: MakeCache, proxy: ChaosProxy
) -> None:
    near = make_cache(name="test", coherence=UNTRACKED)
    # A PING each 0.05 s: sixty of them without a PONG end the subscription.
    options = CoherenceOptions(max_staleness=0.15, tracking="off")
    async with AgentCache.from_url(proxy.url, name="test", coherence=options) as far:
        await far.open()
        before = internals(far).subscription
        proxy.stall("to_server", lane="bus")

        async def is_another() -> bool:
            await near.kv.delete("k")
            return internals(far).subscription is not before

        await until(is_another, seconds=40)
