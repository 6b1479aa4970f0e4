"""Eager tasks (``asyncio.eager_task_factory``): a task may be over when ``create_task`` returns."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import valkey

from tests.requests import asking
from tests.support import MakeCache, until
from tiercache import AgentCache, ResilienceOptions, TierOptions
from tiercache.testing import ChaosProxy

pytestmark = pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 has the eager factory")

DEADLINE = 20.0
QUICK = ResilienceOptions(breaker_pause=0.05)


@pytest.fixture(autouse=True)
async def _eager_loop() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)
    yield
    loop.set_task_factory(before)


async def in_time(awaitable: Any) -> Any:
    """Return the result of ``awaitable``; fail if it does not come."""
    async with asyncio.timeout(DEADLINE):
        return await awaitable


async def use_every_load(cache: AgentCache, suffix: str = "") -> None:
    """Load by each method, with loaders that never suspend."""
    assert (await in_time(cache.llm.get_or_load(asking(f"a{suffix}"), lambda: "x"))).response == "x"
    assert (await in_time(cache.tool.get_or_load(f"t{suffix}", {}, lambda: 1))).value == 1
    assert (await in_time(cache.kv.get_or_load(f"k{suffix}", lambda: 2))).value == 2
    many = await in_time(cache.kv.get_or_load_many([f"m{suffix}", f"n{suffix}"], lambda keys: dict.fromkeys(keys, 3)))
    assert many == {f"m{suffix}": 3, f"n{suffix}": 3}
    for max_size in (1, 2):
        load = cache.kv.batch_loader(lambda keys: [4 for _ in keys], max_size=max_size)
        both = [cache.kv.get_or_load(f"{key}{max_size}{suffix}", load) for key in "bc"]
        assert [result.value for result in await in_time(asyncio.gather(*both))] == [4, 4]


async def test_eager_loads_return_in_memory(memory: AgentCache) -> None:
    await use_every_load(memory)


async def test_eager_loads_return_with_valkey(cache: AgentCache) -> None:
    await use_every_load(cache)
    await cache.flush_writes()
    assert await in_time(cache.kv.exists("k"))


async def test_eager_loaders_nest_as_deeply_as_others(memory: AgentCache) -> None:
    async def descend(level: int) -> int:
        if level == 100:
            return 0
        result = await memory.tool.get_or_load("descend", {"level": level + 1}, descend)
        return int(result.value) + 1

    assert await in_time(descend(0)) == 100


@pytest.mark.parametrize("mode", ["refresh", "bypass", "store_only"])
async def test_eager_loads_return_in_every_mode(memory: AgentCache, mode: Any) -> None:
    assert (await in_time(memory.kv.get_or_load("k", lambda: 1, mode=mode))).value == 1


async def test_eager_load_raises_the_error_of_its_loader(memory: AgentCache) -> None:
    def fail(*_: object) -> Any:
        raise LookupError("no value")

    with pytest.raises(LookupError, match="no value"):
        await in_time(memory.kv.get_or_load("k", fail))
    with pytest.raises(LookupError, match="no value"):
        await in_time(memory.kv.get_or_load_many(["a", "b"], fail))
    with pytest.raises(LookupError, match="no value"):
        await in_time(memory.kv.get_or_load("k", memory.kv.batch_loader(fail, max_size=1)))


async def test_eager_loads_return_while_valkey_is_absent_and_hit_when_it_appears(
    cache: AgentCache, url: str, tmp_path: Path
) -> None:
    """A connection to a Unix socket that is not there fails in one step."""
    await cache.kv.set("stored", "before")
    late = tmp_path / "late.sock"
    async with AgentCache.from_url(f"unix://{late}", name="test", resilience=QUICK) as other:
        await use_every_load(other)
        late.symlink_to(url.removeprefix("unix://"))

        async def is_read() -> bool:
            return bool(await in_time(other.kv.get("stored")) == "before")

        await until(is_read, DEADLINE)
        await use_every_load(other, " later")


async def test_eager_loaders_that_request_each_others_keys_do_not_wait_for_each_other(memory: AgentCache) -> None:
    """The loader of ``b`` runs before the task of ``a`` has returned to its caller."""

    async def load_a() -> str:
        return f"a({(await memory.kv.get_or_load('b', load_b)).value})"

    async def load_b() -> str:
        return f"b({(await memory.kv.get_or_load('a', lambda: 'private')).value})"

    assert (await in_time(memory.kv.get_or_load("a", load_a))).value == "a(b(private))"


async def test_eager_load_of_many_may_request_a_key_that_waits_for_it(memory: AgentCache) -> None:
    async def load_a() -> Any:
        return (await memory.kv.get_or_load_many(["b", "c"], load_others))["b"]

    async def load_others(keys: list[str]) -> dict[str, Any]:
        private = (await memory.kv.get_or_load("a", lambda: "private")).value
        return dict.fromkeys(keys, private)

    assert (await in_time(memory.kv.get_or_load("a", load_a))).value == "private"


async def test_eager_batch_function_may_request_the_key_of_the_member_that_fills_the_batch(memory: AgentCache) -> None:
    async def answer(keys: list[str]) -> list[Any]:
        return [(await memory.kv.get_or_load(key, lambda: "private")).value for key in keys]

    load = memory.kv.batch_loader(answer, max_size=1)
    assert (await in_time(memory.kv.get_or_load("a", load))).value == "private"


async def test_eager_close_inside_a_loader_waits_for_the_load(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    cache = make_cache(name="test", kv=TierOptions(lease=False))
    await cache.open()
    closing: list[asyncio.Task[None]] = []
    go_on = asyncio.Event()

    async def load() -> str:
        closing.append(asyncio.create_task(cache.aclose()))
        await go_on.wait()
        return "stored"

    # A load that neither reads nor takes a lease calls its loader in its first step.
    loading = asyncio.create_task(cache.kv.get_or_load("k", load, mode="store_only"))
    done, _ = await asyncio.wait(closing, timeout=0.5)
    assert not done
    go_on.set()
    result = await in_time(loading)
    await in_time(closing[0])
    assert plain.get(result.key) is not None


async def test_value_too_large_from_an_eager_refresh_hides_the_older_value_at_once(make_cache: MakeCache) -> None:
    """The caller looks the key up before the pipe sends the delete of the older value."""
    cache = make_cache(name="test", kv=TierOptions(max_value_bytes=10, lease=False))
    await cache.kv.set("k", "older")
    assert (await in_time(cache.kv.get_or_load("k", lambda: "x" * 20, mode="refresh"))).value == "x" * 20
    assert await in_time(cache.kv.get("k")) is None
    await cache.flush_writes()
    assert not await cache.kv.exists("k")


async def test_eager_proxy_passes_no_byte_of_a_connection_that_its_first_bytes_kill(
    url: str, plain: valkey.Valkey
) -> None:
    killed = []

    def lane_of(data: bytes) -> str:
        if data:
            killed.append(proxy.kill())
        return "only"

    async with ChaosProxy(url, lane_of=lane_of) as proxy:
        port = int(proxy.url.rpartition(":")[2].partition("/")[0])
        # The bytes are there before the proxy accepts: it connects to the Unix socket and reads them in one step.
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"SET passed 1\r\n")
            client.setblocking(False)
            with pytest.raises(ConnectionError):
                await in_time(asyncio.get_running_loop().sock_recv(client, 100))
    assert killed == [1]
    assert not plain.exists("passed")
