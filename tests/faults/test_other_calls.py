"""The calls that the matrix does not have, while the server does not answer and once it answers again."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.page import PAGE
from tests.requests import HELLO
from tests.support import until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, RuntimeSettings
from tiercache.embedded import EmbeddedValkey

Run = Callable[[AgentCache, Path], Awaitable[Any]]


async def _scan(cache: AgentCache, folder: Path) -> Any:
    return [entry.key async for entry in cache.kv.scan()]


async def _warm(cache: AgentCache, folder: Path) -> Any:
    report = await cache.kv.warm(["new"], lambda key: 1)
    return report.loaded


async def _verify(cache: AgentCache, folder: Path) -> Any:
    file = folder / "golden.jsonl"
    file.write_text('{"tier": "tool", "tool": "t", "args": {}, "value": "v"}\n', "utf-8")
    return bool(await cache.verify(file))


async def _run_of_agent(cache: AgentCache, folder: Path) -> Any:
    async with cache.agent("r"):
        await cache.tool.get_or_load("own", {}, lambda: "x", per_run=True)
    return True


# The calls by the row of the page.
CALLS: dict[str, Run] = {
    "`configure`": lambda cache, _: _done(cache.configure("kv", RuntimeSettings(ttl=60))),
    "`settings`": lambda cache, _: _done(_plain(cache.settings("kv"))),
    "`refresh_settings`": lambda cache, _: cache.refresh_settings(),
    "`pin`": lambda cache, _: cache.llm.pin(HELLO, "approved"),
    "`unpin`": lambda cache, _: cache.tool.unpin("t", {"n": 2}),
    "`pins`": lambda cache, _: cache.tool.pins(),
    "a lookup of a pinned answer": lambda cache, _: _source(cache, "pin"),
    "`verify`": _verify,
    "`scan`": _scan,
    "`inspect`": lambda cache, _: _in_l2(cache),
    "`delete_pattern`": lambda cache, _: cache.kv.delete_pattern("k*"),
    "`warm`": _warm,
    "the end of a run with entries of its own": _run_of_agent,
    "`reindex`": lambda cache, _: _done(cache.reindex()),
    "`flush`": lambda cache, _: _done(cache.flush()),
}
# What the page says about the calls while the server does not answer.
OUTCOMES = {"unavailable", "works", "degraded"}


async def _plain(value: object) -> object:
    return value


async def _done(call: Awaitable[object]) -> bool:
    await call
    return True


async def _source(cache: AgentCache, expected: str) -> bool:
    return (await cache.tool.check("t", {"n": 1})).source == expected


async def _in_l2(cache: AgentCache) -> bool:
    return (await cache.kv.inspect("k1")).in_l2


def rows() -> dict[str, str]:
    """Return the outcomes of the page, by call."""
    text = PAGE.read_text("utf-8").partition("<!-- others: begin -->")[2].partition("<!-- others: end -->")[0]
    found = re.findall(r"^\| (.+?) \| (\w+) \|", text, re.MULTILINE)
    return {call: outcome for call, outcome in found if outcome in OUTCOMES}


def test_page_has_every_call() -> None:
    assert list(rows()) == list(CALLS)


@pytest.mark.parametrize("call", CALLS)
async def test_call_has_the_outcome_of_the_page_while_the_server_does_not_answer(
    call: str, own_server: tuple[EmbeddedValkey, int], tmp_path: Path
) -> None:
    server, pid = own_server
    resilience = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.1)
    async with AgentCache.from_url(server.url, name="test", resilience=resilience) as cache:
        await cache.kv.set("k1", 1)
        await cache.kv.set("k2", 2)
        await cache.tool.store("t", {}, "v")
        for number in (1, 2):
            await cache.tool.pin("t", {"n": number}, "approved")
        cache.clear_l1()
        expected, run = rows()[call], CALLS[call]
        os.kill(pid, signal.SIGSTOP)
        if expected == "unavailable":
            with pytest.raises(L2UnavailableError):
                await run(cache, tmp_path)
        else:
            assert bool(await run(cache, tmp_path)) == (expected == "works")
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not cache.local_stats().degraded, 10)
        await until(lambda: cache.local_stats().trusted, 10)
        await cache.kv.set("k1", 1)
        await run(cache, tmp_path)
