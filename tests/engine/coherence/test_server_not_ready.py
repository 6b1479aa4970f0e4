"""A server that answers "not now": its refusals are transient, so an invalidation is repeated until it is done."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import valkey

from tests.requests import HELLO, Loader, asking
from tests.seams import StoreView, in_l1, internals
from tests.support import until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.level2.writes import Release, WriteSet
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2

QUICK = ResilienceOptions(l2_timeout=2, breaker_pause=0.05)

CHANGES: dict[str, Callable[[AgentCache], Awaitable[Any]]] = {
    "delete": lambda cache: cache.kv.delete("k"),
    "delete_many": lambda cache: cache.kv.delete_many(["k"]),
    "clear": lambda cache: cache.kv.clear(),
    "delete_pattern": lambda cache: cache.kv.delete_pattern("k*"),
    "invalidate_tag": lambda cache: cache.invalidate_tag("tag"),
    "flush": lambda cache: cache.flush(),
}


@contextmanager
def few_replicas(plain: valkey.Valkey) -> Iterator[None]:
    """Let the server refuse writes because it has no replica (NOREPLICAS)."""
    plain.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        plain.config_set("min-replicas-to-write", 0)


@contextmanager
def failing_disk(plain: valkey.Valkey) -> Iterator[None]:
    """Let the server refuse writes because it could not save its data (MISCONF)."""
    # The save fails because the directory of the server is gone.
    shutil.rmtree(plain.config_get("dir")["dir"])
    plain.config_set("save", "3600 1000000")
    plain.bgsave()
    while plain.info("persistence")["rdb_last_bgsave_status"] == "ok":
        pass
    try:
        yield
    finally:
        plain.config_set("save", "")  # Otherwise the server could not shut down either.


@contextmanager
def read_only(plain: valkey.Valkey) -> Iterator[None]:
    """Make the server the replica of a primary that does not exist (READONLY)."""
    plain.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        plain.replicaof("no", "one")


@contextmanager
def long_script(plain: valkey.Valkey) -> Iterator[None]:
    """Keep the server busy with a script (BUSY)."""
    plain.config_set("busy-reply-threshold", 1)
    running = threading.Thread(target=_run_until_killed, args=(plain.config_get("unixsocket")["unixsocket"],))
    running.start()
    try:
        while _answers(plain):
            pass
        yield
    finally:
        plain.execute_command("SCRIPT", "KILL")
        running.join()


def _run_until_killed(path: str) -> None:
    with valkey.Valkey(unix_socket_path=path) as client, pytest.raises(valkey.ResponseError):
        client.eval("while true do end", 0)


def _answers(plain: valkey.Valkey) -> bool:
    try:
        return bool(plain.ping())
    except valkey.ResponseError:
        return False


STATES = {"NOREPLICAS": few_replicas, "MISCONF": failing_disk, "READONLY": read_only, "BUSY": long_script}


@pytest.fixture
def refusing() -> Iterator[tuple[str, valkey.Valkey]]:
    """Return the URL of a server for this test alone, and a blocking client."""
    server = EmbeddedValkey()
    server.start()
    with valkey.Valkey.from_url(server.url) as client:
        yield server.url, client
    server.stop()


@pytest.fixture
async def cache(refusing: tuple[str, valkey.Valkey]) -> AsyncIterator[AgentCache]:
    async with AgentCache.from_url(refusing[0], name="test", resilience=QUICK) as cache:
        await cache.kv.set("k", "older", tags=["tag"])
        assert await cache.kv.get("k") == "older"
        yield cache


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("change", CHANGES)
async def test_invalidation_is_repeated_until_the_server_carries_it_out(
    cache: AgentCache, refusing: tuple[str, valkey.Valkey], state: str, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = refusing[1]
    with STATES[state](client):
        with pytest.raises(L2UnavailableError):
            await CHANGES[change](cache)
        assert internals(cache).has_pending_invalidations
        # The older value is still in Valkey, and no reader of this process gets it.
        assert await cache.kv.get("k") is None
        assert (await cache.kv.get_or_load("k", lambda: "newer")).value == "newer"
        cache.clear_l1()
    await until(lambda: not internals(cache).has_pending_invalidations, 20)
    assert client.get("test:__tc:kv:kv:k") is None
    assert await cache.kv.get("k") is None
    assert sum("pending invalidation" in record.message for record in caplog.records) <= 1


@pytest.mark.parametrize("state", STATES)
async def test_explicit_write_raises_unavailable_while_the_server_is_not_ready(
    cache: AgentCache, refusing: tuple[str, valkey.Valkey], state: str
) -> None:
    with STATES[state](refusing[1]):
        with pytest.raises(L2UnavailableError):
            await cache.kv.set("k", "newer")
        with pytest.raises(L2UnavailableError):
            await cache.session.set("thread", "field", "newer")
        with pytest.raises(L2UnavailableError):
            await cache.llm.store(HELLO, "newer")
        result = await cache.llm.get_or_load(asking("x"), Loader())
        assert (result.response, result.source) == ("answer", "loader")


async def test_refusal_of_fills_by_a_server_that_answers_is_logged_once(
    cache: AgentCache, refusing: tuple[str, valkey.Valkey], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tiercache")
    with few_replicas(refusing[1]):
        for n in range(5):
            await cache.llm.get_or_load(asking(str(n)), Loader())
        await cache.flush_writes()
    lines = [record.message for record in caplog.records]
    assert sum("was not stored in Valkey" in line and "NOREPLICAS" in line for line in lines) == 1


async def test_features_of_the_server_are_known_after_it_was_not_ready(refusing: tuple[str, valkey.Valkey]) -> None:
    url, client = refusing
    with few_replicas(client):
        level2 = ValkeyLevel2(Settings.from_client(client_from_url(url)), timeout=5, name="test", origin="me")
        (outcome,) = await level2.apply([WriteSet("k", b"v", None)])
        assert isinstance(outcome, L2UnavailableError)
    assert await level2.apply([WriteSet("k", b"v", None)]) == [1]
    assert StoreView(level2).command_of(Release("k", b"v")) == "DELIFEQ"
    await level2.aclose()


async def test_tracking_begins_after_the_server_was_not_ready(refusing: tuple[str, valkey.Valkey]) -> None:
    url, client = refusing
    with few_replicas(client):
        cache = AgentCache.from_url(url, name="test", resilience=QUICK)
        await cache.open()
    # A change by other software reaches L1 only by tracking.
    async with cache:
        await until(lambda: _is_tracking(client), 20)
        await cache.kv.set("k", "older")
        assert await cache.kv.get("k") == "older"
        assert in_l1(cache, "test:__tc:kv:kv:k")
        client.delete("test:__tc:kv:kv:k")
        await until(lambda: not in_l1(cache, "test:__tc:kv:kv:k"), 20)


def _is_tracking(client: valkey.Valkey) -> bool:
    return any("t" in connection["flags"] for connection in client.client_list())
