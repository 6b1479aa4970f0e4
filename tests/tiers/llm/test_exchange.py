"""Exchanges: an llm entry with the HTTP answer of a wrapped client, plain and compressed."""

from __future__ import annotations

import base64
import gc
import json
import logging
import random
import tracemalloc
from typing import Any

import pytest
import valkey
from hypothesis import given
from hypothesis import strategies as st

from tests.requests import HELLO
from tests.seams import compression_library, hide_compression_library, internals
from tests.support import MakeCache, entry_keys, until
from tests.tiers.llm.exchanges import HEADERS, LONG, SHORT, chat_body, codec, exchange_of, stream_body
from tiercache import AgentCache, LlmOptions, TierOptions, UsageError
from tiercache.engine.entries.rules import UndecodableError, UnreadableHereError
from tiercache.tiers.llm.codec import LlmCodec
from tiercache.tiers.llm.entry import LlmEntry, encode
from tiercache.tiers.llm.exchange import Exchange, encode_exchange, is_plain_header
from tiercache.tiers.values.compression import Compression
from tiercache.version import install_command

ANSWER = {"response": "x", "model": "gpt-4o", "storedAt": 1}


def with_http(**http: Any) -> bytes:
    """Return the bytes of an answer with these fields in ``http``, besides a status and headers."""
    return json.dumps({**ANSWER, "http": {"status": 200, "headers": []} | http}).encode()


def zstd(data: bytes, **options: Any) -> bytes:
    return bytes(compression_library().compress(data, **options))


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


# The bytes


def test_exchange_is_an_llm_entry_with_one_more_field() -> None:
    body = stream_body(SHORT)
    exchange, data = exchange_of()
    fields = json.loads(data)
    assert list(fields) == ["response", "model", "storedAt", "tokens", "cost", "http"]
    assert fields["http"] == {"status": 200, "headers": [list(header) for header in HEADERS], "body": body.decode()}
    assert data == json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    assert (exchange.response, exchange.status, exchange.headers, exchange.body) == (SHORT, 200, HEADERS, body)
    assert data.startswith(encode(response=SHORT, model="gpt-4o", stored_at_ms=1_700_000_000_000,
        tokens={"input": 3, "output": 4}, cost=0.5, content_blocks=None)[1][:-1])  # fmt: skip


def test_exchange_with_a_body_that_is_not_utf_8_has_it_as_base64() -> None:
    body = b"\xff\x00binary"
    exchange, data = exchange_of(body=body)
    assert json.loads(data)["http"] | {"headers": []} == {
        "status": 200,
        "headers": [],
        "body": text_of(body),
        "base64": True,
    }
    assert codec().decode(data).value == exchange


@pytest.mark.parametrize("body", [chat_body(LONG), stream_body(LONG)], ids=["whole", "stream"])
@pytest.mark.parametrize("text", [SHORT, "x" * 200, "x" * 201, LONG, "\U0001f44d" * 300], ids=len)
def test_large_exchange_has_its_body_compressed_inside_the_json(text: str, body: bytes) -> None:
    exchange, data = exchange_of(text, body)
    packed = codec().pack(data)
    assert len(packed) < len(data) * (0.7 if body == chat_body(LONG) else 0.4)
    plain, fields = json.loads(data), json.loads(packed)
    assert packed == json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    assert fields["response"] == text[:200]
    assert list(fields["http"]) == ["status", "headers", "zstd"] + ["text"] * (len(text) > 200)
    assert compression_library().decompress(base64.b64decode(fields["http"]["zstd"])) == body
    assert {**fields, "response": text, "http": plain["http"]} == plain
    assert list(fields) == list(plain)
    # No part of the text is lost.
    assert codec().decode(packed).value == exchange


def test_compressed_exchange_hardly_grows_by_the_text_that_its_body_contains() -> None:
    text = random.Random(1).randbytes(2000).hex()
    body = chat_body(text)
    without, with_text = (codec().pack(exchange_of(each, body)[1]) for each in (text[:200], text))
    assert len(zstd(text.encode())) > 2000
    assert len(with_text) < len(without) + 200


texts = st.text(max_size=300) | st.builds(lambda text, count: text * count, st.text(max_size=20), st.integers(1, 60))


