"""Fixtures: a proxy in front of the server, and clients of a proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tiercache.testing import ChaosProxy

from .wire import Client, Connect


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Return a function that connects to a proxy, and sends a first command if one is given."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(proxy: ChaosProxy, *hello: str) -> Client:
            client = Client(*await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port))
            stack.push_async_callback(client.close)
            if hello:
                await client.ask(*hello)
            return client

        yield connect


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[ChaosProxy]:
    """Return a proxy in front of the emptied server."""
    async with ChaosProxy(url, seed=1) as proxy:
        yield proxy
