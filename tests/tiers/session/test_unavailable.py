"""Sessions while Valkey is unavailable or refuses: every call raises, and no change is sent twice."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import valkey

from tests.seams import refuse_commands
from tests.support import until
from tiercache import AgentCache, L2CommandError, L2UnavailableError, ResilienceOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import FakeClock

CALLS: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "get": lambda cache: cache.session.get("t", "other"),
    "fresh get": lambda cache: cache.session.get("t", "a", fresh=True),
    "set": lambda cache: cache.session.set("t", "a", "2"),
    "delete": lambda cache: cache.session.delete("t", "a"),
    "get_all": lambda cache: cache.session.get_all("t"),
    "swept get_all": lambda cache: cache.session.get_all("t", sweep=True),
    "touch": lambda cache: cache.session.touch("t"),
    "destroy_thread": lambda cache: cache.session.destroy_thread("t"),
    "get_json": lambda cache: cache.session.get_json("t", "other"),
    "set_json": lambda cache: cache.session.set_json("t", "a", 2),
    "append": lambda cache: cache.session.append("t", "list", 2),
    "incr": lambda cache: cache.session.incr("t", "n"),
    "compare_and_set": lambda cache: cache.session.compare_and_set("t", "a", "1", "2"),
    "get_or_load": lambda cache: cache.session.get_or_load("t", "other", lambda: "x"),
}


async def test_session_raises_while_valkey_is_unavailable_and_retries_no_change(
    own_server: tuple[EmbeddedValkey, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    server, pid = own_server
    resilience = ResilienceOptions(l2_timeout=0.05, breaker_pause=0.05)
    async with AgentCache.from_url(server.url, name="test", resilience=resilience) as cache:
        await cache.session.set("t", "a", "1")
        await cache.session.incr("t", "n", 5)
        os.kill(pid, signal.SIGSTOP)
        assert await cache.session.get("t", "a") == "1"  # L1 still serves the field.
        for call in CALLS.values():
            with pytest.raises(L2UnavailableError):
                await call(cache)
        with pytest.raises(L2UnavailableError):
            await cache.session.get("t", "a")  # The entry was dropped from L1, because the field may have changed.
        writes = cache.session.writes
        os.kill(pid, signal.SIGCONT)
        await cache.flush_writes()
        await until(lambda: not cache.local_stats().degraded, 20)
        # Each change was sent once; the server may carry it out once when it continues.
        assert await cache.session.get("t", "n", fresh=True) in (None, "1", "5", "6")
        assert cache.session.writes == writes == 2


async def test_session_sends_no_command_while_breaker_is_open(
    own_server: tuple[EmbeddedValkey, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, pid = own_server
    time = FakeClock()
    resilience = ResilienceOptions(l2_timeout=0.05, breaker_failures=2)
    async with AgentCache.from_url(server.url, resilience=resilience, clock=time.clock) as cache:
        await cache.session.set("t", "a", "x", ttl=2)
        os.kill(pid, signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(L2UnavailableError):
                await cache.session.get("t", "a", fresh=True)
        commands = refuse_commands(monkeypatch)
        with pytest.raises(L2UnavailableError):
            await cache.session.get_all("t")
        assert commands == []
        time.advance(0.6)
        assert await cache.session.get("t", "a") == "x"  # L1 serves the read, and a renewal is due.
        assert cache.local_stats().queued_write_count == 0
        monkeypatch.undo()
        os.kill(pid, signal.SIGCONT)


async def test_session_load_does_not_call_loader_while_valkey_is_unavailable(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server
    calls = []
    async with AgentCache.from_url(server.url, resilience=ResilienceOptions(l2_timeout=0.05)) as cache:
        await cache.open()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(L2UnavailableError):
            await cache.session.get_or_load("t", "a", lambda: calls.append(1))
        os.kill(pid, signal.SIGCONT)
    assert calls == []


@pytest.mark.parametrize("rules", [["-get"], ["resetkeys", "~test:__*", "~__betterdb:*"]], ids=["command", "keys"])
@pytest.mark.parametrize("call", ["get_all", "append", "incr", "compare_and_set"])
async def test_session_raises_and_keeps_field_that_it_may_not_read(
    cache: AgentCache, plain: valkey.Valkey, call: str, rules: list[str]
) -> None:
    await cache.session.set("t", "a", "1")
    await cache.session.append("t", "list", 1)
    await cache.session.incr("t", "n")
    plain.execute_command("ACL", "SETUSER", "default", *rules)
    try:
        with pytest.raises(L2CommandError):
            await CALLS[call](cache)
    finally:
        plain.execute_command("ACL", "SETUSER", "default", "+@all", "~*")
    cache.clear_l1()
    assert await cache.session.get_all("t") == {"a": "1", "list": "[1]", "n": "1"}


async def test_session_touch_raises_if_valkey_refuses_to_renew(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.session.set("t", "a", "1", ttl=60)
    plain.execute_command("ACL", "SETUSER", "default", "-getex")
    try:
        with pytest.raises(L2CommandError):
            await cache.session.touch("t")
    finally:
        plain.execute_command("ACL", "SETUSER", "default", "+@all")