@given(
    text=texts,
    body=texts.map(str.encode) | st.binary(max_size=3000) | texts.map(chat_body),
    above=st.none() | st.integers(0, 3000),
    tags=st.lists(st.text(min_size=1, max_size=9), unique=True, max_size=3),
)
def test_exchange_comes_back_at_every_threshold_and_with_tags(
    text: str, body: bytes, above: int | None, tags: list[str]
) -> None:
    exchange, data = exchange_of(text, body)
    writer, reader = codec(above), codec(max_bytes=len(data) + 1000)
    packed = writer.pack(data, tuple(tags))
    assert len(packed) <= len(data) or tags
    assert reader.decode(packed) == (exchange, tuple(tags))
    assert json.loads(packed.decode())["model"] == "gpt-4o"
    more = writer.add_tags(packed, ("another", *tags))
    assert reader.decode(more) == (exchange, tuple(dict.fromkeys((*tags, "another"))))
    assert reader.tags_of(more) == tuple(dict.fromkeys((*tags, "another")))


def test_exchange_is_compressed_above_a_kilobyte_or_the_threshold_of_the_tier() -> None:
    def is_compressed(size: int, above: int | None = None) -> bool:
        _, data = exchange_of("x", b"y" * 2000, headers=())
        data = exchange_of("x", b"y" * (2000 - len(data) + size), headers=())[1]
        assert len(data) == size
        return b'"zstd":' in codec(above).pack(data)

    assert [is_compressed(size) for size in (1024, 1025)] == [False, True]
    assert [is_compressed(size, 1500) for size in (1025, 1500, 1501)] == [False, False, True]
    assert is_compressed(500, 300)


def test_exchange_that_gets_no_smaller_is_not_compressed() -> None:
    body = bytes(range(256)) * 5
    data = exchange_of("x", zstd(bytes(body)[:3] + body), headers=())[1]
    assert codec(0).pack(data) == data


@pytest.mark.parametrize("body", [b"", b"{}", b"1234567"])
def test_exchange_whose_body_is_tiny_is_not_compressed(body: bytes) -> None:
    exchange, data = exchange_of(LONG, body)
    assert codec(0).pack(data) == data
    assert codec().decode(data).value == exchange


HTTP_PART = {"status": 200, "headers": [], "body": "x" * 5000}


@pytest.mark.parametrize("nested", [{"a": 1, "http": HTTP_PART}, {"http": HTTP_PART, "z": "the end"}])
@pytest.mark.parametrize("above", [None, 100])
def test_answer_with_a_part_named_http_is_no_exchange(nested: dict[str, Any], above: int | None) -> None:
    for parts in ({"content_blocks": [nested], "tokens": None}, {"content_blocks": None, "tokens": nested}):
        entry, data = encode(response="x", model="m", stored_at_ms=1, cost=None, **parts)  # type: ignore[arg-type]
        packed = codec(above).pack(data)
        assert packed.startswith(b"tc:zstd:") if above else packed == data
        value = codec().decode(packed).value
        assert type(value) is LlmEntry
        assert value == entry


def test_exchange_whose_token_counts_only_json_reads_is_stored() -> None:
    exchange, data = exchange_of(LONG, tokens={"input": 1, "rate": float("inf")})
    for above in (None, 100):
        assert codec().decode(codec(above).pack(data)).value == exchange


def test_exchange_of_another_status_or_with_a_header_that_no_reader_believes_is_refused() -> None:
    entry, data = encode(response="x", model="m", stored_at_ms=1, tokens=None, cost=None, content_blocks=None)
    with pytest.raises(UsageError, match="its status is 500"):
        encode_exchange(entry, data, status=500, headers=(), body=b"")
    for headers in ((("transfer-encoding", "chunked"),), (("x", "hunter4711\n"),), (("a", "b"),) * 65):
        with pytest.raises(UsageError, match="header") as raised:
            encode_exchange(entry, data, status=200, headers=headers, body=b"")
        assert "hunter" not in str(raised.value)


# Memory


