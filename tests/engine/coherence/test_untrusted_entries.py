"""``serve_untrusted``: while Valkey is unavailable, L1 serves entries longer, and forgets them once it is back."""

from __future__ import annotations

from typing import Any

import pytest
import valkey

from tests.requests import Loader
from tests.seams import fail_reads, in_l1, internals, pause_pings
from tests.support import MakeCache, distrusted
from tiercache import AgentCache, CoherenceOptions, ResilienceOptions
from tiercache.engine.level2.announcement import Pong
from tiercache.testing import ChaosProxy, FakeClock

KEY = "test:__tc:kv:kv:k"
LONGER = ResilienceOptions(serve_untrusted=600, l2_timeout=0.2, breaker_pause=0.1)


@pytest.mark.parametrize("tracking", ["interest", "broadcast", "off"])
@pytest.mark.parametrize("is_loaded_before", [True, False], ids=["before", "in the outage"])
async def test_entry_is_served_beyond_the_bound_while_valkey_is_unavailable(
    proxy: ChaosProxy, tracking: Any, is_loaded_before: bool
) -> None:
    clock = FakeClock()
    options = CoherenceOptions(max_staleness=3, tracking=tracking)
    loader = Loader()
    async with AgentCache.from_url(
        proxy.url, name="test", coherence=options, resilience=LONGER, clock=clock.clock
    ) as cache:
        if is_loaded_before:
            await cache.kv.get_or_load("k", loader, ttl=3000)
            await cache.flush_writes()
        proxy.refuse()
        proxy.kill()
        if not is_loaded_before:
            clock.advance(3.1)  # Trust has ended.
            assert (await cache.kv.get_or_load("k", loader, ttl=3000)).degraded
        clock.advance(20)
        found = await cache.kv.get_or_load("k", loader, ttl=3000)
        assert (found.value, found.source, found.degraded) == ("answer", "stale", True)
        assert loader.calls == 1


async def test_entry_of_an_outage_is_dropped_once_valkey_is_trusted_again(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read of its key has failed, so the server reports no change of it; the connections have survived."""
    pause_pings(monkeypatch)
    clock = FakeClock()
    coherence = CoherenceOptions(max_staleness=600, tracking="interest")
    cache = make_cache(name="test", coherence=coherence, resilience=LONGER, clock=clock.clock)
    await cache.open()
    clock.advance(601)  # Trust has ended.
    with monkeypatch.context() as patched:
        fail_reads(patched, cache)
        assert (await cache.kv.get_or_load("k", Loader(), ttl=3000)).degraded
    assert in_l1(cache, KEY)
    plain.set(KEY, b"snewer")
    before = distrusted(cache)
    internals(cache).coherence.apply(Pong(clock.clock.monotonic(), 0))
    assert await cache.kv.get("k") == "newer"
    assert distrusted(cache) == before
