"""The bytes of entries, and the values that come back from them."""

from __future__ import annotations

import json
import math
from typing import Any

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.requests import HELLO
from tests.support import MakeCache
from tiercache import AgentCache, TierOptions
from tiercache.engine.entries.rules import UndecodableError
from tiercache.tiers.kv.entry import KvCodec, encode_kv
from tiercache.tiers.tool.entry import ToolCodec, encode_tool
from tiercache.tiers.values.compression import Compression

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
BLOCKS = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]


def compression(*, as_text: bool, above: int | None = None) -> Compression:
    return Compression(above=above, max_bytes=None, as_text=as_text)


@pytest.mark.parametrize("above", [None, 0])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON_VALUES | st.binary())
def test_kv_codec_returns_the_value_that_was_encoded(value: Any, above: int | None) -> None:
    codec = KvCodec(compression(as_text=False, above=above))
    entry, data = encode_kv(value, "value", 1.0)
    assert entry.value() == value
    read = codec.decode(codec.pack(data)).value.value()
    assert (read, type(read)) == (value, type(value))


@given(value=JSON_VALUES)
def test_tool_codec_returns_the_entry_that_was_encoded(value: Any) -> None:
    codec = ToolCodec(compression(as_text=True))
    entry, data = encode_tool(value=value, tool="t", args_json=b"{}", stored_at_ms=5, cost=0.5)
    assert codec.decode(codec.pack(data)).value == entry
    assert (json.loads(entry.response) if entry.is_json else entry.response) == value
    assert entry.is_json == (not isinstance(value, str))


@pytest.mark.parametrize("data", [b"", b"x", b"j", b"j{", b"s\xff", b"znone", b"j" + b"[" * 100_000])
def test_kv_codec_refuses_bytes_that_no_cache_wrote(data: bytes) -> None:
    with pytest.raises(UndecodableError):
        KvCodec(compression(as_text=False)).decode(data)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("é", "sé".encode()),
        ("", b"s"),
        (b"\x00\xff", b"b\x00\xff"),
        (None, b"jnull"),
        (0, b"j0"),
        (1.0, b"j1.0"),
        (math.inf, b"jInfinity"),
        ([1, {"a": None}], b'j[1,{"a":null}]'),
    ],
)
async def test_kv_value_has_these_bytes_and_comes_back(
    make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey, value: Any, data: bytes
) -> None:
    cache = make_fake()
    await cache.kv.set("k", value)
    assert await fake.get("test:__tc:kv:kv:k") == data
    assert await cache.kv.get("k") == value  # from L1
    cache.clear_l1()
    assert await cache.kv.get("k") == value


async def test_tool_result_has_the_fields_of_the_wire(make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey) -> None:
    cache = make_fake()
    key = await cache.tool.store("t", {"b": 1, "a": [2]}, {"x": "é"}, cost=0)
    entry = json.loads(await fake.get(key))
    assert list(entry) == ["response", "toolName", "args", "storedAt", "cost", "json"]
    assert (entry["response"], entry["args"], entry["cost"]) == ('{"x":"é"}', {"b": 1, "a": [2]}, 0)
    assert list(entry["args"]) == ["b", "a"]


async def test_llm_answer_has_the_fields_of_the_wire(make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey) -> None:
    cache = make_fake()
    key = await cache.llm.store_multipart(HELLO, BLOCKS, tokens={"input": 1000, "output": 0})
    entry = json.loads(await fake.get(key))
    assert list(entry) == ["response", "contentBlocks", "model", "storedAt", "tokens", "cost"]
    assert (entry["response"], entry["contentBlocks"], entry["model"]) == ("Hi there", BLOCKS, "gpt-4o")
    cache.clear_l1()
    result = await cache.llm.check(HELLO)
    assert (result.source, result.response, result.content_blocks) == ("l2", "Hi there", BLOCKS)


@pytest.mark.parametrize("tier", ["llm", "tool", "kv"])
async def test_large_entry_is_compressed_and_read_by_every_cache(
    make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey, tier: Any
) -> None:
    writer, reader = make_fake(**{tier: TierOptions(compress_above=100)}), make_fake()
    text = "the same words " * 100
    keys = {
        "llm": lambda: writer.llm.store(HELLO, text),
        "tool": lambda: writer.tool.store("t", {}, text),
        "kv": lambda: set_and_name(writer, text),
    }
    data = await fake.get(await keys[tier]())
    assert data.startswith(b"z" if tier == "kv" else b"tc:zstd:")
    assert len(data) < 200
    read = {
        "llm": await reader.llm.check(HELLO),
        "tool": await reader.tool.check("t", {}),
        "kv": await reader.kv.get("k"),
    }[tier]
    assert (read if tier == "kv" else read.response) == text


async def set_and_name(cache: AgentCache, text: str) -> str:
    """Set a kv value; return its key in Valkey."""
    await cache.kv.set("k", text)
    return "test:__tc:kv:kv:k"


@pytest.mark.parametrize("junk", [b"", b"\xff", b"[]", b'{"response":5}', b"tc:zstd:AAAA"])
async def test_undecodable_entry_is_a_miss_that_the_next_load_replaces(
    make_fake: MakeCache, fake: fakeredis.FakeAsyncValkey, junk: bytes
) -> None:
    cache = make_fake()
    keys = [await cache.llm.store(HELLO, "x"), await cache.tool.store("t", {}, "x"), await set_and_name(cache, "x")]
    cache.clear_l1()
    for key in keys:
        await fake.set(key, junk)
    assert not (await cache.llm.check(HELLO)).hit
    assert not (await cache.tool.check("t", {})).hit
    assert await cache.kv.get("k") is None
    assert [cache.local_stats().tiers[tier].undecodable for tier in ("llm", "tool", "kv")] == [1, 1, 1]
    assert (await cache.llm.get_or_load(HELLO, lambda: "new")).response == "new"
    await cache.flush_writes()
    cache.clear_l1()
    assert (await cache.llm.check(HELLO)).response == "new"
