"""The comparison of a cache with a golden file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.requests import HELLO, asking
from tests.seams import record_reads
from tiercache import AgentCache, GoldenAnswer, GoldenReport, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.embedded import EmbeddedValkey

BLOCKS = [{"type": "text", "text": "Hello"}, {"type": "image", "url": "x"}]


@pytest.fixture(params=["valkey", "memory"])
def any_cache(request: pytest.FixtureRequest, cache: AgentCache, memory: AgentCache) -> AgentCache:
    """Return a cache on the server, and one of process memory alone."""
    return cache if request.param == "valkey" else memory


def golden(folder: Path, *lines: Any) -> Path:
    """Return a file with ``lines``: objects, or the texts of lines."""
    file = folder / "golden.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return file


def llm(params: Any, response: Any) -> dict[str, Any]:
    return {"tier": "llm", "params": params, "response": response}


def tool(args: Any, value: Any) -> dict[str, Any]:
    return {"tier": "tool", "tool": "weather", "args": args, "value": value}


async def test_verify_reports_drifted_and_missing_answers(any_cache: AgentCache, tmp_path: Path) -> None:
    await any_cache.llm.pin(HELLO, "approved")
    await any_cache.llm.store(asking("a"), "new answer")
    key = any_cache.llm.key(asking("a")).key
    await any_cache.llm.store_multipart(asking("blocks"), BLOCKS)
    await any_cache.tool.store("weather", {"city": "Sofia"}, {"high": 31})
    await any_cache.tool.store("weather", None, None)
    lines = [
        llm(HELLO, "approved"),
        "",
        llm(asking("a"), "old answer"),
        llm(asking("b"), "never asked"),
        llm(asking("blocks"), BLOCKS),
        {**tool({"city": "Sofia"}, {"high": 31}), "note": "reviewed"},
        {"tier": "tool", "tool": "weather", "value": None},
        tool({"city": "Varna"}, None),
    ]
    report = await any_cache.verify(golden(tmp_path, *lines))
    assert not report
    assert report.checked == 7
    assert report.drifted == (GoldenAnswer(3, "llm", key, "old answer", "new answer"),)
    assert [answer.line for answer in report.missing] == [4, 8]
    assert str(report).splitlines() == [
        "7 answers checked: 1 drifted, 2 missing",
        "line 3 (llm): expected 'old answer', found 'new answer'",
        "line 4 (llm): missing",
        "line 8 (tool): missing",
    ]


async def test_verify_tells_json_types_apart(any_cache: AgentCache, tmp_path: Path) -> None:
    await any_cache.tool.store("weather", {}, True)
    assert len((await any_cache.verify(golden(tmp_path, tool({}, 1)))).drifted) == 1
    assert await any_cache.verify(golden(tmp_path, tool({}, True)))
    assert await any_cache.verify(golden(tmp_path)) == GoldenReport(0, (), ())


async def test_verify_counts_no_lookups(any_cache: AgentCache, tmp_path: Path) -> None:
    await any_cache.llm.pin(HELLO, "x")
    await any_cache.verify(golden(tmp_path, llm(HELLO, "x"), llm(asking("a"), "x"), tool({}, 1)))
    stats = await any_cache.stats()
    assert (stats.llm.total, stats.tool.total) == (0, 0)


async def test_sync_face_verifies(cache: AgentCache, tmp_path: Path) -> None:
    await cache.llm.pin(HELLO, "x")
    assert await asyncio.to_thread(cache.sync.verify, str(golden(tmp_path, llm(HELLO, "x"))))


WRONG: list[Any] = [
    "{",
    "[]",
    "1",
    '{"tier":"kv"}',
    '{"tier":["llm"]}',
    {"tier": "llm", "params": HELLO},
    {"tier": "llm", "params": HELLO, "response": 1},
    {"tier": "llm", "params": HELLO, "response": "x", "value": 1},
    {"tier": "llm", "params": {"messages": 1}, "response": "x"},
    {"tier": "llm", "params": None, "response": "x"},
    {"tier": "tool", "tool": "a:b", "value": 1},
    {"tier": "tool", "tool": 1, "value": 1},
    {"tier": "tool", "args": {}, "value": 1},
    "[" * 100_000,
    r'{"tier":"tool","tool":"t","value":"\ud800"}',
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
async def test_wrong_line_is_refused_before_any_lookup(
    cache: AgentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    reads = record_reads(monkeypatch)
    with pytest.raises(UsageError, match=r"^line 2 of the golden file"):
        await cache.verify(golden(tmp_path, llm(HELLO, "x"), wrong))
    assert reads == []


async def test_wrong_file_is_refused(memory: AgentCache, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="file must be the path"):
        await memory.verify(1)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        await memory.verify(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="line 1 of the golden file is not JSON"):
        await memory.verify(tmp_path / "binary")


async def test_verify_raises_while_valkey_is_away(own_server: tuple[EmbeddedValkey, int], tmp_path: Path) -> None:
    """A miss of a Valkey that does not answer is no missing answer."""
    server, pid = own_server
    quick = ResilienceOptions(l2_timeout=0.2)
    async with AgentCache.from_url(server.url, name="test", resilience=quick) as cache:
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(L2UnavailableError):
            await cache.verify(golden(tmp_path, llm(HELLO, "x")))
        os.kill(pid, signal.SIGCONT)
