"""Failover: a process trusts a server only while it is a primary. Two real servers, of which one replaces the other."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import valkey

from tests.requests import Loader, asking
from tests.seams import in_l1
from tests.support import StallingProxy, until
from tiercache import AgentCache, CoherenceOptions, ConnectionOptions, L2UnavailableError, ResilienceOptions
from tiercache.embedded import EmbeddedValkey

KEY = "test:__tc:kv:kv:k"
QUICK = ResilienceOptions(l2_timeout=2, breaker_pause=0.05)
# A process without news serves its L1 for ten minutes: here only the end of trust ends that.
LONG = CoherenceOptions(max_staleness=600)


class Server:
    """A server, and a blocking client of it."""

    def __init__(self) -> None:
        self._server = EmbeddedValkey()
        self._server.start()
        self.url = self._server.url
        self.client = valkey.Valkey.from_url(self.url)
        # By default a primary waits 5 s for more replicas before it sends its data.
        self.client.config_set("repl-diskless-sync-delay", 0)

    def stop(self) -> None:
        self.client.close()
        self._server.stop()

    def listen(self) -> int:
        """Listen on a TCP port too; return the port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        self.client.config_set("port", port)
        return port

    def follow(self, port: int) -> None:
        """Become a replica of the primary on ``port``."""
        self.client.replicaof("127.0.0.1", port)

    def be_primary(self) -> None:
        """Become a primary."""
        self.client.replicaof("no", "one")


@pytest.fixture
def first() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
async def second(first: Server) -> AsyncIterator[Server]:
    """Return a replica of the first server that has caught up."""
    server = Server()
    server.follow(first.listen())
    await until(lambda: server.client.info("replication")["master_link_status"] == "up", 20)
    yield server
    server.stop()


def fail_over(first: Server, second: Server) -> None:
    """Promote the second server, and make the first one a replica that is cut off from every primary."""
    second.be_primary()
    first.follow(1)


@pytest.mark.parametrize("tracking", ["auto", "off"])
@pytest.mark.parametrize("multiplexed", [True, False])
async def test_trust_ends_when_the_primary_is_demoted_and_cut_off(
    first: Server, second: Server, multiplexed: bool, tracking: Any, caplog: pytest.LogCaptureFixture
) -> None:
    coherence = CoherenceOptions(max_staleness=600, tracking=tracking)
    options: dict[str, Any] = {"coherence": coherence, "connection": ConnectionOptions(multiplexed=multiplexed)}
    a = AgentCache.from_url(first.url, name="test", resilience=QUICK, **options)
    b = AgentCache.from_url(second.url, name="test", resilience=QUICK, **options)
    async with a:
        await a.kv.set("k", "older")
        await a.kv.set("other", "older")
        assert await a.kv.get("k") == "older"
        await until(lambda: second.client.exists(KEY), 20)
        fail_over(first, second)
        async with b:
            await b.kv.set("k", "newer")
            # The first server still answers, and still has the older value.
            assert b"older" in first.client.get(KEY)
            await until(lambda: not in_l1(a, KEY) and a.local_stats().degraded, 20)
            # Nothing is read from the replica any more, from no connection.
            for key in ("k", "other"):
                assert await a.kv.get(key) is None
            result = await a.llm.get_or_load(asking("x"), Loader())
            assert (result.source, result.degraded) == ("loader", True)
            with pytest.raises(L2UnavailableError):
                await a.kv.set("k", "refused")
            with pytest.raises(L2UnavailableError):
                await a.session.get("thread", "field", fresh=True)
        # A primary again, with another history: the process reads it, and trusts nothing from before.
        first.be_primary()
        await until(lambda: not a.local_stats().degraded, 20)
        await a.kv.set("k", "newest")
        assert await a.kv.get("k") == "newest"
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert sum("unavailable" in record.message for record in warnings) == 1
    assert "primary" in caplog.text


async def test_cache_follows_the_name_of_the_server_to_the_new_primary(first: Server, second: Server) -> None:
    # As a name in DNS, or a virtual address, leads to the new primary, while the old one keeps its connections.
    name = StallingProxy(first.url)
    async with name as url, AgentCache.from_url(url, name="test", resilience=QUICK, coherence=LONG) as cache:
        await cache.kv.set("k", "older")
        assert await cache.kv.get("k") == "older"
        await until(lambda: second.client.exists(KEY), 20)
        name.lead_to(second.url)
        fail_over(first, second)
        second.client.set(KEY, second.client.get(KEY).replace(b"older", b"newer"))
        await until(lambda: _reads(cache, "newer"), 20)
        await cache.kv.set("k", "newest")
        assert b"newest" in second.client.get(KEY)
        await until(lambda: _is_trusted(cache), 20)
        assert len(second.client.client_list(_type="pubsub")) == 1


async def _reads(cache: AgentCache, value: str) -> bool:
    return bool(await cache.kv.get("k") == value)


async def _is_trusted(cache: AgentCache) -> bool:
    return (await cache.kv.explain("k")).trusted


async def test_refused_write_makes_the_writer_leave_the_demoted_server(first: Server, second: Server) -> None:
    name = StallingProxy(first.url)
    async with name as url, AgentCache.from_url(url, name="test", resilience=QUICK, coherence=LONG) as cache:
        await cache.kv.set("k", "older")
        name.lead_to(second.url)
        fail_over(first, second)
        with pytest.raises(L2UnavailableError):
            await cache.kv.set("k", "refused")
        await cache.kv.set("k", "newer")
        assert b"newer" in second.client.get(KEY)


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_cache_that_opens_on_a_replica_works_without_it(second: Server, multiplexed: bool) -> None:
    second.client.config_set("replica-read-only", "no")
    second.client.set(KEY, '"older"')
    connection = ConnectionOptions(multiplexed=multiplexed)
    async with AgentCache.from_url(second.url, name="test", resilience=QUICK, connection=connection) as cache:
        result = await cache.kv.get_or_load("k", lambda: "loaded")
        assert (result.value, result.degraded) == ("loaded", True)
        with pytest.raises(L2UnavailableError):
            await cache.kv.set("k", "newer")
        second.be_primary()
        await until(lambda: not cache.local_stats().degraded, 20)
        await cache.kv.set("k", "newer")
    second.follow(1)
    with pytest.raises(L2UnavailableError):
        await AgentCache.from_url(second.url, name="test", require_l2=True).open()


async def test_user_that_may_not_ask_for_the_role_is_told_once(first: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tiercache")
    rights = ["+@all", "-role"]
    first.client.acl_setuser("worker", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=rights)
    url = f"{first.url}?username=worker&password=pw"
    coherence = CoherenceOptions(max_staleness=0.03)  # Many PINGs.
    async with AgentCache.from_url(url, name="test", resilience=QUICK, coherence=coherence) as cache:
        await cache.kv.set("k", "v")
        await until(lambda: first.client.acl_log() and first.client.acl_log()[0]["count"] > 5, 20)
        assert await cache.kv.get("k") == "v"
    assert sum("ROLE" in record.message for record in caplog.records) == 1
    assert len(caplog.records) == 1
