"""The response to a request of a plain client: its thread, and its connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.adapters.http.wrapped import CHAT, http_library
from tests.providers import Gate, ProviderServer, Script
from tests.support import until
from tiercache.adapters.http.sync_upstream import SyncUpstream


class Sender:
    """Sends requests through one plain client.

    Args:
        name: The HTTP library.
    """

    def __init__(self, name: str, provider: ProviderServer) -> None:
        self._module = http_library(name)
        self._provider = provider
        self.client: Any = self._module.Client()

    async def response(self, **options: Any) -> Any:
        url = f"{self._provider.openai_url}/chat/completions"
        request = self.client.build_request("POST", url, json=dict(CHAT, **options))
        return await asyncio.to_thread(self.client.send, request, stream=True)

    def upstream(self, response: Any) -> SyncUpstream:
        return SyncUpstream(self._module, response)


@pytest.fixture(params=["httpx", "httpx2"])
def sender(request: pytest.FixtureRequest, provider: ProviderServer) -> Iterator[Sender]:
    sender = Sender(request.param, provider)
    with sender.client:
        yield sender


def socket_of(response: Any) -> Any:
    return response.extensions["network_stream"].get_extra_info("socket")


async def test_hang_up_spares_a_connection_that_serves_other_requests_again(
    sender: Sender, provider: ProviderServer
) -> None:
    """The thread has read to the end, which the loop has not taken yet: the connection is no longer its own."""
    gate = Gate("ending")
    provider.enqueue(Script(), Script(gates=(gate,)))
    response = await sender.response()
    upstream = sender.upstream(response)
    await anext(upstream.chunks())
    await until(lambda: response.is_closed)
    second = await sender.response(stream=True)
    assert socket_of(second) is socket_of(response)
    await upstream.aclose()
    gate.release()
    assert b"[DONE]" in await asyncio.to_thread(second.read)
    assert provider.connection_count == 1


async def test_hang_up_ends_a_read_in_which_the_thread_waits(sender: Sender, provider: ProviderServer) -> None:
    gate = Gate("ending")
    provider.enqueue(Script(gates=(gate,)))
    response = await sender.response(stream=True)
    upstream = sender.upstream(response)
    async for chunk in upstream.chunks():
        if b"part 4" in chunk:
            break
    await upstream.aclose()
    await until(lambda: response.is_closed)
    await provider.until(lambda: provider.hung_up)


async def test_hang_up_before_the_body_is_read_closes_the_response(sender: Sender) -> None:
    response = await sender.response(stream=True)
    await sender.upstream(response).aclose()
    assert response.is_closed
