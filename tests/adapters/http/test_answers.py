"""Answers: read from whole responses and from streams; only an answer that every choice ended by itself is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
import pytest

from tests.adapters.http.exchanges import (
    EVENTS,
    WHOLE,
    api,
    chat_events,
    chat_whole,
    encoded,
    gemini_events,
    gemini_whole,
    message_events,
    message_whole,
    response_events,
    response_whole,
    sse,
)
from tests.adapters.http.page import names, table
from tiercache.adapters.http.answer import Answer
from tiercache.adapters.http.apis.api import UNREADABLE
from tiercache.adapters.http.apis.sse import events


def whole(name: str, data: object) -> Answer:
    """Return the answer in a whole response, JSON or bytes."""
    return api(name).read_whole(data if isinstance(data, bytes) else encoded(data))


def streamed(name: str, *stream: Any) -> Answer:
    """Return the answer in a stream of events."""
    return api(name).read_events(events(sse(*stream)))


def changed(value: Any, *path: Any, to: object) -> Any:
    """Return a copy of JSON with another value at a place."""
    copy = orjson.loads(orjson.dumps(value))
    place = copy
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    return copy


TOKENS: Final = {"input": 3, "output": 2}


@pytest.mark.parametrize(
    ("name", "finish"), [("chat", "stop"), ("responses", "completed"), ("messages", "end_turn"), ("gemini", "STOP")]
)
def test_answer_of_a_whole_response_equals_that_of_the_stream(name: str, finish: str) -> None:
    expected = Answer("Hi", "m-2026", TOKENS, (finish,), True)
    assert whole(name, WHOLE[name]) == expected
    assert streamed(name, *EVENTS[name]) == expected


def test_answer_of_embeddings_has_no_text_and_no_finish_reason() -> None:
    assert whole("embeddings", WHOLE["embeddings"]) == Answer("", "m-2026", {"input": 3}, (), True)
    base64 = changed(WHOLE["embeddings"], "data", 0, "embedding", to="AAAA")
    assert whole("embeddings", base64).is_complete
    assert streamed("embeddings", WHOLE["embeddings"]) == UNREADABLE


@pytest.mark.parametrize("data", [[], None, [{}], [{"embedding": []}], [{"embedding": ""}], [{"embedding": None}], "x"])
def test_answer_without_embeddings_is_not_complete(data: object) -> None:
    assert not whole("embeddings", changed(WHOLE["embeddings"], "data", to=data)).is_complete


# Why an answer ended

FINISHES: Final[Mapping[str, tuple[list[str], list[object]]]] = {
    "chat": (
        ["stop", "tool_calls", "function_call"],
        ["length", "content_filter", "error", "a_new_reason", "", None, 5, ["stop"]],
    ),
    "messages": (
        ["end_turn", "stop_sequence", "tool_use"],
        ["max_tokens", "refusal", "pause_turn", "compaction", "model_context_window_exceeded", "new", "", None, 5],
    ),
    "gemini": (
        ["STOP"],
        ["MAX_TOKENS", "SAFETY", "RECITATION", "OTHER", "CONTINUATION", "MALFORMED_FUNCTION_CALL", "NEW", "", None, 5],
    ),
    "responses": (["completed"], ["incomplete", "failed", "cancelled", "in_progress", "queued", "new", "", None, 5]),
}


def ended(name: str, finish: object) -> Iterator[Answer]:
    """Yield the answers, whole and streamed, that end for a reason."""
    if name == "chat":
        yield whole(name, chat_whole(finish))
        yield streamed(name, *chat_events(finish))
    elif name == "messages":
        yield whole(name, message_whole(finish))
        yield streamed(name, *message_events(finish))
    elif name == "gemini":
        yield whole(name, gemini_whole(finish))
        yield streamed(name, *gemini_events(finish))
    else:
        yield whole(name, response_whole(finish))
        yield streamed(name, *response_events(status=finish))


@pytest.mark.parametrize(
    ("name", "finish"), [(name, finish) for name, (good, _) in FINISHES.items() for finish in good]
)
def test_answer_that_ends_by_itself_is_complete(name: str, finish: str) -> None:
    for answer in ended(name, finish):
        assert answer.is_complete
        assert answer.finish == (finish,)


@pytest.mark.parametrize(("name", "finish"), [(name, each) for name, (_, bad) in FINISHES.items() for each in bad])
def test_answer_that_was_cut_off_refused_or_filtered_is_not_complete(name: str, finish: object) -> None:
    for answer in ended(name, finish):
        assert not answer.is_complete
        assert answer.text == "Hi"
        assert answer.finish == (finish if isinstance(finish, str) else "",)


def test_docs_list_exactly_the_reasons_of_complete_answers() -> None:
    rows = {names(row[0])[0]: row for row in table("API", "complete")}
    for name, (good, bad) in FINISHES.items():
        assert names(rows[name][1]) == good
        assert all(reason in bad for reason in names(rows[name][2]))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("chat", chat_whole(refusal="I cannot")),
        ("chat", changed(chat_whole(), "error", to={"message": "x"})),
        ("chat", changed(chat_whole(), "choices", to=[])),
        ("chat", changed(chat_whole(), "choices", to=[chat_whole()["choices"][0], {}])),
        ("chat", changed(chat_whole(), "choices", to=[chat_whole()["choices"][0], None])),
        ("chat", changed(chat_whole(), "choices", to={"0": chat_whole()["choices"][0]})),
        ("responses", response_whole(error={"code": "x"})),
        ("responses", response_whole(incomplete_details={"reason": "max_output_tokens"})),
        ("responses", response_whole(output=[{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}])),
        ("responses", response_whole(output="x")),
        ("responses", response_whole(output=[5])),
        ("embeddings", changed(WHOLE["embeddings"], "error", to={"message": "x"})),
        ("messages", message_whole(type="error")),
        ("messages", message_whole(content="x")),
        ("messages", message_whole(content=[5])),
        ("gemini", gemini_whole(promptFeedback={"blockReason": "SAFETY"})),
        ("gemini", gemini_whole(error={"code": 500})),
        ("gemini", gemini_whole(candidates=[])),
        ("gemini", gemini_whole(candidates=[*gemini_whole()["candidates"], {"index": 1}])),
        ("gemini", gemini_whole(candidates=[5])),
        ("gemini", [gemini_whole(None), {"error": {"code": 500}}]),
        ("gemini", [gemini_whole(), 5]),
        ("gemini", []),
    ],
)
def test_answer_with_an_error_a_refusal_or_an_unknown_shape_is_not_complete(name: str, data: object) -> None:
    assert not whole(name, data).is_complete


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"5", b'"x"', b"[]", b"{}", b"[[]]", b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"choices":[{}]}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"choices":NaN}', json.dumps(WHOLE["chat"]).encode("utf-16"),
        b'{"choices":[{"finish_reason":"stop","message":{"content":"\\ud800"}}]}', b"<html>503</html>",
    ],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_answer_that_cannot_be_read_is_not_complete(name: str, body: bytes) -> None:
    assert not whole(name, body).is_complete
    assert not api(name).read_events(events(b"data: " + body + b"\n\n")).is_complete


# Streams


def chunk(index: object, finish: object = None, **delta: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def test_answer_of_several_choices_is_complete_when_each_has_ended() -> None:
    begun = [chunk(1, content="b"), chunk(0, content="a"), chunk(1, content="B"), chunk(0, "stop", content="A")]
    assert streamed("chat", *begun, "[DONE]") == Answer("aA", "m", None, ("stop", ""), False)
    answer = streamed("chat", *begun, chunk(1, "length"), "[DONE]")
    assert (answer.finish, answer.is_complete) == (("stop", "length"), False)
    assert streamed("chat", *begun, chunk(1, "tool_calls"), "[DONE]") == Answer(
        "aA", "m", None, ("stop", "tool_calls"), True
    )


def test_answer_of_several_candidates_is_complete_when_each_has_ended() -> None:
    def part(*candidates: tuple[int, str, str | None]) -> dict[str, Any]:
        return {
            "candidates": [
                {"index": index, "content": {"parts": [{"text": text}]}, **({"finishReason": end} if end else {})}
                for index, text, end in candidates
            ]
        }

    begun = [part((0, "a", None), (1, "b", None)), part((1, "B", "STOP"))]
    assert streamed("gemini", *begun).is_complete is False
    assert streamed("gemini", *begun, part((0, "A", "STOP"))) == Answer("aA", "", None, ("STOP", "STOP"), True)
    assert whole("gemini", [*begun, part((0, "A", "STOP"))]).is_complete


def test_answer_of_gemini_leaves_thoughts_out_of_the_text() -> None:
    parts = [{"text": "hmm", "thought": True}, {"text": "Hi"}, {"functionCall": {"name": "f"}}, {"a_new_part": 5}]
    answer = whole("gemini", gemini_whole(candidates=[{"content": {"parts": parts}, "finishReason": "STOP"}]))
    assert (answer.text, answer.is_complete) == ("Hi", True)


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("chat", chat_events(done=False)),
        ("chat", ["[DONE]"]),
        ("chat", []),
        ("chat", [*chat_events(done=False), {"error": {"message": "x"}}, "[DONE]"]),
        ("chat", [*chat_events(done=False), ("error", {"message": "x"}), "[DONE]"]),
        ("chat", [chunk(0, refusal="no"), chunk(0, "stop"), "[DONE]"]),
        ("chat", [chunk("0", "stop"), "[DONE]"]),
        ("chat", [chunk(True, "stop"), "[DONE]"]),
        ("chat", ["not JSON", *chat_events()]),
        ("chat", [[], *chat_events()]),
        ("chat", [{"choices": [5]}, *chat_events()]),
        ("chat", [{"choices": 5}, *chat_events()]),
        ("responses", response_events("failed")),
        ("responses", response_events("incomplete")),
        ("responses", [*response_events()[:-1], *response_events("incomplete")[-1:], *response_events()[-1:]]),
        ("responses", response_events()[:-1]),
        ("responses", [*response_events()[:-1], *response_events()[-1:] * 2]),
        ("responses", [*response_events(), ("error", {"type": "error"})]),
        ("responses", [*response_events(), {"type": "error"}]),
        ("responses", [("response.completed", {"type": "response.completed"})]),
        ("responses", [("response.completed", {"response": response_whole()})]),
        ("messages", message_events()[1:]),
        ("messages", message_events()[:-1]),
        ("messages", [*message_events()[:-2], message_events()[-1]]),
        ("messages", [*message_events(), ("error", {"type": "error"})]),
        ("messages", [*message_events(), *message_events()]),
        ("messages", [*message_events(), *message_events()[-1:]]),
        ("messages", [*message_events()[:1], *message_events()]),
        ("messages", [*message_events(), {"type": "ping"}]),
        ("messages", [message_events()[0], message_events()[-1], *message_events()[1:-1]]),
        ("responses", [*response_events(), {"type": "a.new.event", "response": response_whole()}]),
        ("gemini", [*gemini_events(), {"error": {"code": 500}}]),
        ("gemini", gemini_events()[:1]),
        ("gemini", [{"promptFeedback": {"blockReason": "SAFETY"}}]),
    ],
)
def test_stream_without_a_good_end_is_not_complete(name: str, stream: list[Any]) -> None:
    assert not streamed(name, *stream).is_complete


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        # Azure begins with a chunk about the prompt.
        ("chat", [{"choices": [], "prompt_filter_results": []}, *chat_events()]),
        ("chat", [*chat_events(), {"an event": "after the last"}]),
        ("chat", [chunk(0, "tool_calls", tool_calls=[{"index": 0, "function": {}}]), "[DONE]"]),
        ("chat", [{"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}, "[DONE]"]),
        ("responses", [event for _, event in response_events()]),
        ("responses", [*response_events(), "[DONE]"]),
        ("responses", [{"type": "a.new.event", "error": None}, *response_events()]),
        ("messages", [event for _, event in message_events()]),
        ("messages", [{"type": "a_new_event"}, *message_events()]),
        ("gemini", [{"a new field": 5}, *gemini_events()]),
    ],
)
def test_stream_with_unknown_parts_is_complete(name: str, stream: list[Any]) -> None:
    assert streamed(name, *stream).is_complete


@pytest.mark.parametrize(
    ("name", "stream", "finish"),
    [
        ("chat", chat_events("length"), "length"),
        ("responses", response_events("incomplete"), "incomplete"),
        ("messages", message_events("max_tokens"), "max_tokens"),
        ("gemini", gemini_events("MAX_TOKENS"), "MAX_TOKENS"),
    ],
)
def test_stream_that_was_cut_off_has_an_answer_that_store_when_can_take(
    name: str, stream: list[Any], finish: str
) -> None:
    assert streamed(name, *stream) == Answer("Hi", "m-2026", TOKENS, (finish,), False)


# Token counts


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ({}, None),
        ("x", None),
        ([], None),
        ({"prompt_tokens": 3}, {"input": 3}),
        ({"prompt_tokens": 3, "completion_tokens": 0}, {"input": 3, "output": 0}),
        ({"prompt_tokens": True, "completion_tokens": 2.5}, None),
        ({"prompt_tokens": -1, "completion_tokens": "2"}, None),
        ({"prompt_tokens": 2**60, "completion_tokens": None}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 1}, {"output": 1}),
    ],
)
def test_tokens_are_counts_alone(usage: object, expected: object) -> None:
    answer = whole("chat", {**chat_whole(), "usage": usage})
    assert answer.tokens == expected
    assert answer.is_complete


def test_model_of_the_wrong_type_is_no_model() -> None:
    for name, field in (("chat", "model"), ("responses", "model"), ("messages", "model"), ("gemini", "modelVersion")):
        answer = whole(name, {**WHOLE[name], field: ["m"]})
        assert (answer.model, answer.is_complete) == ("", True)


def test_content_of_several_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "a_new_part"}, {"type": "text", "text": "i"}, {"type": "text"}]
    assert whole("chat", chat_whole(content=parts)).text == "Hi"
    assert whole("chat", chat_whole(content=None, tool_calls=[{}])) == Answer("", "m-2026", TOKENS, ("stop",), True)
    assert whole("messages", message_whole(content=parts)).text == "Hi"
    output = [{"type": "message", "content": [{"type": "output_text", "text": text} for text in "Hi"]}, {"type": "new"}]
    assert whole("responses", response_whole(output=output)).text == "Hi"
