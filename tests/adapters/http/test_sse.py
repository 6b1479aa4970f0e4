"""Streams: the scanner finds the end of a stream however its chunks are split, and ``events`` reads the whole."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.adapters.http.exchanges import (
    EVENTS,
    api,
    gemini_events,
    response_events,
    sse,
)
from tiercache.adapters.http.apis.sse import Scanner, events

STREAMED = list(EVENTS)
LINE_ENDS = ["\n", "\r\n", "\r"]
stream = pytest.mark.parametrize("name", STREAMED)


def scanned(name: str, chunks: Iterable[bytes], *, ended: bool = True) -> Scanner:
    """Return a scanner that was fed with chunks, and with the end of the stream if ``ended``."""
    scanner = Scanner(api(name))
    for chunk in chunks:
        scanner.feed(chunk)
    if ended:
        scanner.end()
    return scanner


@stream
@pytest.mark.parametrize("end", LINE_ENDS, ids=repr)
def test_scanner_finds_the_end_of_a_whole_stream(name: str, end: str) -> None:
    scanner = scanned(name, [sse(*EVENTS[name], end=end)])
    assert scanner.is_over
    assert not scanner.is_failed


@pytest.mark.parametrize("name", ["chat", "responses", "messages"])
@pytest.mark.parametrize("end", LINE_ENDS, ids=repr)
def test_scanner_is_over_in_the_chunk_that_ends_the_last_event(name: str, end: str) -> None:
    body = sse(*EVENTS[name], end=end)
    scanner = Scanner(api(name))
    for position in range(len(body)):
        assert not scanner.is_over, body[:position]
        scanner.feed(body[position : position + 1])
        if end == "\r\n" and scanner.is_over:  # A CR alone ends a line: the LF may come later.
            assert position == len(body) - 2
            return
    assert scanner.is_over


def test_scanner_of_gemini_is_over_at_the_end_of_the_body_alone() -> None:
    body = sse(*gemini_events())
    assert not scanned("gemini", [body], ended=False).is_over
    assert scanned("gemini", [body]).is_over
    assert not scanned("gemini", [sse(*gemini_events()[:1])]).is_over


@stream
def test_scanner_of_a_stream_that_stops_early_is_not_over(name: str) -> None:
    assert not scanned(name, [sse(*EVENTS[name][:-1])]).is_over
    assert not scanned(name, []).is_over


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("chat", sse({"error": {"message": "overloaded"}})),
        ("chat", b'data:{ "error" : {"message":"overloaded"}}\n\n'),
        ("chat", sse(("error", {"message": "overloaded"}))),
        ("responses", sse(*response_events("failed"))),
        ("responses", sse(*response_events("cancelled"))),
        ("responses", sse(("error", {"type": "error", "message": "x"}))),
        ("responses", sse({"type": "error", "message": "x"})),
        ("messages", sse(("error", {"type": "error", "error": {"type": "overloaded_error"}}))),
        ("messages", sse({"type": "error", "error": {"type": "overloaded_error"}})),
        ("messages", b"event: message_stop\nevent: error\ndata: {}\n\n"),
        ("messages", b'event: message_stop\ndata: {"type":"error"}\n\n'),
        ("messages", b'event: error\ndata: {"type":"message_stop"}\n\n'),
        ("gemini", sse({"error": {"code": 503}})),
        ("gemini", sse(gemini_events()[0]) + b'{\n  "error": {"code": 503}\n}\n\n'),
    ],
)
@pytest.mark.parametrize("rest", [True, False])
def test_scanner_of_an_error_is_failed_and_over_at_the_end(name: str, body: bytes, rest: bool) -> None:
    after = sse(*EVENTS[name]) if rest else b""
    scanner = scanned(name, [body], ended=False)
    assert scanner.is_failed
    # Readers must get all that follows an error, unless its event is the last one, too.
    assert scanner.is_over is (b"message_stop" in body)
    scanner.feed(after)
    scanner.end()
    assert scanner.is_over
    assert scanner.is_failed


@pytest.mark.parametrize("name", ["chat", "responses", "messages"])
@pytest.mark.parametrize("is_split", [False, True])
def test_scanner_passes_over_bytes_after_the_last_event(name: str, is_split: bool) -> None:
    last, error = sse(*EVENTS[name]), sse(("error", {"type": "error", "error": {}}))
    scanner = scanned(name, [last, error] if is_split else [last + error])
    assert scanner.is_over
    assert not scanner.is_failed


@pytest.mark.parametrize("name", ["chat", "gemini"])
def test_scanner_takes_an_error_that_is_null_for_none(name: str) -> None:
    first, *rest = EVENTS[name]
    scanner = scanned(name, [sse({"error": None, **first}, *rest)])
    assert scanner.is_over
    assert not scanner.is_failed


def test_scanner_takes_the_end_of_an_answer_that_was_cut_off_for_an_end() -> None:
    scanner = scanned("responses", [sse(*response_events("incomplete"))], ended=False)
    assert scanner.is_over
    assert not scanner.is_failed


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("chat", b"data: [DONE]"),
        ("chat", b"data:[DONE]\n"),
        ("chat", b"\xef\xbb\xbfdata: [DONE]\n"),
        ("responses", b"event: response.completed\ndata: {}"),
        ("responses", b'data: {"type": "response.completed"}'),
        ("messages", b"event:message_stop\ndata: {}\n"),
        ("messages", b'data: {"type":"message_stop"}'),
        ("gemini", b'data: {"candidates":[{"finishReason":"STOP"}]}'),
    ],
)
def test_scanner_takes_last_event_without_blank_line_at_the_end_of_the_body(name: str, body: bytes) -> None:
    assert not scanned(name, [body], ended=False).is_over
    scanner = scanned(name, [body[:5], body[5:]])
    assert scanner.is_over
    assert not scanner.is_failed


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("chat", b": data: [DONE]\n\n"),
        ("chat", b"id: [DONE]\n\n"),
        ("chat", b" data: [DONE]\n\n"),
        ("chat", b'data: {"choices":[{"delta":{"content":"data: [DONE]\\n\\n"}}]}\n\n'),
        ("chat", b"data:  [DONE]\n\n"),
        ("messages", b"event: message_stopped\n\n"),
        ("messages", b'data: {"delta":{"type":"message_stop"}}\n\n'),
        ("responses", b"event: response.completed.later\n\n"),
        ("gemini", b'data: {"candidates":[{"content":{"parts":[{"text":"\\"finishReason\\""}]}}]}\n\n'),
    ],
)
def test_scanner_takes_no_other_line_for_the_end(name: str, body: bytes) -> None:
    assert not scanned(name, [body, b"\n\n"]).is_over


@stream
def test_scanner_passes_over_comments_and_other_fields(name: str) -> None:
    noise = b": keep-alive\n\n:\nid: 5\nretry: 3000\n\n"
    scanner = scanned(name, [noise, sse(*EVENTS[name][:1]), noise, sse(*EVENTS[name][1:])])
    assert scanner.is_over
    assert not scanner.is_failed


def test_scanner_keeps_no_line_that_has_no_end() -> None:
    scanner = Scanner(api("chat"))
    chunk = b"data: " + b"x" * 1_000_000
    tracemalloc.start()
    for _ in range(50):
        scanner.feed(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    scanner.feed(b"\n\ndata: [DONE]\n\n")
    assert scanner.is_over


def test_events_take_no_second_copy_of_the_body() -> None:
    body = b"data: " + b"x" * 5_000_000 + b"\n\n" + b"data: y\n\n" * 10
    tracemalloc.start()
    count = sum(len(event.data) for event in events(body))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5_000_010
    # The line, its value, and the joined data.
    assert peak < 3 * sys.getsizeof(body) + 100_000


def splits(body: bytes) -> st.SearchStrategy[list[bytes]]:
    """Return ways to split a stream into chunks."""
    places = st.lists(st.integers(0, len(body)), max_size=12).map(sorted)
    return places.map(lambda cuts: [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)])


def outcome(scanner: Scanner) -> tuple[bool, bool]:
    return scanner.is_over, scanner.is_failed


# The texts have characters of several bytes, so that a chunk may end inside of one.
lines = st.sampled_from(
    [
        "data: [DONE]", "data: {}", "data:[DONE]", "data: é\U0001f600", "", "", "", ": note", "event: message_stop",
        "event: error", "event: response.completed", "data", "event:", "id: 1", 'data: {"error":{}}', "\ufeffdata: x",
        'data: {"type":"message_stop"}', 'data: {"candidates":[{"finishReason":"STOP"}]}', '{"error":1}', "x" * 200,
    ]
)  # fmt: skip
bodies = st.lists(st.tuples(lines, st.sampled_from(LINE_ENDS)), max_size=12).map(
    lambda parts: "".join(line + end for line, end in parts).encode()
)


@given(name=st.sampled_from(STREAMED), data=st.data(), body=bodies, cut=st.integers(0, 3))
def test_scanner_finds_the_same_end_in_any_split(name: str, data: st.DataObject, body: bytes, cut: int) -> None:
    body = body[: len(body) - cut]
    whole = scanned(name, [body])
    chunks = data.draw(splits(body))
    assert outcome(scanned(name, chunks)) == outcome(whole)
    every_byte = [body[position : position + 1] for position in range(len(body))]
    assert outcome(scanned(name, every_byte)) == outcome(whole)
    assert outcome(scanned(name, chunks, ended=False)) == outcome(scanned(name, [body], ended=False))


@stream
def test_scanner_finds_the_end_of_a_stream_in_two_chunks(name: str) -> None:
    body = sse(*EVENTS[name])
    for cut in range(len(body)):
        assert outcome(scanned(name, [body[:cut], body[cut:]])) == (True, False)


@given(name=st.sampled_from(STREAMED), end=st.sampled_from(LINE_ENDS), data=st.data())
def test_scanner_finds_the_end_of_a_real_stream_in_any_split(name: str, end: str, data: st.DataObject) -> None:
    assert outcome(scanned(name, data.draw(splits(sse(*EVENTS[name], end=end))))) == (True, False)


@given(body=bodies)
@example(body=b"data: a\r\r\ndata: b")
def test_events_are_those_of_a_plain_reader(body: bytes) -> None:
    """A plain reader: universal line ends, one line after the other."""
    expected: list[tuple[str, str]] = []
    name, data = "", list[str]()
    text = body.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for line in [*text.split("\n"), ""]:
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if not line:
            if data:
                expected.append((name, "\n".join(data)))
            name, data = "", []
        elif field == "data":
            data.append(value)
        elif field == "event":
            name = value
    assert [(event.name, event.data.decode()) for event in events(body)] == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"event: ping\n\n", []),
        (b"data\n\n", [("", b"")]),
        (b"data: a\ndata:b\n\n", [("", b"a\nb")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"event: x\nevent: y\ndata: a\nid: 5\n: note\n\ndata: b", [("y", b"a"), ("", b"b")]),
        (b"event: \xff\ndata: \xff\n\n", [("\ufffd", b"\xff")]),
        (b"\xef\xbb\xbfdata: a\r\rdata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
        (b"data: a\x85b\x0bc\x1cd\n\n", [("", b"a\x85b\x0bc\x1cd")]),
    ],
)
def test_events_follow_the_rules_of_lines(body: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert [tuple(event) for event in events(body)] == expected


@stream
def test_events_of_a_stream_are_those_that_were_sent(name: str) -> None:
    sent = [event if isinstance(event, tuple) else ("", event) for event in EVENTS[name]]
    assert [event.name for event in events(sse(*EVENTS[name]))] == [each for each, _ in sent]
