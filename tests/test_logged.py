"""Log lines and errors: no value, no params, no args, no text of a session and no password, whatever happens."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import valkey

from tests.requests import asking
from tests.seams import set_intervals
from tests.support import until
from tiercache import AgentCache, L2CommandError, LlmResponse, ResilienceOptions, TierCacheError, TierOptions
from tiercache.embedded import EmbeddedValkey
from tiercache.testing import ChaosProxy

SECRET = "hunter4711"


def assert_nothing_shown(caplog: pytest.LogCaptureFixture, *errors: BaseException) -> None:
    texts = [record.getMessage() for record in caplog.records] + [caplog.text] + [str(error) for error in errors]
    assert not [text for text in texts if SECRET in text]


async def use(cache: AgentCache) -> list[BaseException]:
    """Use every tier with secret contents; return the errors that the calls raise."""
    params, args = asking(SECRET, user=SECRET), {"password": SECRET}
    errors: list[BaseException] = []
    calls: list[Any] = [
        cache.llm.get_or_load(params, lambda: LlmResponse(SECRET, tokens={"input": 1})),
        cache.llm.store(params, SECRET),
        cache.llm.check(params),
        cache.llm.invalidate(params),
        cache.tool.get_or_load("t", args, lambda password: {SECRET: SECRET}),
        cache.tool.store("t", args, SECRET),
        cache.tool.invalidate("t", args),
        cache.session.set("thread", "field", SECRET),
        cache.session.append("thread", "list", SECRET),
        cache.session.incr("thread", "field"),
        cache.session.compare_and_set("thread", "field", SECRET, SECRET),
        cache.session.get("thread", "field", fresh=True),
        cache.session.get_all("thread"),
        cache.session.destroy_thread("thread"),
        cache.kv.set("k", {SECRET: [SECRET]}),
        cache.kv.set_many({"k": SECRET, "l": SECRET.encode()}),
        cache.kv.get_or_load("k", lambda: SECRET, mode="refresh"),
        cache.kv.get_or_load_many(["m"], lambda keys: {"m": SECRET}),
        cache.kv.delete("k"),
        # Refused arguments: the error has their place and their type.
        cache.kv.set("k", {"a": {SECRET}}),
        cache.kv.set("k", {"a": SECRET + "\ud800"}),
        cache.llm.check(asking(SECRET, stop={SECRET})),
        cache.tool.store("t", {"a": b"hunter4711"}, "x"),
        cache.tool.get_or_load("t", args, lambda password: {SECRET}, mode="refresh"),
        cache.llm.get_or_load(params, lambda: SECRET + "\ud800", mode="refresh"),
        cache.session.set("thread", "field", SECRET * 10_000_000),
    ]
    for call in calls:
        try:
            await call
        except TierCacheError as error:
            errors.append(error)
    return errors


async def test_normal_use_logs_and_raises_nothing_secret(
    cache: AgentCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tiercache")
    errors = await use(cache)
    assert len(errors) >= 5
    # Bytes of another client that cannot be read: nothing of them is logged.
    for key in plain.scan_iter():
        if plain.type(key) == b"string":
            plain.set(key, f"{SECRET}{{".encode())
    cache.clear_l1()
    errors += await use(cache)
    await cache.reindex()
    assert_nothing_shown(caplog, *errors)


async def test_outage_logs_and_raises_nothing_secret(proxy: ChaosProxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tiercache")
    resilience = ResilienceOptions(l2_timeout=0.1, breaker_pause=0.05, drain_timeout=0.2)
    async with AgentCache.from_url(proxy.url, name="test", resilience=resilience) as cache:
        await use(cache)
        proxy.refuse()
        proxy.kill()
        errors = await use(cache)
        proxy.heal()
        await until(lambda: not cache.local_stats().degraded, seconds=10)
        await use(cache)
    assert errors
    assert_nothing_shown(caplog, *errors)


@pytest.mark.parametrize("right", ["-set", "-eval", "-get", "-zadd", "-subscribe", "-hincrby"])
async def test_refusals_log_and_raise_nothing_secret(
    own_server: tuple[EmbeddedValkey, int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    right: str,
) -> None:
    caplog.set_level(logging.DEBUG, "tiercache")
    set_intervals(monkeypatch, send=0.02, beat=0.05)
    url = own_server[0].url
    with valkey.Valkey.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", f">{SECRET}", "~*", "&*", "+@all", right)
    at = f"unix://worker:{SECRET}@{url.removeprefix('unix://')}"
    errors: list[BaseException] = []
    try:
        async with AgentCache.from_url(at, name="test", kv=TierOptions(compress_above=None)) as cache:
            errors = await use(cache)
            await asyncio.sleep(0.1)
    except L2CommandError as error:
        errors.append(error)
    assert errors
    assert_nothing_shown(caplog, *errors)
