"""The end of the proxy, and of a connection in its first moments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from tiercache.testing import ChaosProxy

from .wire import PATIENCE, Connect, until


@pytest.mark.parametrize(
    "misbehave",
    [
        lambda proxy: None,
        lambda proxy: proxy.stall(),
        lambda proxy: proxy.stall("to_client"),
        lambda proxy: proxy.latency(60),
        lambda proxy: proxy.drip(0.1),
        lambda proxy: proxy.slow_link(0.1, 60),
        lambda proxy: proxy.half_open(),
        lambda proxy: proxy.kill(),
        lambda proxy: proxy.cut_after(0),
        lambda proxy: proxy.garble(),
    ],
)
async def test_proxy_leaves_no_task_and_no_socket_at_the_end(
    url: str, connect: Connect, misbehave: Callable[[ChaosProxy], object]
) -> None:
    files = len(os.listdir("/dev/fd"))
    async with ChaosProxy(url) as proxy:
        clients = [await connect(proxy, "PING") for _ in range(3)]
        misbehave(proxy)
        clients[0].send("PING")
        clients[1].send("ECHO", "x" * 3_000_000)
        # The proxy has accepted this client and has not connected to the server yet.
        clients.append(await connect(proxy))
        await until(lambda: proxy.connection_count() in (1, 3, 4))
    assert len(asyncio.all_tasks()) == 1
    for client in clients:
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE):
                await client.reader.read()
        await client.close()
    assert proxy.connection_count() == 0
    assert len(os.listdir("/dev/fd")) == files


@pytest.mark.parametrize("drop", [ChaosProxy.kill, ChaosProxy.half_open])
async def test_connection_can_be_dropped_before_its_first_step(url: str, drop: Callable[[ChaosProxy], Any]) -> None:
    async with ChaosProxy(url) as proxy:
        # The kernel connects the client without the event loop. Then the loop runs one step at a time.
        with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0)):
            while not proxy.connection_count():  # noqa: ASYNC110
                await asyncio.sleep(0)
            drop(proxy)


async def test_proxy_can_be_used_again(url: str, connect: Connect) -> None:
    proxy = ChaosProxy(url)
    for _ in range(2):
        async with proxy:
            assert await (await connect(proxy)).ask("PING") == b"+PONG"
