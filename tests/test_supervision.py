"""Supervision: a defect in one background job is logged once and restarts that job alone; every other job goes on."""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path

import pytest
import valkey

import tiercache
from tests.requests import HELLO
from tests.seams import BACKGROUND_JOBS, JobDefect, in_l1, set_intervals
from tests.support import UNTRACKED, MakeCache, until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, ToolPolicy
from tiercache.testing import ChaosProxy

HEARTBEAT = "__betterdb:heartbeat:test"
KEY = "test:__tc:kv:kv:k"
PACKAGE = Path(tiercache.__file__).parent


def defects(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the log lines about a defect in a background job."""
    return [record for record in caplog.records if "a defect has ended the background job" in record.message]


async def jobs_go_on(cache: AgentCache, plain: valkey.Valkey, stopped: str = "") -> None:
    """Return when each job but ``stopped`` has done its work again."""
    if stopped != "statistics":
        before = int(plain.hget("test:__stats", "llm:misses") or 0)
        await cache.llm.check(HELLO)
        await until(lambda: int(plain.hget("test:__stats", "llm:misses") or 0) > before)
    if stopped != "registration":
        plain.delete(HEARTBEAT)
        await until(lambda: plain.exists(HEARTBEAT))
    if stopped != "tool policies":
        seconds = 5 + int(plain.incr("seconds"))
        plain.hset("test:__tool_policies", "search", json.dumps({"ttl": seconds}))
        await until(lambda: cache.tool.get_policy("search") == ToolPolicy(seconds))
    if stopped != "listener":
        await cache.kv.set("k", "ours")
        plain.set(KEY, b"stheirs")
        await until(lambda: not in_l1(cache, KEY))


@pytest.mark.parametrize("job", [job for job in BACKGROUND_JOBS if job != "pending invalidations"])
async def test_defect_in_one_job_leaves_the_other_jobs_running(
    make_cache: MakeCache,
    plain: valkey.Valkey,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    job: str,
) -> None:
    set_intervals(monkeypatch, send=0.01, beat=0.02, scan=-1, pause=0.01)
    defect = JobDefect(monkeypatch, job)
    cache = make_cache(name="test")
    await cache.open()
    await until(lambda: defect.count >= 3)
    if job != "service":
        await jobs_go_on(cache, plain, stopped=job)
    (record,) = defects(caplog)
    assert f"cache 'test': a defect has ended the background job {job!r}, which runs again" in record.message
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    # The defect is over, as after a change of the data in Valkey: the job works again.
    defect.is_on = False
    count = defect.count
    await until(lambda: defect.count > count)
    await jobs_go_on(cache, plain)


async def test_pending_invalidation_is_repeated_after_a_defect_in_its_repetition(
    plain: valkey.Valkey, proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.02)
    async with AgentCache.from_url(proxy.url, name="test", resilience=options, coherence=UNTRACKED) as cache:
        await cache.kv.set("k", "older")
        defect = JobDefect(monkeypatch, "pending invalidations")
        proxy.refuse()
        proxy.kill()
        with pytest.raises(L2UnavailableError):
            await cache.kv.delete("k")
        proxy.heal()
        await until(lambda: defect.count >= 2)
        assert plain.exists(KEY)
        defect.is_on = False
        await until(lambda: not plain.exists(KEY))
    assert len(defects(caplog)) == 1


# Tasks whose errors reach the callers that wait for them.
AWAITED = {
    "batch",
    "close",
    "connect",
    "exchange",
    "live",
    "load",
    "open",
    "sync-call",
    "sync-end",
    "transport",
    "warm",
    "writes",
}
# Background jobs, which no caller waits for: supervised.
SUPERVISED = {"index", "listen", "pending", "ping", "pins", "probe", "service"}
# Tasks that log and count their errors themselves.
REPORTED = {"hook"}


def test_every_task_of_the_package_is_supervised_or_awaited() -> None:
    """A new background task needs supervision, a row in ``BACKGROUND_JOBS``, and its name here."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in ("testing", "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("create_task", "Task"):
                names = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
                assert len(names) == 1, f"{path}:{node.lineno}: a task without a name"
                name = names[0]
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: a task whose name is no text"
                found.add(str(name.value).removeprefix("tiercache-"))
    assert found == AWAITED | SUPERVISED | REPORTED


UNDECODABLE = [
    b'{"response":"x","model":"\\ud800","storedAt":1}',
    b'{"response":"x","model":"m\\udfff","storedAt":NaN}',
    b'{"response":"x","model":5,"storedAt":1}',
    b'{"response":"x","storedAt":1}',
    b"[" * 100_000,
    b"\xff\xfe",
    b"",
    b"tc:zstd:!",
]


async def test_undecodable_entries_are_counted_and_skipped_by_reindex(
    make_cache: MakeCache,
    plain: valkey.Valkey,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_intervals(monkeypatch, send=0.01, beat=0.05)
    plain.mset({f"test:llm:{n}": data for n, data in enumerate(UNDECODABLE)})
    plain.set("test:llm:lease", "tc:lease:abc:1", px=60_000)
    plain.set("test:llm:good", '{"response":"x","model":"m","storedAt":1}')
    cache = make_cache(name="test")
    assert await cache.reindex() == 1
    assert plain.zscore("test:__tc:idx:model:m", "test:llm:good") is not None
    assert cache.local_stats().tiers["llm"].undecodable == len(UNDECODABLE)
    assert plain.exists("test:__tc:indexed")
    # The background service lives: the heartbeat and the statistics come back.
    plain.delete(HEARTBEAT)
    await until(lambda: plain.exists(HEARTBEAT))
    await cache.llm.check(HELLO)
    await until(lambda: plain.hget("test:__stats", "llm:misses") == b"1")
    assert defects(caplog) == []


async def test_undecodable_entry_is_a_miss_and_is_replaced(cache: AgentCache, plain: valkey.Valkey) -> None:
    key = (await cache.llm.explain(HELLO)).key
    for n, data in enumerate(UNDECODABLE, start=1):
        plain.set(key, data)
        cache.clear_l1()
        assert not (await cache.llm.check(HELLO)).hit
        assert cache.local_stats().tiers["llm"].undecodable == n