def test_size_of_an_exchange_counts_all_of_its_parts() -> None:
    headers = (("content-type", "text/" + "x" * 500), ("x-request-id", "y" * 500))
    exchange, data = exchange_of(LONG, headers=headers)
    packed, reader = codec().pack(data), codec()
    assert reader.decode(packed).value == exchange
    values: list[Any] = [None] * 20
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(len(values)):
            values[number] = reader.decode(packed).value
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = values[0].size_bytes
    assert counted > len(exchange.body) + len(LONG) + 1000
    assert abs(taken / len(values) - counted) < 150


# Reading what others wrote


@pytest.mark.parametrize(
    "http",
    [
        {"status": 500},
        {"status": 204},
        {"status": "200"},
        {"status": True},
        {"status": None},
        {"body": None},
        {"body": 5},
        {"body": ["x"]},
        {"body": "\ud800"},
        {"body": "x", "base64": 1},
        {"body": "é", "base64": True},
        {"body": "eA", "base64": True},
        {"body": "e A==", "base64": True},
        {"body": "eA==eA==", "base64": True},
        {"body": "eA==\n", "base64": True},
        {"headers": None},
        {"headers": {"content-type": "x"}},
        {"headers": [["a"]]},
        {"headers": [["a", "b", "c"]]},
        {"headers": [["a", 1]]},
        {"headers": [["a", None]]},
        {"headers": ["ab"]},
        {"headers": [["a", "b"]] * 65},
        {"headers": [["", "b"]]},
        {"headers": [["a b", "c"]]},
        {"headers": [["a:", "c"]]},
        {"headers": [["é", "c"]]},
        {"headers": [["a\n", "c"]]},
        {"headers": [["a" * 129, "c"]]},
        {"headers": [["a", "c\r\nx: y"]]},
        {"headers": [["a", "c\n"]]},
        {"headers": [["a", "c\0"]]},
        {"headers": [["a", "\x7f"]]},
        {"headers": [["a", "é"]]},
        {"headers": [["a", "\ud800"]]},
        {"headers": [["a", "c" * 8193]]},
        {"headers": [["Content-Encoding", "gzip"]]},
        {"headers": [["content-length", "5"]]},
        {"headers": [["transfer-encoding", "chunked"]]},
        {"headers": [["connection", "close"]]},
        {"headers": [["set-cookie", "a=b"]]},
        {"zstd": ""},
        {"zstd": "!"},
        {"zstd": "eA=="},
        {"zstd": 5},
    ],
    ids=lambda http: json.dumps(http)[:40],
)
def test_exchange_of_another_form_is_undecodable(http: dict[str, Any]) -> None:
    assert isinstance(codec().decode(with_http(body="x")).value, Exchange)
    with pytest.raises(UndecodableError):
        codec().decode(with_http(**{"body": "x"} | http))


@pytest.mark.parametrize("http", [[], "x", 5, True, {}, {"status": 200}, {"status": 200, "headers": []}])
def test_exchange_without_its_parts_is_undecodable(http: Any) -> None:
    with pytest.raises(UndecodableError):
        codec().decode(json.dumps({**ANSWER, "http": http}).encode())


def test_exchange_may_have_further_fields_and_none_at_all() -> None:
    more = codec().decode(with_http(body="x", version=2, text="eA==", other=[None])).value
    assert (more.body, more.response) == (b"x", "x")
    assert type(codec().decode(json.dumps({**ANSWER, "http": None}).encode()).value) is LlmEntry
    # Read by ``json``, because msgspec refuses the token counts.
    data = json.dumps({**ANSWER, "tokens": {"n": float("nan")}, "http": json.loads(with_http(zstd="x"))["http"]})
    frame = text_of(zstd(b"the body"))
    assert codec().decode(data.replace('"zstd": "x"', f'"zstd": "{frame}"').encode()).value.body == b"the body"


@pytest.mark.parametrize(
    ("name", "value", "is_plain"),
    [
        ("content-type", "text/event-stream; charset=utf-8", True),
        ("X-Request-Id", "", True),
        ("anthropic-organization-id", "a\tb ~", True),
        ("Transfer-Encoding", "chunked", False),
        ("", "x", False),
        ("a", "é", False),
        ("a", "b\r\n", False),
    ],
)
def test_header_is_plain_or_refused(name: str, value: str, is_plain: bool) -> None:
    assert is_plain_header(name, value) == is_plain


