"""Opening: an attempt that is cancelled or fails leaves no task, no connection, no server and no registration."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import valkey

from tests.requests import HELLO, Loader, turns
from tests.seams import HeldPings, embedded_server, run_dir_of
from tests.support import until
from tiercache import (
    AgentCache,
    CoherenceOptions,
    ConnectionOptions,
    L2CommandError,
    L2UnavailableError,
    UsageError,
)
from tiercache.embedded import EmbeddedValkey

# More steps than an opening takes; the test ends when the opening has ended before it is cancelled.
MAX_STEPS = 300_000
multiplexed = pytest.mark.parametrize("multiplexed", [True, False], ids=["multiplexed", "plain"])


def connections(plain: valkey.Valkey) -> int:
    return len(plain.client_list()) - 1


def registration(plain: valkey.Valkey, name: str = "test") -> list[bytes]:
    return [
        key for key in (f"__betterdb:heartbeat:{name}".encode(), f"{name}:__tc:alive".encode()) if plain.exists(key)
    ]


async def assert_nothing_is_left(plain: valkey.Valkey) -> None:
    await until(lambda: not own_tasks())
    await until(lambda: connections(plain) == 0)
    assert registration(plain) == []


def own_tasks() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("tiercache")]


async def enter(cache: AgentCache) -> None:
    async with cache:
        pass


async def cancel_at_each_step(
    make: Callable[[], AgentCache], use: Callable[[AgentCache], object], plain: valkey.Valkey
) -> int:
    """Cancel ``use`` of a new cache after 0, 1, 2 ... steps of the loop, until it ends before that."""
    done_count = trial_count = 0
    steps = 0
    while done_count < 3:
        assert steps < MAX_STEPS
        using = asyncio.ensure_future(use(make()))  # type: ignore[arg-type]
        await turns(steps)
        using.cancel()
        await asyncio.wait([using])
        if using.cancelled():
            await assert_nothing_is_left(plain)
            trial_count += 1
        else:
            done_count += 1
        # Every step at the beginning, where no reply is awaited; later most steps wait for a reply.
        steps += 1 + steps // 20
    return trial_count


@multiplexed
async def test_opening_cancelled_at_any_step_leaves_nothing(url: str, plain: valkey.Valkey, multiplexed: bool) -> None:
    def make() -> AgentCache:
        return AgentCache.from_url(url, name="test", connection=ConnectionOptions(multiplexed=multiplexed))

    assert await cancel_at_each_step(make, enter, plain) > 20


async def test_open_cancelled_at_any_step_leaves_nothing(url: str, plain: valkey.Valkey) -> None:
    async def open_and_close(cache: AgentCache) -> None:
        await cache.open()
        # Not cancelled here: the caller that has opened a cache closes it.
        await asyncio.shield(asyncio.ensure_future(cache.aclose()))

    def make() -> AgentCache:
        return AgentCache.from_url(url, name="test")

    opened = await cancel_at_each_step(make, open_and_close, plain)
    assert opened > 20


async def test_opening_cancelled_while_valkey_is_silent_leaves_nothing(
    own_server: tuple[EmbeddedValkey, int],
) -> None:
    server, pid = own_server
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), AgentCache.from_url(server.url, name="test"):
            pass
    os.kill(pid, signal.SIGCONT)
    with valkey.Valkey.from_url(server.url) as plain:
        await assert_nothing_is_left(plain)


async def test_cache_works_after_a_cancelled_opening(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pings = HeldPings(monkeypatch)
    cache = AgentCache.from_url(url, name="test")
    opening = asyncio.create_task(cache.open())
    await turns()
    opening.cancel()
    await asyncio.wait([opening])
    pings.release.set()
    assert (await cache.llm.get_or_load(HELLO, Loader())).source == "loader"
    await cache.aclose()


async def test_opening_goes_on_for_the_other_callers_of_a_cancelled_opener(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings = HeldPings(monkeypatch)
    cache = AgentCache.from_url(url, name="test")
    opening, using = asyncio.create_task(cache.open()), asyncio.create_task(cache.llm.check(HELLO))
    await turns()
    opening.cancel()
    await asyncio.wait([opening])
    pings.release.set()
    assert not (await using).degraded
    await cache.aclose()


async def test_opening_refused_by_another_kind_of_cache_leaves_nothing(url: str, plain: valkey.Valkey) -> None:
    plain.hset("__betterdb:caches", "test", '{"type": "semantic_cache"}')
    with pytest.raises(UsageError):
        await enter(AgentCache.from_url(url, name="test"))
    await assert_nothing_is_left(plain)


async def test_opening_without_the_required_permission_leaves_nothing(url: str, plain: valkey.Valkey) -> None:
    plain.execute_command("ACL", "SETUSER", "some", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    try:
        options = {"name": "test", "coherence": CoherenceOptions(tracking="broadcast")}
        cache = AgentCache.from_url(f"{url}?username=some&password=pw", **options)  # type: ignore[arg-type]
        with pytest.raises(L2CommandError):
            await enter(cache)
        await assert_nothing_is_left(plain)
    finally:
        plain.execute_command("ACL", "DELUSER", "some")


async def test_opening_without_the_required_server_leaves_nothing() -> None:
    with pytest.raises(L2UnavailableError):
        await enter(AgentCache.from_url("valkey://127.0.0.1:1", name="test", require_l2=True))
    await until(lambda: not own_tasks())


async def test_opening_of_an_embedded_cache_that_is_cancelled_leaves_no_server() -> None:
    cache = AgentCache.embedded(name="test")
    run_dir = run_dir_of(embedded_server(cache))
    opening = asyncio.create_task(enter(cache))
    await until(run_dir.exists)
    opening.cancel()
    await asyncio.wait([opening])
    assert not run_dir.exists()
    await until(lambda: not own_tasks())


async def test_opening_of_an_embedded_cache_that_fails_leaves_no_server(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    with valkey.Valkey.from_url(server.url) as plain:
        plain.hset("__betterdb:caches", "test", '{"type": "semantic_cache"}')
    server.stop()
    cache = AgentCache.embedded(tmp_path, name="test")
    with pytest.raises(UsageError, match="semantic_cache"):
        await enter(cache)
    assert not run_dir_of(embedded_server(cache)).exists()
    await until(lambda: not own_tasks())
