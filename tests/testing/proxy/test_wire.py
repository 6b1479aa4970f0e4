"""The chaos proxy without faults, its targets and its arguments."""

from __future__ import annotations

import random
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
import valkey
import valkey.asyncio

from tiercache import UsageError
from tiercache.testing import ChaosProxy

from .wire import Connect, ids, library, until


async def test_proxy_passes_all_bytes_by_default(proxy: ChaosProxy, plain: valkey.Valkey) -> None:
    value = random.Random(2).randbytes(5_000_000)
    async with library(proxy.url) as client:
        await client.set("k", value)
        assert plain.get("k") == value
        assert await client.get("k") == value
        assert proxy.connection_count() == 1
    await until(lambda: proxy.connection_count() == 0)
    assert proxy.held_bytes() == 0


async def test_proxy_passes_the_close_of_either_end(proxy: ChaosProxy, plain: valkey.Valkey, connect: Connect) -> None:
    client = await connect(proxy)
    number = (await client.ask("CLIENT", "ID"))[1:].decode()
    plain.client_kill_filter(_id=number)
    assert await client.line() == b""
    before = len(ids(plain))
    other = await connect(proxy, "PING")
    assert len(ids(plain)) == before + 1
    await other.close()
    await until(lambda: len(ids(plain)) == before)


async def test_proxy_answers_a_client_that_has_shut_down_its_sending_half(proxy: ChaosProxy, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.latency(0.05)
    client.send("PING")
    client.writer.write_eof()
    assert await client.line() == b"+PONG"
    assert await client.line() == b""


async def test_proxy_serves_a_target_on_tcp(proxy: ChaosProxy, connect: Connect) -> None:
    async with ChaosProxy(proxy.url) as outer:
        client = await connect(outer, "PING")
        assert await client.ask("PING") == b"+PONG"
        assert outer.kill() == 1
        assert await client.rest() == b""
        await until(lambda: proxy.connection_count() == 0)


async def test_proxy_resets_the_client_if_the_server_is_unreachable(connect: Connect) -> None:
    for target in ("unix:///nowhere/valkey.sock", "valkey://127.0.0.1:1"):
        async with ChaosProxy(target) as proxy:
            client = await connect(proxy)
            assert await client.rest() == b""
            await until(lambda: proxy.connection_count() == 0)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("valkey://localhost:6379", "/0"),
        ("redis://localhost/3", "/3"),
        ("valkey://me:secret@[::1]:7000/1?protocol=3", "/1?protocol=3"),
        ("unix:///tmp/valkey.sock", "/0"),
        ("unix://me:s%40fe@/tmp/valkey.sock?db=2&protocol=3", "/2?protocol=3"),
    ],
)
async def test_url_keeps_everything_except_the_address(target: str, path: str) -> None:
    async with ChaosProxy(target) as proxy:
        parts, credentials = urlsplit(proxy.url), urlsplit(target).netloc.rpartition("@")[0]
        assert (parts.scheme, parts.hostname) == ("valkey", "127.0.0.1")
        assert parts.netloc.rpartition("@")[0] == credentials
        assert proxy.url.endswith(f":{parts.port}{path}")


@pytest.mark.parametrize(
    "target",
    ["valkeys://localhost", "rediss://localhost", "http://localhost", "localhost:6379", "unix://", "valkey://h:99999"],
)
def test_proxy_refuses_an_unsupported_target(target: str) -> None:
    with pytest.raises(UsageError, match="target"):
        ChaosProxy(target)


async def test_proxy_has_a_url_only_while_it_listens(url: str) -> None:
    proxy = ChaosProxy(url)
    for _ in range(2):
        with pytest.raises(UsageError, match="async with"):
            _ = proxy.url
        async with proxy:
            assert proxy.url
            with pytest.raises(UsageError, match="in use"):
                await proxy.__aenter__()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda proxy: proxy.latency(-1),
        lambda proxy: proxy.latency(2, 1),
        lambda proxy: proxy.latency(float("nan")),
        lambda proxy: proxy.latency(0, float("inf")),
        lambda proxy: proxy.stall("sideways"),
        lambda proxy: proxy.drip(0),
        lambda proxy: proxy.drip(float("inf")),
        lambda proxy: proxy.slow_link(0),
        lambda proxy: proxy.slow_link(float("inf")),
        lambda proxy: proxy.slow_link(1, -1),
        lambda proxy: proxy.slow_link(1, float("inf")),
        lambda proxy: proxy.cut_after(-1),
    ],
)
def test_proxy_refuses_a_wrong_setting(wrong: Callable[[ChaosProxy], None]) -> None:
    with pytest.raises(UsageError):
        wrong(ChaosProxy("valkey://localhost"))