def damaged_texts() -> list[bytes]:
    """Return compressed exchanges whose text is damaged, while their body is whole."""
    library, body = compression_library(), stream_body(LONG)
    whole = library.compress(LONG.encode(), zstd_dict=library.ZstdDict(body, is_raw=True).as_prefix)
    frame = text_of(zstd(body))
    texts = [b"", b"frame", whole[:-1], whole + b"x", whole + whole, zstd(b"\xff\xfe")]
    return [with_http(zstd=frame, text=text_of(text)) for text in texts] + [
        with_http(zstd=frame, text="!"),
        with_http(zstd=frame, text=5),
        # Made with another body.
        with_http(zstd=text_of(zstd(stream_body("Another answer " * 40))), text=text_of(whole)),
        # A body too short to be a dictionary.
        with_http(zstd=text_of(zstd(b"{}")), text=text_of(whole)),
    ]


@pytest.mark.parametrize("number", range(10))
def test_compressed_exchange_with_a_damaged_text_is_undecodable(number: int) -> None:
    with pytest.raises(UndecodableError):
        codec().decode(damaged_texts()[number])


@pytest.mark.parametrize("prefix", [b"x", b"1234567", b"another prefix"])
def test_compressed_text_is_undecodable_with_another_prefix(prefix: bytes) -> None:
    compression = Compression(above=None, max_bytes=None, as_text=True)
    body = chat_body(LONG)
    frame = compression.frame(LONG.encode(), prefix=body)
    assert compression.content(frame, prefix=body).decode() == LONG
    with pytest.raises(UndecodableError):
        compression.content(frame, prefix=prefix)


@pytest.mark.parametrize("field", ["zstd", "text"])
def test_compressed_exchange_never_unpacks_to_more_memory_than_may_be_read(field: str) -> None:
    library, most = compression_library(), 100_000
    body = b"the body " * 100
    bomb = zstd(
        bytes(200_000_000), zstd_dict=library.ZstdDict(body, is_raw=True).as_prefix if field == "text" else None
    )
    data = with_http(**{"zstd": text_of(zstd(body)), field: text_of(bomb)})
    assert len(data) < most
    reader = codec(max_bytes=most)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableHereError):
            reader.decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_limit_of_a_tier_counts_the_bytes_before_compression() -> None:
    exchange, data = exchange_of(LONG)
    packed = codec().pack(data)
    assert codec(max_bytes=len(data)).decode(packed).value == exchange
    # The body and the text together.
    unpacked = len(exchange.body) + len(LONG.encode())
    assert codec(max_bytes=unpacked).decode(packed).value == exchange
    for most in (unpacked - 1, len(exchange.body) - 1):
        with pytest.raises(UnreadableHereError):
            codec(max_bytes=most).decode(packed)
        assert codec(max_bytes=most).model_of(packed) == "gpt-4o"


def test_exchanges_only_takes_an_answer_without_exchange_for_undecodable() -> None:
    reader = codec().exchanges_only()
    exchange, data = exchange_of(LONG)
    for form in (data, codec().pack(data), codec().pack(data, ("tag",))):
        assert reader.decode(form).value == exchange
    with pytest.raises(UndecodableError, match="without its exchange"):
        reader.decode(json.dumps(ANSWER).encode())
    assert isinstance(reader, LlmCodec)
    assert reader.pack(data) == codec().pack(data)


# In a cache

FORMS = ["plain", "compressed"]


def write(plain: valkey.Valkey, key: str, form: str, text: str = LONG, **answer: Any) -> Exchange:
    """Write an exchange behind the back of the caches; return it."""
    exchange, data = exchange_of(text, **answer)
    plain.set(key, codec().pack(data) if form == "compressed" else data, px=60_000)
    return exchange


@pytest.mark.parametrize("form", FORMS)
async def test_check_returns_the_whole_text_of_an_exchange(cache: AgentCache, plain: valkey.Valkey, form: str) -> None:
    key = cache.llm.key(HELLO)
    write(plain, key.key, form)
    sources = set()

    async def has_hit_l1() -> bool:
        # The server may report the write after the first check has filled L1.
        result = await cache.llm.check(key)
        assert (result.response, result.tokens, result.cost) == (LONG, {"input": 3, "output": 4}, 0.5)
        sources.add(result.source)
        return result.source == "l1"

    await until(has_hit_l1)
    assert sources == {"l1", "l2"}
    assert (await cache.llm.explain(key)).l2 == "hit"


