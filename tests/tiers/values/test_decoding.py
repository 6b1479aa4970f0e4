"""Decoding: once for an entry and all its L1 hits; for parts of an entry, when a caller first reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.requests import HELLO
from tests.seams import CountedCalls
from tiercache import AgentCache
from tiercache.tiers.kv.entry import KvCodec
from tiercache.tiers.llm.codec import LlmCodec
from tiercache.tiers.tool.entry import ToolCodec

BLOCKS = [{"type": "text", "text": "Hi"}]
TOKENS = {"input": 3, "output": 4}


@pytest.fixture
async def cache(make_cache: Callable[..., AgentCache]) -> AgentCache:
    """A cache whose entries are in Valkey and not yet in L1."""
    cache = make_cache(name="test")
    await cache.llm.store_multipart(HELLO, BLOCKS, tokens=TOKENS)
    await cache.tool.store("t", {}, {"a": [1]})
    await cache.kv.set("k", "text")
    cache.clear_l1()
    return cache


READS: dict[str, tuple[type, Callable[[AgentCache], Any]]] = {
    "llm": (LlmCodec, lambda cache: cache.llm.check(HELLO)),
    "tool": (ToolCodec, lambda cache: cache.tool.check("t", {})),
    "kv": (KvCodec, lambda cache: cache.kv.get("k")),
}


@pytest.mark.parametrize("tier", READS)
async def test_entry_is_decoded_once_for_all_later_hits(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    codec, read = READS[tier]
    decoded = CountedCalls(monkeypatch, codec, "decode")
    results = [await read(cache) for _ in range(5)]
    assert decoded.calls == 1
    texts = [result if isinstance(result, str) else result.response for result in results]
    assert all(text is texts[0] for text in texts)


async def test_result_decodes_its_parts_once_when_they_are_first_read(
    cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.llm.check(HELLO)
    await cache.tool.check("t", {})
    decoders = [CountedCalls(monkeypatch, json, "loads"), CountedCalls(monkeypatch, msgspec.json, "decode")]

    def decoded() -> int:
        return sum(decoder.calls for decoder in decoders)

    answers = [await cache.llm.check(HELLO) for _ in range(2)]
    results = [await cache.tool.check("t", {}) for _ in range(2)]
    assert [answer.response for answer in answers] == ["Hi", "Hi"]
    assert decoded() == 0
    for count in (1, 1):
        assert answers[0].tokens == TOKENS
        assert decoded() == count
    for count in (2, 2):
        assert answers[0].content_blocks == BLOCKS
        assert decoded() == count
    for count in (3, 3):
        assert results[0].value == {"a": [1]}
        assert decoded() == count
    # Each result has parts of its own.
    assert answers[0].tokens is not answers[1].tokens
    assert answers[0].content_blocks is not answers[1].content_blocks
    assert results[0].value is not results[1].value
    assert decoded() == 6
