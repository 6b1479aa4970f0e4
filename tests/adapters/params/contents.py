"""Conversations of each API, made of every documented message and part.

``SHARED`` are those of which betterdb-agent-cache ignores and merges nothing, so that the key must be its key. Of
``SAFE`` it ignores or merges something, or it fails.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["PNG", "SAFE", "SHARED"]

PNG: Final = "data:image/png;base64,iVBORw0KGgo="
_WAV: Final = "UklGRg=="


def user(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts), **fields}


def text(of: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": of, **fields}


def image(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def sound(data: str, form: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": form}}


def file(**fields: Any) -> dict[str, Any]:
    return {"type": "file", "file": fields}


def call(arguments: str, name: str = "f", of: str = "c1", **fields: Any) -> dict[str, Any]:
    return {"id": of, "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def calling(*calls: Any, **fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": list(calls), **fields}]


def answered(content: Any, of: str = "c1", **fields: Any) -> list[dict[str, Any]]:
    return [*calling(call("{}", of=of)), {"role": "tool", "tool_call_id": of, "content": content, **fields}]


HI: Final = {"role": "user", "content": "hi"}

_CHAT_SHARED: Final[list[Any]] = [
    [{"role": "system", "content": "a"}, HI],
    [{"role": "system", "content": "b"}, HI],
    [{"role": "system", "content": [text("a"), text("b")]}, HI],
    [{"role": "user", "content": "hi", "name": "ann"}],
    [{"role": "user", "content": "hi", "name": "bob"}],
    [HI, HI],
    [HI, {"role": "assistant", "content": "yes"}, HI],
    [HI, {"role": "assistant", "content": "no"}, HI],
    [HI, {"role": "assistant"}],
    [HI, {"role": "assistant", "content": [text("y"), text("es")]}, HI],
    [user(text("a"), text("b"))],
    [user(text("b"), text("a"))],
    [user(text("ab"))],
    [user(text("a"), image("https://a.example/1.png"))],
    [user(text("a"), image("https://a.example/2.png"))],
    [user(image("https://a.example/1.png"), text("a"))],
    [user(image("https://a.example/1.png", detail="low"))],
    [user(image("https://a.example/1.png", detail="high"))],
    [user(image("https://a.example/1.png", detail="auto"))],
    [user(image(PNG))],
    [user(image(PNG.replace("png", "jpeg")))],
    [user(sound(_WAV, "wav"))],
    [user(sound(_WAV, "mp3"))],
    [user(sound("AAAA", "wav"))],
    [user(file(file_id="file-1"))],
    [user(file(file_id="file-2"))],
    [user(file(file_id="file-1", filename="a.pdf"))],
    [user(file(file_data="data:application/pdf;base64,AAAA"))],
    [user(file(file_data="data:application/pdf;base64,AAAA", filename="a.pdf"))],
    [user(file(file_data="data:text/plain;base64,AAAA", filename="a.pdf"))],
    calling(call("{}")),
    calling(call("{}", name="g")),
    calling(call("{}", of="c2")),
    calling(call('{"a": 1}')),
    calling(call('{"a": 1.0}')),
    calling(call('{"a":"1"}')),
    calling(call('{"__raw":"nonsense"}')),
    calling(call("{}"), call("{}", of="c2")),
    calling(call("{}", of="c2"), call("{}")),
    calling(call("{}"), content="let me look"),
    answered("sunny"),
    answered("rainy"),
    answered("sunny", of="c2"),
    [HI, {"role": "function", "name": "f", "content": "sunny"}],
    [HI, {"role": "function", "name": "f", "content": None}],
]

_CHAT_SAFE: Final[list[Any]] = [
    [{"role": "developer", "content": "a"}, HI],
    [{"role": "system", "content": "a", "name": "ann"}, HI],
    [{"role": "system", "content": "a", "name": "bob"}, HI],
    [HI, {"role": "assistant", "content": None, "refusal": "no"}],
    [HI, {"role": "assistant", "content": None, "refusal": "never"}],
    [HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
    [HI, {"role": "assistant", "content": None, "audio": {"id": "a1"}}],
    [HI, {"role": "assistant", "content": None, "audio": {"id": "a2"}}],
    [HI, {"role": "assistant", "content": "yes", "name": "ann"}],
    [HI, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}],
    [HI, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}}],
    [HI, {"role": "assistant", "content": "yes", "reasoning_content": "because"}],
    [HI, {"role": "assistant", "content": []}],
    calling({"id": "c1", "type": "custom", "custom": {"name": "f", "input": "a"}}),
    calling({"id": "c1", "type": "custom", "custom": {"name": "f", "input": "b"}}),
    calling({"id": "c1", "type": "custom", "custom": {"name": "f", "input": "b"}}, call("{}")),
    calling(call("{}"), {"id": "c1", "type": "custom", "custom": {"name": "f", "input": "b"}}),
    calling(call("nonsense")),
    calling(call('{"a":1,"a":1}')),
    calling(call('{"a":1e0}')),
    calling(call("")),
    calling(call('{"a": "\\ud800"}')),
    calling(call("{}", extra_content={"google": {"thought_signature": "x"}})),
    answered([text("sun"), text("ny")]),
    answered([]),
    answered("sunny", name="f"),
    answered("sunny", of="legacy:f"),
    [user(text("hi", cache_control={"type": "ephemeral"}))],
    [user(text("hi"), file(filename="a.pdf"))],
    [user(text("hi"), {"type": "video_url", "video_url": {"url": "https://a.example/1.mp4"}})],
    [user(text("hi"), {"type": "video_url", "video_url": {"url": "https://a.example/2.mp4"}})],
    [user({"type": "video_url", "video_url": {"url": "https://a.example/2.mp4"}}, text("hi"))],
    [user(image("https://a.example/1.png", format="image/png"))],
    [user({**image("https://a.example/1.png"), "cache_control": {"type": "ephemeral"}})],
    [user(file(file_id="file-1", file_data="data:application/pdf;base64,AAAA"))],
    [user({"type": "binary", "kind": "image", "mediaType": "image/*", "ref": "url:https://a.example/1.png"})],
    [user({"type": "tool_call", "id": "c1", "name": "f", "args": {}})],
    [HI, {"role": "function", "name": "f", "content": ""}],
    [HI, {"role": "critic", "content": "bad"}],
    [HI, {"role": "critic", "content": "worse"}],
]


def said(*parts: Any, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": list(parts), **fields}


def put(of: str, **fields: Any) -> dict[str, Any]:
    return {"type": "input_text", "text": of, **fields}


def out(of: str, **fields: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": of, **fields}


def picture(**fields: Any) -> dict[str, Any]:
    return {"type": "input_image", **fields}


def document(**fields: Any) -> dict[str, Any]:
    return {"type": "input_file", **fields}


def function_call(arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": "c1", "name": "f", "arguments": arguments, **fields}


def output(of: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": "c1", "output": of, **fields}


_RESPONSES_SHARED: Final[list[Any]] = [
    [HI, HI],
    [HI, {"role": "assistant", "content": "yes"}],
    [HI, {"role": "system", "content": "a"}],
    [{"role": "developer", "content": "a"}, HI],
    [said(put("hi"))],
    [said(put("a"), put("b"))],
    [said(put("b"), put("a"))],
    [said(picture(image_url="https://a.example/1.png"))],
    [said(picture(image_url="https://a.example/2.png"))],
    [said(picture(image_url="https://a.example/1.png", detail="low"))],
    [said(picture(image_url="https://a.example/1.png", detail="high"))],
    [said(picture(image_url=PNG))],
    [said(picture(file_id="file-1"))],
    [said(picture(file_id="file-2"))],
    [said(document(file_id="file-1"))],
    [said(document(file_id="file-2"))],
    [said(document(file_url="https://a.example/1.pdf"))],
    [said(document(file_data="data:application/pdf;base64,AAAA"))],
    [said(document(file_data="data:application/pdf;base64,AAAA", filename="a.pdf"))],
    [said(document(file_data="data:application/pdf;base64,AAAA", filename="b.pdf"))],
    [HI, said(out("yes", annotations=[]), role="assistant", type="message")],
    [HI, said(out("no", annotations=[]), role="assistant", type="message")],
    [HI, function_call(), output("sunny")],
    [HI, function_call(), output("rainy")],
    [HI, function_call('{"a":1}'), output("sunny")],
    [HI, function_call(name="g"), output("sunny")],
    [HI, function_call(), function_call(call_id="c2"), output("sunny"), output("rainy", call_id="c2")],
    [HI, function_call(), output("sunny"), function_call(call_id="c2"), output("rainy", call_id="c2")],
    [HI, {"type": "reasoning", "summary": []}, function_call()],
    [HI, {"type": "reasoning", "summary": [], "encrypted_content": "x"}, function_call()],
    [HI, {"type": "reasoning", "summary": [], "encrypted_content": "y"}, function_call()],
]

_SUMMARY: Final = [{"type": "summary_text", "text": "a"}]

_RESPONSES_SAFE: Final[list[Any]] = [
    [],
    [{"role": "system", "content": "a"}, HI],
    [HI, {"type": "reasoning", "id": "rs_1", "summary": []}, function_call()],
    [HI, {"type": "reasoning", "id": "rs_2", "summary": []}, function_call()],
    [HI, {"type": "reasoning", "id": "rs_1", "summary": _SUMMARY}, function_call()],
    [HI, {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "b"}]}, function_call()],
    [HI, {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "b"}]}],
    [HI, function_call(id="fc_1", status="completed"), output("sunny")],
    [HI, function_call("nonsense"), output("sunny")],
    [HI, function_call(namespace="n"), output("sunny")],
    [HI, function_call(), output([put("sunny")])],
    [HI, function_call(), output([put("rainy")])],
    [HI, function_call(), output([picture(image_url=PNG)])],
    [HI, function_call(), output('[{"type": "input_text", "text": "sunny"}]', status="completed")],
    [HI, {"type": "item_reference", "id": "msg_1"}],
    [HI, {"type": "item_reference", "id": "msg_2"}],
    [HI, {"type": "web_search_call", "id": "ws_1", "status": "completed"}],
    [HI, {"type": "custom_tool_call", "call_id": "c1", "name": "f", "input": "a"}],
    [HI, {"type": "custom_tool_call", "call_id": "c1", "name": "f", "input": "b"}],
    [HI, {"type": "custom_tool_call_output", "call_id": "c1", "output": "a"}],
    [HI, {"type": "compaction", "encrypted_content": "x"}],
    [HI, function_call(), {"type": "compaction", "encrypted_content": "x"}, function_call(call_id="c2")],
    [HI, {"type": "computer_call_output", "call_id": "c1", "output": {"type": "computer_screenshot"}}],
    [HI, {"type": "mcp_approval_response", "approval_request_id": "m1", "approve": True}],
    [HI, {"type": "mcp_approval_response", "approval_request_id": "m1", "approve": False}],
    [HI, said(out("yes", annotations=[]), role="assistant", type="message", id="msg_1", status="completed")],
    [HI, said(out("yes", annotations=[]), role="assistant", type="message", phase="commentary")],
    [HI, said(out("yes", annotations=[{"type": "url_citation", "url": "u"}]), role="assistant")],
    [HI, said({"type": "refusal", "refusal": "no"}, role="assistant")],
    [HI, said({"type": "refusal", "refusal": "never"}, role="assistant")],
    [HI, said(put("yes"), role="assistant")],
    [said(put("hi"), {"type": "input_audio", "input_audio": {"data": _WAV, "format": "wav"}})],
    [said(put("hi"), {"type": "input_audio", "input_audio": {"data": _WAV, "format": "mp3"}})],
    [said(put("hi"), picture(detail="low"))],
    [said(put("hi"), document(filename="a.pdf"))],
    [said(document(file_id="file-1", detail="low"))],
    [said(picture(file_id="file-1", image_url=PNG))],
]


def block(kind: str, source: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": kind, "source": source, **fields}


def base64(media_type: str, data: str = "AAAA") -> dict[str, Any]:
    return {"type": "base64", "media_type": media_type, "data": data}


def link(url: str) -> dict[str, Any]:
    return {"type": "url", "url": url}


def use(args: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t1", "name": "f", "input": args or {}, **fields}


def result(content: Any = "sunny", of: str = "t1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": of, "content": content, **fields}


def used(*parts: Any) -> list[dict[str, Any]]:
    return [HI, {"role": "assistant", "content": [use(), use(id="t2")]}, user(*parts)]


def thought(*blocks: Any) -> list[dict[str, Any]]:
    return [HI, {"role": "assistant", "content": [*blocks, text("yes")]}, HI]


_NESTED: Final = {"type": "content", "content": [text("a")]}

_MESSAGES_SHARED: Final[list[Any]] = [
    [HI, HI],
    [HI, {"role": "assistant", "content": "yes"}, HI],
    [HI, {"role": "assistant", "content": "no"}, HI],
    [user(text("a"), text("b"))],
    [user(text("b"), text("a"))],
    [user(block("image", base64("image/png")))],
    [user(block("image", base64("image/jpeg")))],
    [user(block("image", base64("image/png", "AAAB")))],
    [user(block("image", link("https://a.example/1.png")))],
    [user(block("image", link("https://a.example/2.png")))],
    [user(block("image", {"type": "file", "file_id": "file_1"}))],
    [user(block("document", base64("application/pdf")))],
    [user(block("document", base64("application/pdf", "AAAB")))],
    [user(block("document", link("https://a.example/1.pdf")))],
    [user(block("document", {"type": "file", "file_id": "file_1"}))],
    [user(block("document", {"type": "file", "file_id": "file_2"}))],
    [user(block("document", {"type": "text", "text": "a"}))],
    [user(block("document", _NESTED))],
    [user(block("document", {"type": "content", "content": [text("b")]}))],
    [user(block("document", {"type": "content", "content": "a"}))],
    used(result()),
    used(result("rainy")),
    used(result(of="t2")),
    used(result(), result(of="t2")),
    used(result(of="t2"), result()),
    used(result(), text("and?")),
    used(result([text("sun"), text("ny")])),
    used(result([text("sunny"), block("image", base64("image/png"))])),
    used(result([text("sunny"), block("image", base64("image/jpeg"))])),
    used(result([block("image", link("https://a.example/1.png"))])),
    [HI, {"role": "assistant", "content": [use({"a": 1})]}, user(result())],
    [HI, {"role": "assistant", "content": [use({"a": 2})]}, user(result())],
    [HI, {"role": "assistant", "content": [use(name="g")]}, user(result())],
    thought({"type": "thinking", "thinking": "a", "signature": "s"}),
    thought({"type": "thinking", "thinking": "b", "signature": "s"}),
    thought({"type": "thinking", "thinking": "a", "signature": "t"}),
    thought({"type": "redacted_thinking", "data": "x"}),
    thought({"type": "redacted_thinking", "data": "y"}),
]

_SEARCH: Final = {"type": "search_result", "source": "https://a.example", "title": "a", "content": [text("a")]}

_MESSAGES_SAFE: Final[list[Any]] = [
    used(result(is_error=True)),
    used(result("rainy", is_error=True)),
    used(result(None)),
    used(result([])),
    used(result([text("sunny"), block("document", base64("application/pdf"))])),
    used(result([text("sunny"), block("document", base64("application/pdf", "AAAB"))])),
    used(result([text("sunny"), _SEARCH])),
    used(result([{"type": "tool_reference", "tool_name": "f"}])),
    used(text("and?"), result()),
    [*used(result()), user(result(of="t2"))],
    [*used(result()), HI],
    [*used(result()), user(text("and?"))],
    [user(block("document", base64("application/pdf"), title="a"))],
    [user(block("document", base64("application/pdf"), title="b"))],
    [user(block("document", base64("application/pdf"), context="a"))],
    [user(block("document", base64("application/pdf"), citations={"enabled": True}))],
    [user(block("document", {"type": "text", "media_type": "text/plain", "data": "a"}))],
    [user(block("document", {"type": "text", "media_type": "text/plain", "data": "b"}))],
    [user(block("document", base64("text/plain", "YQ==")))],
    [user(text("hi"), _SEARCH)],
    [user(text("hi"), {**_SEARCH, "title": "b"})],
    [user(text("hi"), {"type": "container_upload", "file_id": "file_1"})],
    [user(text("hi"), {"type": "container_upload", "file_id": "file_2"})],
    [user(text("hi", citations=[{"type": "char_location", "cited_text": "a"}]))],
    thought(use(caller={"type": "direct"})),
    thought({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "a"}}),
    thought({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "b"}}),
    thought({"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}),
    thought({"type": "mcp_tool_use", "id": "m1", "name": "f", "server_name": "s", "input": {}}),
    thought({"type": "compaction", "content": "a"}),
    [HI, {"role": "assistant", "content": [result()]}],
    [HI, {"role": "system", "content": "be brief"}],
    [HI, {"role": "system", "content": "be wordy"}],
    [HI, user()],
]

SHARED: Final = {"chat": _CHAT_SHARED, "responses": _RESPONSES_SHARED, "messages": _MESSAGES_SHARED}
SAFE: Final = {"chat": _CHAT_SAFE, "responses": _RESPONSES_SAFE, "messages": _MESSAGES_SAFE}