@pytest.mark.parametrize("form", FORMS)
async def test_exchange_gets_tags_and_is_removed_by_them(cache: AgentCache, plain: valkey.Valkey, form: str) -> None:
    key = cache.llm.key(HELLO)
    write(plain, key.key, form)
    result = await cache.llm.get_or_load(key, lambda: "unused", tags=["a]", "b"])
    assert (result.source, result.response) == ("l2", LONG)
    data = plain.get(key.key)
    assert data.startswith(b'{"tcTags":["a\\u005d","b"],"response":')
    assert (b'"zstd":' in data) == (form == "compressed")
    cache.clear_l1()
    assert (await cache.llm.check(key)).response == LONG
    assert await cache.invalidate_tag("a]") == 1
    assert entry_keys(plain) == []


@pytest.mark.parametrize("has_library", [True, False])
async def test_reindex_and_invalidate_by_model_find_the_model_of_every_exchange(
    cache: AgentCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, has_library: bool
) -> None:
    keys = [f"test:llm:{number:064}" for number in range(4)]
    write(plain, keys[0], "plain")
    write(plain, keys[1], "compressed")
    write(plain, keys[2], "plain", model="other")
    write(plain, keys[3], "compressed", model="other")
    if not has_library:
        hide_compression_library(monkeypatch)
    await cache.reindex()
    members = {index: {key.decode() for key in plain.zrange(f"test:__tc:idx:model:{index}", 0, -1)}
               for index in ("gpt-4o", "other")}  # fmt: skip
    assert members == {"gpt-4o": set(keys[:2]), "other": set(keys[2:])}
    assert plain.exists("test:__tc:indexed")
    plain.delete("test:__tc:idx:model:gpt-4o")
    assert await cache.llm.invalidate_by_model("gpt-4o", sweep=True) == 2
    assert entry_keys(plain) == keys[2:]
    assert cache.local_stats().tiers["llm"].undecodable == 0


async def test_foreign_write_of_a_compressed_exchange_is_found(cache: AgentCache, plain: valkey.Valkey) -> None:
    await cache.llm.store(HELLO, "x")
    assert plain.exists("test:__tc:indexed")
    key = f"test:llm:{5:064}"
    write(plain, key, "compressed", model="theirs")

    async def is_found() -> bool:
        plain.delete("test:__tc:looked")
        await internals(cache).look_for_foreign_writes()
        return plain.zscore("test:__tc:idx:model:theirs", key) is not None

    await until(is_found)


async def test_exchange_compressed_is_a_miss_without_the_library_and_logged_once(
    make_cache: MakeCache, plain: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hide_compression_library(monkeypatch)
    cache = make_cache(name="test", llm=LlmOptions(ttl=60))
    key = cache.llm.key(HELLO)
    packed = {"http": {"status": 200, "headers": [], "zstd": "KLUv/QRYCQAAeDXUtO8="}}
    plain.set(key.key, json.dumps(ANSWER | packed))
    with caplog.at_level(logging.INFO, "tiercache"):
        for _ in range(3):
            assert not (await cache.llm.check(key)).hit
    assert cache.local_stats().tiers["llm"].undecodable == 3
    (line,) = [record.getMessage() for record in caplog.records if "zstd" in record.getMessage()]
    assert line.startswith("cache 'test': ")
    assert install_command("compress") in line
    assert all(extra in line for extra in ("openai", "anthropic", "google"))
    # The next answer replaces the entry; without the library it is not compressed, and no error.
    assert (await cache.llm.get_or_load(key, lambda: LONG)).source == "loader"
    await cache.flush_writes()
    assert json.loads(plain.get(key.key))["response"] == LONG
    data = exchange_of(LONG)[1]
    assert codec().pack(data) == data


async def test_caches_of_all_options_read_both_forms(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    caches = [make_cache(name="test", llm=TierOptions(compress_above=above)) for above in (None, 10, 100_000)]
    for form in FORMS:
        write(plain, caches[0].llm.key(HELLO).key, form)
        for cache in caches:
            cache.clear_l1()
            assert (await cache.llm.check(HELLO)).response == LONG
