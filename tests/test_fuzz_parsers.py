"""Bytes that other clients can write: every parser of such bytes returns a value or the documented miss, and no more.

Hypothesis makes the bytes: random ones, valid ones with a part changed, and the extremes that break parsers (deep
nesting, huge numbers, lone surrogates, frames that unpack to more than may be read).
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import valkey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.adapters.http.exchanges import BODIES, EVENTS, URLS, WHOLE, key_of, sse
from tests.every_operation import LOADS, OPERATIONS
from tests.seams import compression_library, event_of, internals, policies_in, statistics_in
from tests.support import MakeCache, until
from tests.tiers.llm.exchanges import chat_body, exchange_of, stream_body
from tiercache import AgentCache, L2CommandError, ToolPolicy
from tiercache.adapters.http.answer import Answer
from tiercache.adapters.http.apis import APIS
from tiercache.adapters.http.apis.api import Api
from tiercache.adapters.http.apis.sse import Scanner
from tiercache.adapters.http.apis.sse import events as sse_events
from tiercache.clock import Clock
from tiercache.engine.call import Call
from tiercache.engine.coherence.placeholders import holder_of, is_placeholder, may_be_renewed
from tiercache.engine.entries.rules import TierRules, UndecodableError
from tiercache.engine.level2.announcement import Pong, Received, TrackedChange, Unreadable
from tiercache.monitor.statistics import parse
from tiercache.stores.valkey.messages import decode, reader_of_own
from tiercache.tiers.kv.entry import KvCodec
from tiercache.tiers.kv.result import KvResult
from tiercache.tiers.llm.codec import LlmCodec
from tiercache.tiers.llm.result import LlmResult
from tiercache.tiers.session.entry import SessionCodec
from tiercache.tiers.tool.entry import ToolCodec
from tiercache.tiers.tool.result import ToolResult
from tiercache.tiers.values.compression import Compression

CLOCK = Clock(time.monotonic, time.time)
MOST_BYTES = 100_000
TEXT = Compression(above=None, max_bytes=MOST_BYTES, as_text=True)
BINARY = Compression(above=None, max_bytes=MOST_BYTES, as_text=False)
CODECS: dict[str, tuple[Any, Any]] = {
    "llm": (LlmCodec(TEXT), LlmResult),
    "tool": (ToolCodec(TEXT), ToolResult),
    "kv": (KvCodec(BINARY), KvResult),
    "session": (SessionCodec(), None),
}

HUGE = b"9" * 5000
DEEP = b"[" * 50_000
EXTREMES = [
    b"", b"\x00", b"\xff", HUGE, b"-" + HUGE, b"1e999", b"-1e999", b"NaN", b"Infinity", b"null", b"true", b'"\\ud800"',
    b'"\\u0000"', b"{}", b"[]", DEEP, b'{"a":' * 30_000, b"1" + b"0" * 400, b"0." + HUGE, b"1e-999", b'"' + b"x" * 5000,
]  # fmt: skip
fragments = st.one_of(st.sampled_from(EXTREMES), st.binary(max_size=40), st.integers().map(lambda n: b"%d" % n))
entries = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(EXTREMES),
    # Entries of the right shape whose fields hold anything.
    st.tuples(*[fragments] * 5).map(
        lambda f: (
            b'{"response":%b,"model":%b,"toolName":%b,"args":null,"storedAt":%b,"cost":%b,"json":true}'
            % (b'"x"', b'"m"', b'"t"', f[0], f[1])
        )
    ),
    st.tuples(fragments, fragments, fragments).map(
        lambda f: b'{"response":"x","model":"m","storedAt":1,"tokens":%b,"contentBlocks":%b,"toolName":%b}' % f
    ),
    st.tuples(fragments, fragments).map(lambda f: b'{"response":%b,"model":%b,"storedAt":1}' % f),
    # A tool entry whose text is JSON in the entry's JSON.
    fragments.map(
        lambda f: (
            b'{"response":%b,"toolName":"t","storedAt":1,"json":true}' % json.dumps(f.decode(errors="replace")).encode()
        )
    ),
    st.tuples(st.sampled_from([b"j", b"s", b"b", b"z", b"t", b"tc:zstd:", b"tc:lease:", b"tc:tags:"]), fragments).map(
        b"".join
    ),
    # Headers with tags.
    st.tuples(fragments, fragments).map(lambda f: b"t%b\n%b" % f),
    st.tuples(fragments, fragments).map(lambda f: b"tc:tags:[%b]\n%b" % f),
    st.tuples(fragments, fragments).map(lambda f: b't["%b"]\nj%b' % f),
    fragments.map(lambda f: b'{"tcTags":[%b],"response":"x","model":"m","toolName":"t","storedAt":1}' % f),
)


def check_use(codec: Any, result: Any, data: bytes) -> None:
    """Decode ``data``; use every part of the entry that a caller or the engine uses. Only a miss may be raised."""
    try:
        value, tags = codec.decode(data)
    except UndecodableError:
        return
    assert all(tag.encode() is not None for tag in tags)
    rules = TierRules("kv", codec, None, l1=True, l1_ttl=30, jitter=0, finish_abandoned=False)
    call = Call(rules, "k", (), rules.counters.of("x"))
    clock = CLOCK
    entry = call.entry(value, 5, clock, since=clock.monotonic(), began=clock.monotonic())
    assert 0 < entry.size_bytes < 10 * MOST_BYTES
    assert 0 <= entry.cost_micros <= 10**12
    assert not math.isnan(entry.stored_at)
    if result is not None:
        made = result("k", "l2", entry, clock.monotonic())
        for name in ("response", "value", "tokens", "content_blocks", "cost", "age", "ttl"):
            getattr(made, name, None)
        repr(made)


@pytest.mark.parametrize("tier", CODECS)
@settings(max_examples=400, deadline=None)
@given(data=entries)
@example(data=b'{"response":"x","model":"\\ud800","storedAt":1}')
@example(data=b'{"response":"x","model":"m","toolName":"t","storedAt":1,"cost":1e300}')
@example(data=b'{"response":"x","model":"m","toolName":"t","storedAt":NaN,"cost":-0.0}')
@example(data=b'{"response":"x","model":"m","toolName":"t","storedAt":-Infinity}')
@example(data=b'{"response":"x","model":"m","toolName":"t","storedAt":1e308}')
@example(data=b'{"tcTags":["\\ud800"],"response":"x","model":"m","toolName":"t","storedAt":1}')
@example(data=b't["\\ud800"]\nj1')
@example(data=b"t[" + b"9" * 9000 + b"]\nj1")
@example(data=b"tnull\nj1")
@example(data=b"j" + HUGE)
@example(data=b"j" + DEEP)
def test_entry_of_any_bytes_is_a_value_or_undecodable(tier: str, data: bytes) -> None:
    codec, result = CODECS[tier]
    check_use(codec, result, data)


# Compressed entries


def frame(data: bytes, **options: Any) -> bytes:
    library = compression_library()
    if library is None:
        pytest.skip("needs the extra compress")
    return bytes(library.compress(data, **options))


def compressed(tier: str, data: bytes) -> bytes:
    return b"z" + data if tier == "kv" else b"tc:zstd:" + base64.b64encode(data)


@pytest.mark.parametrize("tier", ["llm", "tool", "kv"])
def test_compressed_entry_never_unpacks_to_more_memory_than_may_be_read(tier: str) -> None:
    codec, _ = CODECS[tier]
    bomb = frame(b"\x00" * 200_000_000)
    nested = frame(compressed(tier, bomb))
    several = frame(b"\x00" * 1000) * 1000
    for inner in (bomb, nested, several, bomb[: len(bomb) // 2]):
        data = compressed(tier, inner)
        if len(data) > MOST_BYTES:
            continue
        tracemalloc.start()
        with pytest.raises(UndecodableError):
            codec.decode(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 * MOST_BYTES + 2_000_000


@pytest.mark.parametrize("tier", ["llm", "tool", "kv"])
@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200), place=st.integers(0, 300), flip=st.integers(1, 255))
def test_damaged_frame_is_a_value_or_undecodable(tier: str, content: bytes, place: int, flip: int) -> None:
    codec, result = CODECS[tier]
    damaged = bytearray(frame(content))
    damaged[place % len(damaged)] ^= flip
    check_use(codec, result, compressed(tier, bytes(damaged)))


# Exchanges


def with_http(http: bytes) -> bytes:
    return b'{"response":"x","model":"m","storedAt":1,"http":%b}' % http


header_lists = st.sampled_from([b"[]", b'[["a","b"]]', b'[["a","b\\r\\nc: d"]]', b'[["a"]]', b"{}"])
parts_of_http = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "status": st.sampled_from([b"200", b"200.0", b"500", b"true", b'"200"', b"null"]) | fragments,
            "headers": header_lists | fragments,
            "body": st.sampled_from([b'"x"', b'"\\ud800"', b"null", b'"eA=="', b'"eA"']) | fragments,
            "base64": st.sampled_from([b"true", b"false", b"null", b"1"]),
            "zstd": st.sampled_from([b'"eA=="', b'""', b'"!"', b"null"]) | fragments,
            "text": st.sampled_from([b'"eA=="', b'""', b'"!"', b"null"]) | fragments,
        },
    ).map(lambda fields: b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), part) for name, part in fields.items())),
    fragments,
)


@settings(max_examples=400, deadline=None)
@given(http=parts_of_http)
@example(http=b'{"status":200,"headers":[],"body":"%b"}' % (b"x" * 50_000))
@example(http=b'{"status":200,"headers":[["a","b"]],"body":"x","base64":%b}' % HUGE)
@example(http=b'{"status":%b,"headers":[],"body":"x"}' % HUGE)
@example(http=b'{"status":200,"headers":%b,"body":"x"}' % DEEP)
@example(http=b'{"status":200,"headers":[%b["a","b"]],"body":"x"}' % (b'["a","b"],' * 9000))
def test_exchange_of_any_parts_is_a_plain_exchange_or_undecodable(http: bytes) -> None:
    data = with_http(http)
    codec, result = CODECS["llm"]
    check_use(codec, result, data)
    with contextlib.suppress(UndecodableError):
        exchange = codec.exchanges_only().decode(data).value
        assert exchange.status == 200
        assert type(exchange.body) is bytes
        assert len(exchange.headers) <= 64
        for name, value in exchange.headers:
            line = f"{name}: {value}"
            assert line.isascii()
            assert line.isprintable() or "\t" in line
            assert name


@settings(max_examples=400, deadline=None)
@given(
    text=st.text(max_size=600),
    form=st.sampled_from(["stream", "whole", "binary"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3),
    cut=st.none() | st.integers(0, 10**6),
    data=st.data(),
)
def test_compressed_exchange_with_changed_bytes_never_has_another_body(
    text: str, form: str, changes: list[tuple[int, int]], cut: int | None, data: st.DataObject
) -> None:
    body = {"stream": stream_body, "whole": chat_body, "binary": lambda text: b"\xff" + text.encode() * 9}[form](text)
    tags = tuple(data.draw(st.lists(st.text("ab]", min_size=1), unique=True, max_size=2)))
    exchange, plain = exchange_of(text, body)
    packed = bytearray(LlmCodec(Compression(above=0, max_bytes=MOST_BYTES, as_text=True)).pack(plain, tags))
    codec, result = CODECS["llm"]
    assert codec.decode(bytes(packed)).value == exchange
    # Half of the changes are in the frames.
    frames = packed.find(b'"zstd":')
    for place, flip in changes:
        low = frames if frames >= 0 and data.draw(st.booleans()) else 0
        packed[low + place % (len(packed) - low)] ^= flip
    changed = bytes(packed[: None if cut is None else cut % len(packed)])
    check_use(codec, result, changed)
    if frames >= 0:
        with contextlib.suppress(UndecodableError):
            assert codec.exchanges_only().decode(changed).value.body == body


# Placeholders


@settings(max_examples=300)
@given(data=st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: b"tc:lease:" + tail)))
@example(data=b"tc:lease:" + b"a" * 64 + b":" + b"1" * 20)
@example(data=b"tc:lease:a:" + HUGE)
def test_placeholder_of_any_bytes_is_a_lease_or_an_orphan(data: bytes) -> None:
    if may_be_renewed(data, 5):
        assert is_placeholder(data)
        assert holder_of(data)
        assert data.isascii()
        assert len(data) < 120
    assert not may_be_renewed(data, math.inf)
    assert not may_be_renewed(data, 61)


# Messages


messages = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(EXTREMES),
    st.tuples(fragments, fragments, fragments, fragments).map(lambda f: b'{"v":1,"s":%b,"o":%b,"k":%b,"g":%b}' % f),
    st.tuples(fragments, fragments).map(lambda f: b'{"v":1,"s":%b,"o":"me"%b}' % f),
    fragments.map(lambda f: b'{"v":%b,"s":1,"o":"x","k":["a"]}' % f),
)


@settings(max_examples=500, deadline=None)
@given(message=messages)
@example(message=b'{"v":1,"s":%b,"o":"me","k":["a"]}' % HUGE)
@example(message=b'{"v":1,"s":-5,"o":"me","k":["a"]}')
@example(message=b'{"v":1,"s":1,"o":"me","g":[["a"]]}')
@example(message=b'{"v":1,"s":1,"o":"\\ud800","k":["\\udfff"]}')
def test_announcement_of_any_bytes_is_read_or_unreadable(message: bytes) -> None:
    event = decode(message)
    assert isinstance(event, Received | Unreadable)
    own = reader_of_own("me")(message)
    assert own is None or isinstance(own, Received)
    for received in (event, own):
        if isinstance(received, Received):
            assert received.number is None or -(2**63) <= received.number < 2**63


pushes = st.recursive(
    st.one_of(
        st.none(), st.integers(), fragments, st.sampled_from([b"message", b"pong", b"__redis__:invalidate", b"channel"])
    ),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(message=st.one_of(pushes, st.lists(pushes, min_size=2, max_size=3).map(lambda rest: [b"message", *rest])))
@example(message=[b"pong", b""])
@example(message=[b"pong", b"x 1"])
@example(message=[b"pong", b"nan 1"])
@example(message=[b"pong", b"inf 1"])
@example(message=[b"pong", b"1e999 1"])
@example(message=[b"pong", b"1.0 " + HUGE])
@example(message=[b"pong", b"1.0 -1"])
@example(message=[b"pong", b"1.0 \xd9\xa1"])
@example(message=[b"message", b"__redis__:invalidate", b"text"])
@example(message=[b"message", b"__redis__:invalidate", [b"k", None, 5, [b"k"]]])
@example(message=[b"message", b"__redis__:invalidate", 5])
@example(message=[b"message", b"channel", [b"x"]])
@example(message=[])
def test_message_on_the_subscription_of_any_shape_is_an_event(message: Any) -> None:
    event = event_of(message)
    if isinstance(event, Pong):
        assert math.isfinite(event.stamp)
        assert 0 <= event.number < 2**63
    elif isinstance(event, TrackedChange):
        assert event.keys is None or all(isinstance(key, str) for key in event.keys)
    else:
        assert isinstance(event, Received | Unreadable)


# Responses of model providers, and requests to them


def with_damage(value: Any, place: int, damage: object) -> Any:
    """Return a copy of JSON whose part number ``place``, counted from the root, is ``damage``."""
    count = -1

    def copied(part: Any) -> Any:
        nonlocal count
        count += 1
        if count == place:
            return damage
        if isinstance(part, dict):
            return {name: copied(item) for name, item in part.items()}
        return [copied(item) for item in part] if isinstance(part, list) else part

    return copied(value)


damages = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["", "stop", "error", "text", "message_stop", "\ud800", "x" * 300, 2**70, -1]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["type", "index", "content"]), inner, max_size=2)
    ),
    max_leaves=5,
)  # fmt: skip
places = st.integers(0, 40)
REQUEST_FIELDS = [
    "store", "stream", "tools", "system", "modalities", "prompt", "input", "metadata", "cache_control", "thread",
    "generationConfig", "cachedContent", "user", "plugins", "container",
]  # fmt: skip


def check_answer(answer: Answer) -> None:
    """Check the types of an answer, which statistics, prices and ``store_when`` use."""
    assert isinstance(answer.text, str)
    assert isinstance(answer.model, str)
    assert all(isinstance(reason, str) for reason in answer.finish)
    assert isinstance(answer.is_complete, bool)
    (answer.text + answer.model + "".join(answer.finish)).encode()
    if answer.tokens is not None:
        assert answer.tokens.keys() <= {"input", "output"}
        assert all(type(count) is int and 0 <= count < 2**55 for count in answer.tokens.values())


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@settings(max_examples=200, deadline=None)
@given(data=st.one_of(st.binary(max_size=100), st.sampled_from(EXTREMES), fragments.map(lambda f: b'{"a":%b}' % f)))
def test_answer_of_any_bytes_is_not_complete(api: Api, data: bytes) -> None:
    for answer in (api.read_whole(data), api.read_events(sse_events(b"data: " + data)), api.read_whole(b"[%b]" % data)):
        check_answer(answer)
        assert not answer.is_complete


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@settings(max_examples=400, deadline=None)
@given(place=places, damage=damages)
def test_damaged_answer_is_read_or_not_complete(api: Api, place: int, damage: object) -> None:
    check_answer(api.read_whole(json.dumps(with_damage(WHOLE[api.name], place, damage)).encode()))


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@settings(max_examples=400, deadline=None)
@given(number=st.integers(0, 9), place=places, damage=damages, cut=st.integers(0, 60))
def test_damaged_stream_is_read_or_not_complete(api: Api, number: int, place: int, damage: object, cut: int) -> None:
    stream = list(EVENTS.get(api.name, [{}]))
    number %= len(stream)
    name, data = stream[number] if isinstance(stream[number], tuple) else ("", stream[number])
    stream[number] = (name, with_damage(data, place, damage))
    body = sse(*stream)
    check_answer(api.read_events(sse_events(body)))
    # The last event lacks its end.
    assert not api.read_events(sse_events(body[: len(body) - 3 - cut])).is_complete
    scanner = Scanner(api)
    scanner.feed(body)
    scanner.end()
    assert scanner.is_over or not scanner.is_failed


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@settings(max_examples=400, deadline=None)
@given(data=st.binary(max_size=200))
@example(data=b"data: [DONE]\ndata: x\n\n")
@example(data=b"event: " + b"x" * 10_000)
def test_stream_of_any_bytes_is_not_complete(api: Api, data: bytes) -> None:
    assert not api.read_events(sse_events(data)).is_complete
    scanner = Scanner(api)
    scanner.feed(data)
    scanner.end()
    # Gemini alone sends no last event: each line that is no event is an error to it.
    assert api.name == "gemini" or not scanner.is_over or b"[DONE]" in data


@pytest.mark.parametrize("name", URLS)
@settings(max_examples=400, deadline=None)
@given(place=places, damage=damages, more=st.dictionaries(st.sampled_from(REQUEST_FIELDS), damages, max_size=3))
def test_damaged_request_has_a_key_of_its_own_or_bypasses_the_cache(
    name: str, place: int, damage: object, more: dict[str, Any]
) -> None:
    damaged = with_damage({**BODIES[name], **more}, place, damage)
    for stateful in (False, True):
        key = key_of(name, json.dumps(damaged).encode(), stateful=stateful)
        assert (len(key.digest), key.bypass is None) in ((64, True), (0, False))
        assert len(key.model.encode()) <= 512


# Hashes


hashes = st.lists(st.tuples(st.one_of(st.binary(max_size=30), st.just(b"tool:t:hits")), fragments), max_size=6)


@settings(max_examples=300, deadline=None)
@given(fields=hashes)
@example(fields=[(b"t", b'{"ttl":%b}' % HUGE), (b"u", b'{"ttl":1' + b"0" * 300 + b"}"), (b"v" * 600, b'{"ttl":5}')])
@example(fields=[(b"t", b'{"ttl":5,"x":"' + b"y" * 5000 + b'"}'), (b"\xff", b'{"ttl":5}'), (b"w", DEEP)])
def test_policies_of_any_fields_are_lifetimes_or_ignored(fields: list[tuple[bytes, bytes]]) -> None:
    logging.getLogger("tiercache").setLevel(logging.CRITICAL)
    try:
        policies = policies_in([part for field in fields for part in field])
    finally:
        logging.getLogger("tiercache").setLevel(logging.NOTSET)
    for tool, policy in policies.items():
        assert len(tool.encode()) <= 512
        assert isinstance(policy, ToolPolicy)
        assert isinstance(policy.ttl, int)
        assert 0 < policy.ttl <= 100 * 365 * 86_400


@settings(max_examples=300, deadline=None)
@given(fields=hashes)
@example(fields=[(b"cost_saved_micros", b"9" * 400), (b"tool:t:hits", HUGE), (b"tool:t:misses", b"-5")])
@example(fields=[(b"tool:t:hits", b"1"), (b"tool:t:misses", b"-1"), (b"llm:hits", b"\xd9\xa1")])
def test_statistics_of_any_fields_are_counts(fields: list[tuple[bytes, bytes]]) -> None:
    logging.getLogger("tiercache").setLevel(logging.CRITICAL)
    try:
        counts = statistics_in([part for field in fields for part in field])
    finally:
        logging.getLogger("tiercache").setLevel(logging.NOTSET)
    assert all(0 <= count < 2**63 for count in counts.values())
    stats = parse(counts, lambda _: None)
    assert 0 <= stats.llm.hit_rate <= 1
    assert all(0 <= tool.hit_rate <= 1 for tool in stats.per_tool.values())
    assert stats.cost_saved_micros / 1_000_000 >= 0


# Keys of the server that a cache reads, on a real server


JUNK = [*EXTREMES, b"9223372036854775807", b"9223372036854775808", b"-1", b"1e5", b"0x10", b" 5", b"inf", b"1.5"]


@pytest.mark.parametrize("data", JUNK, ids=lambda data: repr(data[:12]))
async def test_counter_of_changes_of_any_bytes_leaves_the_cache_working(
    make_cache: MakeCache, plain: valkey.Valkey, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    plain.set("test:__tc:sequence", data)
    a, b = (make_cache(name="test") for _ in range(2))
    await b.open()
    await a.kv.set("k", 1)
    assert await b.kv.get("k") == 1
    await a.kv.delete("k")
    await until(lambda: _is_none(b))
    plain.set("test:__tc:sequence", data)
    await a.kv.set("k", 2)
    await until(lambda: _is_two(b))
    assert not [record for record in caplog.records if "defect" in record.message]


async def _is_none(cache: AgentCache) -> bool:
    return await cache.kv.get("k") is None


async def _is_two(cache: AgentCache) -> bool:
    return bool(await cache.kv.get("k") == 2)


MARKERS = [
    *EXTREMES,
    b'{"type":["x"]}',
    b'{"type":5}',
    b'{"type":{}}',
    b'{"type":""}',
    b"[1]",
    b'"x"',
    b'{"type":null}',
]


@pytest.mark.parametrize("marker", MARKERS, ids=lambda data: repr(data[:12]))
async def test_marker_of_any_bytes_is_overwritten(make_cache: MakeCache, plain: valkey.Valkey, marker: bytes) -> None:
    plain.hset("__betterdb:caches", "test", marker)
    cache = make_cache(name="test")
    await cache.kv.set("k", 1)
    assert json.loads(plain.hget("__betterdb:caches", "test"))["prefix"] == "test"
    assert await cache.tool.invalidate_by_tool("t") == 0


SESSION: dict[str, Callable[[AgentCache], Any]] = {
    "get": lambda cache: cache.session.get("t", "f"),
    "get_all": lambda cache: cache.session.get_all("t"),
    "touch": lambda cache: cache.session.touch("t"),
    "set": lambda cache: cache.session.set("t", "f", "1"),
    "append": lambda cache: cache.session.append("t", "list", 1),
    "incr": lambda cache: cache.session.incr("t", "f"),
    "compare_and_set": lambda cache: cache.session.compare_and_set("t", "f", "1", "2"),
    "delete": lambda cache: cache.session.delete("t", "f"),
    "get_or_load": lambda cache: cache.session.get_or_load("t", "f", lambda: "1"),
    "destroy_thread": lambda cache: cache.session.destroy_thread("t"),
}


MEMBERS = [
    b"", b"\xff", b"x", b"test:", b"test:llm:", b"test:tool:t:\xff", b"test:session:t:f", b"test:__tc:sequence", HUGE,
    b"test:__tc:thread:t", b"test:__stats", b"other:__tc:kv:kv:k", b"other:llm:x", b"test:mem:x", b"test:__tc:kv:",
]  # fmt: skip
GROUPS: dict[str, Callable[[AgentCache], Any]] = {
    "tool:t": lambda cache: cache.tool.invalidate_by_tool("t"),
    "model:m": lambda cache: cache.llm.invalidate_by_model("m"),
    "tag:g": lambda cache: cache.invalidate_tag("g"),
}


@pytest.mark.parametrize("index", GROUPS)
async def test_member_of_an_index_of_any_bytes_leaves_the_group_removable(
    cache: AgentCache, plain: valkey.Valkey, index: str
) -> None:
    await cache.tool.store("t", {}, "x", tags=["g"])
    await cache.llm.store({"model": "m", "messages": []}, "x", tags=["g"])
    plain.set("test:session:t:f", "stays")
    plain.set("other:__tc:kv:kv:k", "stays")
    plain.zadd(f"test:__tc:idx:{index}", dict.fromkeys(MEMBERS, 1))
    assert await GROUPS[index](cache) >= 1
    assert await GROUPS[index](cache) == 0
    assert plain.get("test:session:t:f") == plain.get("other:__tc:kv:kv:k") == b"stays"
    assert plain.exists("test:__tc:sequence")
    await cache.reindex()


@pytest.mark.parametrize(
    "key", ["idx:tool:t", "idx:model:gpt-4o", "idx:tag:g", "indexes", "indexed", "alive", "others"]
)
@pytest.mark.parametrize("kind", ["string", "hash"])
async def test_own_key_of_another_type_raises_no_other_error_than_a_refusal(
    make_cache: MakeCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture, key: str, kind: str
) -> None:
    if kind == "string":
        plain.set(f"test:__tc:{key}", "junk")
    else:
        plain.hset(f"test:__tc:{key}", "junk", "junk")
    cache = make_cache(name="test")
    for name, operation in OPERATIONS.items():
        with contextlib.suppress(L2CommandError):
            await operation(cache)
        if name in LOADS:
            await operation(cache)
    await internals(cache).beat()
    assert not [record for record in caplog.records if "defect" in record.message]


@pytest.mark.parametrize("method", SESSION)
@pytest.mark.parametrize("ttl", [None, 60], ids=["no ttl", "ttl"])
async def test_window_of_any_bytes_leaves_the_field_usable(
    make_cache: MakeCache, plain: valkey.Valkey, method: str, ttl: float | None
) -> None:
    cache = make_cache(name="test", default_ttl=ttl)
    for window in JUNK:
        plain.delete("test:session:t:f", "test:session:t:list", "test:__tc:thread:t")
        plain.set("test:session:t:f", "1", px=30_000)
        plain.set("test:session:t:list", "[]")
        plain.hset("test:__tc:thread:t", mapping={b"f": window, b"list": window, b"\xff": window, b"": window})
        cache.clear_l1()
        await SESSION[method](cache)
