"""Compressed entries: smaller, read by every process that has the library, and a miss in every other process."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import tracemalloc
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any

os.environ["BETTERDB_TELEMETRY"] = "false"

import betterdb_agent_cache as betterdb
import prometheus_client
import pytest
import valkey
import valkey.asyncio
from betterdb_agent_cache.types import TelemetryOptions
from hypothesis import given
from hypothesis import strategies as st

from tests.requests import HELLO, asking
from tests.seams import compression_library, hide_compression_library, importing_compression_library_by, in_l1
from tests.support import entry_keys, until
from tiercache import AgentCache, TierOptions, UsageError
from tiercache.engine.coherence.placeholders import is_placeholder
from tiercache.engine.entries.rules import UndecodableError, UnreadableHereError
from tiercache.tiers.keys.canonical_json import compact_json
from tiercache.tiers.kv.entry import KvCodec, encode_kv
from tiercache.tiers.llm.codec import LlmCodec
from tiercache.tiers.llm.entry import encode
from tiercache.tiers.tool.entry import ToolCodec, encode_tool
from tiercache.tiers.values.compression import Compression
from tiercache.version import install_command

MakeCache = Callable[..., AgentCache]

COMPRESSING = TierOptions(compress_above=200)
TEXT = json.dumps([{"id": n % 7, "state": "open", "labels": ["bug", "help wanted"]} for n in range(170)])
KV_KEY = "test:__tc:kv:kv:k"

LONG = b"s" + b"long " * 100
LIBRARY = compression_library()
assert LIBRARY is not None
FRAME = LIBRARY.compress(LONG)


def zstd(**options: int) -> Any:
    """Return a compressor with these parameters."""
    parameter = LIBRARY.CompressionParameter  # type: ignore[union-attr]
    return LIBRARY.ZstdCompressor(options={getattr(parameter, name): value for name, value in options.items()})  # type: ignore[union-attr]


@pytest.fixture
def compressing(make_cache: MakeCache) -> AgentCache:
    return make_cache(name="test", llm=COMPRESSING, tool=COMPRESSING, kv=COMPRESSING)


@pytest.fixture
def usual(make_cache: MakeCache) -> AgentCache:
    """A cache that compresses no entry."""
    return make_cache(name="test")


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_compression_library(monkeypatch)


async def store_all(cache: AgentCache) -> dict[str, str]:
    """Store the same text in every tier; return the keys."""
    llm = await cache.llm.store(HELLO, TEXT)
    tool = await cache.tool.store("t", {"a": 1}, TEXT)
    await cache.kv.set("k", TEXT)
    return {"llm": llm, "tool": tool, "kv": KV_KEY}


async def read_all(cache: AgentCache) -> list[Any]:
    """Return the value of each tier in Valkey."""
    cache.clear_l1()
    return [
        (await cache.llm.check(HELLO)).response,
        (await cache.tool.check("t", {"a": 1})).response,
        await cache.kv.get("k"),
    ]


# Round trips


async def test_compression_stores_ten_kilobytes_of_json_in_less_than_500_bytes(
    compressing: AgentCache, usual: AgentCache, plain: valkey.Valkey
) -> None:
    assert 10_000 <= len(TEXT) < 12_000
    keys = await store_all(compressing)
    sizes = {tier: plain.strlen(key) for tier, key in keys.items()}
    assert all(size < 500 for size in sizes.values()), sizes
    counters = compressing.local_stats().tiers
    assert {tier: counters[tier].stored_bytes for tier in keys} == sizes
    assert plain.get(keys["llm"]).startswith(b"tc:zstd:")
    assert plain.get(keys["tool"]).startswith(b"tc:zstd:")
    assert plain.get(keys["kv"]).startswith(b"z")
    # A cache that compresses no entry reads compressed ones too.
    assert await read_all(compressing) == await read_all(usual) == [TEXT] * 3


async def test_compression_reads_entries_that_are_not_compressed(
    compressing: AgentCache, usual: AgentCache, plain: valkey.Valkey
) -> None:
    keys = await store_all(usual)
    assert plain.get(keys["kv"]) == b"s" + TEXT.encode()
    assert await read_all(compressing) == [TEXT] * 3


async def test_compression_applies_to_loaded_values(compressing: AgentCache, plain: valkey.Valkey) -> None:
    await compressing.llm.get_or_load(HELLO, lambda: TEXT)
    await compressing.tool.get_or_load("t", {"a": 1}, lambda: TEXT)
    assert await compressing.kv.get_or_load_many(["k", "small"], lambda keys: [TEXT, 5]) == {"k": TEXT, "small": 5}
    await compressing.flush_writes()
    assert all(plain.strlen(key) < 500 for key in entry_keys(plain))
    assert compressing.local_stats().tiers["kv"].stored_bytes == sum(map(plain.strlen, (KV_KEY, KV_KEY[:-1] + "small")))
    assert await read_all(compressing) == [TEXT] * 3


async def test_compression_leaves_out_small_values_and_values_that_get_no_smaller(
    compressing: AgentCache, plain: valkey.Valkey
) -> None:
    for value in ("x" * 199, os.urandom(1000)):
        await compressing.kv.set("k", value)
        assert plain.get(KV_KEY)[1:] == (value.encode() if isinstance(value, str) else value)
    await compressing.kv.set("k", "x" * 200)
    assert plain.get(KV_KEY).startswith(b"z")


async def test_refresh_replaces_a_compressed_entry(
    compressing: AgentCache, usual: AgentCache, plain: valkey.Valkey
) -> None:
    await compressing.kv.set("k", TEXT)
    assert await usual.kv.get("k") == TEXT
    await compressing.kv.get_or_load("k", lambda: TEXT + "!", mode="refresh")
    await compressing.flush_writes()
    assert plain.get(KV_KEY).startswith(b"z")
    await until(lambda: not in_l1(usual, KV_KEY))
    assert await usual.kv.get("k") == TEXT + "!"


async def test_compression_leaves_entries_readable_for_explain_and_invalidate_by_model(
    compressing: AgentCache, plain: valkey.Valkey
) -> None:
    other = asking("b", "other")
    await compressing.llm.store(asking("a", "m"), TEXT)
    kept = await compressing.llm.store(other, TEXT)
    assert (await compressing.llm.explain(other)).l2 == "hit"
    plain.delete("test:__tc:idx:model:m")  # Without the index, the call reads the entries themselves.
    assert await compressing.llm.invalidate_by_model("m", sweep=True) == 1
    assert entry_keys(plain) == [kept]


ABOVE = st.none() | st.integers(1, 300)
REPEATED = st.builds(lambda text, count: text * count, st.text(max_size=20), st.integers(1, 50))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | REPEATED,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(value=JSON | st.binary(max_size=500), above=ABOVE)
def test_compression_returns_every_value_at_every_threshold(value: Any, above: int | None) -> None:
    blocks = [{"type": "data", "data": None if isinstance(value, bytes) else value}]
    text = value if isinstance(value, str) else repr(value)
    given_llm, llm = encode(
        response=text, model="m", stored_at_ms=1, tokens={"input": 1}, cost=0.5, content_blocks=blocks
    )
    given_tool, tool = encode_tool(
        value=blocks, tool="t", args_json=compact_json({"a": text}, "args"), stored_at_ms=1, cost=None
    )
    given_kv, kv = encode_kv(value, "value", 1.0)
    for as_text, codec, data, entry in (
        (True, LlmCodec, llm, given_llm),
        (True, ToolCodec, tool, given_tool),
        (False, KvCodec, kv, given_kv),
    ):
        writer = codec(Compression(above=above, max_bytes=None, as_text=as_text))
        reader = codec(Compression(above=None, max_bytes=len(data), as_text=as_text))
        packed = writer.pack(data)
        assert len(packed) <= len(data)
        assert not is_placeholder(packed)
        if as_text:
            packed.decode()
        else:
            entry = entry.__class__(
                entry.kept, entry.is_json
            )  # The bytes of a kv entry do not contain the time of its store.
        assert reader.decode(packed).value == entry


async def test_compression_returns_values_of_every_kind_from_valkey(compressing: AgentCache, usual: AgentCache) -> None:
    values = {
        "text": TEXT,
        "unicode": "é 👍🏽 \u2028" * 100,
        "bytes": bytes(range(256)) * 8,
        "list": [{"a": [1.5, None, "x" * 300]}] * 10,
        "number": 5,
    }
    await compressing.kv.set_many(values)
    for name, value in values.items():
        await compressing.tool.store("t", name, "" if isinstance(value, bytes) else value)
    for cache in (compressing, usual):
        cache.clear_l1()
        assert await cache.kv.get_many(values) == values
        for name, value in values.items():
            assert (await cache.tool.check("t", name)).value == ("" if isinstance(value, bytes) else value)


# Entries that cannot be read


WRONG = {
    "nothing": b"",
    "no frame": b"frame",
    "cut off": FRAME[:-1],
    "without a checksum's worth": FRAME[: len(FRAME) // 2],
    "something behind it": FRAME + b"x",
    "a second frame behind it": FRAME + FRAME,
    "wants too much memory": (lambda big: big.compress(b"s") + big.compress(bytes(100), 2))(zstd(window_log=27)),
    "compressed twice": LIBRARY.compress(b"z" + FRAME),
    "of no codec": LIBRARY.compress(b"?" * 100),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("tier", ["llm", "kv"])
async def test_compressed_entry_is_a_counted_miss_and_is_replaced_if_damaged(
    usual: AgentCache, plain: valkey.Valkey, name: str, tier: str
) -> None:
    frame = WRONG[name]
    key = await usual.llm.store(HELLO, "x")
    await usual.llm.invalidate(HELLO)
    if tier == "llm":
        plain.set(key, b"tc:zstd:" + base64.b64encode(frame))
        assert not (await usual.llm.check(HELLO)).hit
        assert (await usual.llm.get_or_load(HELLO, lambda: "newer")).source == "loader"
    else:
        key = KV_KEY
        plain.set(key, b"z" + frame)
        assert await usual.kv.get("k") is None
        assert (await usual.kv.get_or_load("k", lambda: "newer")).source == "loader"
    assert usual.local_stats().tiers[tier].undecodable == 2
    await usual.flush_writes()
    assert b"newer" in plain.get(key)


@pytest.mark.parametrize("text", [b"", b"!", b"AAA", b"AA=A", b"KLUv/Q==\n", "é".encode(), b"\xff"])
def test_compression_cannot_decode_text_that_is_not_base64(text: bytes) -> None:
    with pytest.raises(UndecodableError):
        Compression(above=None, max_bytes=None, as_text=True).unpack(b"tc:zstd:" + text)


@given(st.data())
def test_compression_never_decodes_a_frame_with_a_changed_bit_to_another_value(data: st.DataObject) -> None:
    packed = bytearray(Compression(above=1, max_bytes=None, as_text=False).pack(LONG))
    packed[data.draw(st.integers(1, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(UndecodableError):
        assert Compression(above=None, max_bytes=10_000, as_text=False).unpack(bytes(packed)) == LONG


def test_compression_refuses_a_frame_of_a_very_large_value_without_the_memory_for_it() -> None:
    bomb = b"z" + LIBRARY.compress(bytes(256 * 1024 * 1024))
    assert len(bomb) < 50_000
    reader = Compression(above=None, max_bytes=100_000, as_text=False)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableHereError):
            reader.unpack(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


async def test_value_too_large_is_not_stored_even_if_its_compressed_entry_is_small(
    make_cache: MakeCache, compressing: AgentCache, plain: valkey.Valkey
) -> None:
    small = make_cache(name="test", kv=TierOptions(max_value_bytes=1000, compress_above=200))
    await small.kv.get_or_load("k", lambda: TEXT)
    with pytest.raises(UsageError, match="too large"):
        await small.kv.set("k", TEXT)
    await small.flush_writes()
    assert entry_keys(plain) == []
    await compressing.kv.set("k", TEXT)
    assert plain.strlen(KV_KEY) < 1000
    assert await small.kv.get("k") is None
    assert small.local_stats().tiers["kv"].undecodable == 1


# Without the library


async def test_compression_misses_and_replaces_compressed_entries_without_the_library(
    usual: AgentCache, plain: valkey.Valkey, without_library: None
) -> None:
    plain.set(KV_KEY, b"z" + FRAME)
    assert await usual.kv.get("k") is None
    assert usual.local_stats().tiers["kv"].undecodable == 1
    assert (await usual.kv.get_or_load("k", lambda: TEXT)).source == "loader"
    await usual.flush_writes()
    assert plain.get(KV_KEY) == b"s" + TEXT.encode()
    # This process cannot read the model of a compressed answer. The answer is removed: other processes can read it.
    plain.set("test:llm:" + "0" * 64, b"tc:zstd:" + base64.b64encode(FRAME))
    assert await usual.llm.invalidate_by_model("m", sweep=True) == 1


@pytest.mark.parametrize("tier", ["llm", "tool", "kv"])
def test_compression_without_the_library_names_the_extra_to_install(tier: Any, without_library: None) -> None:
    with pytest.raises(
        UsageError, match=re.escape(f"TierOptions.compress_above needs an extra: {install_command('compress')}")
    ):
        AgentCache.in_memory(**{tier: COMPRESSING})


def test_compression_imports_its_library_once_and_accepts_its_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def missing(name: str) -> Any:
        asked.append(name)
        raise ImportError

    with importing_compression_library_by(monkeypatch, missing):
        assert compression_library() is compression_library() is None
    (name,) = asked
    assert import_module(name) is LIBRARY


def test_compression_is_refused_for_sessions() -> None:
    with pytest.raises(UsageError, match=r"session must be a SessionOptions: .* compress_above"):
        AgentCache.in_memory(session=COMPRESSING)


# betterdb-agent-cache on the same keys


@pytest.fixture
async def peer(url: str) -> AsyncIterator[betterdb.AgentCache]:
    async with valkey.asyncio.Valkey.from_url(url) as client:
        cache = betterdb.AgentCache(
            betterdb.AgentCacheOptions(
                client=client,
                name="test",
                telemetry=TelemetryOptions(registry=prometheus_client.CollectorRegistry()),
            )
        )
        yield cache
        await cache.shutdown()


async def test_betterdb_misses_a_compressed_entry_without_an_error(
    compressing: AgentCache, peer: betterdb.AgentCache
) -> None:
    await store_all(compressing)
    assert not (await peer.llm.check(HELLO)).hit  # type: ignore[arg-type]
    assert not (await peer.tool.check("t", {"a": 1})).hit


async def test_indexes_stay_incomplete_while_entries_cannot_be_read(
    compressing: AgentCache, usual: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store_all(compressing)
    plain.delete("test:__tc:indexed", *plain.keys("test:__tc:idx:*"))
    with monkeypatch.context() as patch:
        hide_compression_library(patch)
        await usual.reindex()
        assert not plain.exists("test:__tc:indexed")
    await usual.reindex()
    assert plain.exists("test:__tc:indexed")
