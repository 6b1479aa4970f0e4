"""Keys of requests: no two different questions share a key, whatever their bytes are, and no credential enters one."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.adapters.http.exchanges import BODIES, GEMINI_STREAM, URLS, altered, encoded, key_of, request
from tiercache import UsageError
from tiercache.adapters.http.request_key import KEY_HEADERS, ModelRequest, RequestKeys, question_of
from tiercache.tiers.keys.canonical_json import canonical_json

CHAT: Final = BODIES["chat"]
MESSAGES: Final = BODIES["messages"]
each_api = pytest.mark.parametrize("api", URLS)


def raw(text: str) -> bytes:
    """Return the body of a chat with more fields, as they are."""
    return b'{"model":"m","messages":[],%b}' % text.encode("utf-8", "surrogatepass")


def reason(body: bytes, **options: Any) -> str | None:
    return key_of("chat", body, **options).bypass


def digest(body: object, api: str = "chat", **options: Any) -> str:
    """Return the digest of a request, which must not bypass the cache."""
    key = key_of(api, body, **options)
    assert key.bypass is None
    return key.digest


# The form of the key


def test_key_of_a_request_keeps_its_form() -> None:
    """Other digests would find none of the entries that are stored."""
    body = {"messages": [{"role": "user", "content": "hé"}], "model": "m", "user": "u", "temperature": 0.5}
    made = request("chat", body, url="https://k@api.openai.com/v1/chat/completions?a=1&key=x#f", scope="t1")
    made = altered(made, headers={"openai-project": "p", "user-agent": "x"})
    question = question_of(made)
    assert question is not None
    assert question.hashed == {
        "v": 1,
        "method": "POST",
        "url": "https://api.openai.com/v1/chat/completions?a=1",
        "headers": {"openai-project": "p"},
        "body": {"messages": '[{"role":"user","content":"hé"}]', "model": '"m"', "temperature": "0.5"},
        "scope": "t1",
    }
    key = RequestKeys().of(made)
    assert key is not None
    assert key.digest == sha256(canonical_json(question.hashed, "x")).hexdigest()
    assert key.digest == "879248e2ed0bfddc0c3cd9fcbb029f037d03ac87afbec2206ad1d30df30d3e10"
    assert (key.model, key.is_stream, key.bypass, key.api.name) == ("m", False, None, "chat")


@each_api
def test_key_is_the_same_for_the_same_request(api: str) -> None:
    assert digest(None, api) == digest(None, api)
    assert len(digest(None, api)) == 64


def test_key_does_not_depend_on_spaces_escapes_or_the_order_of_parameters() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "é\U0001f600/"}], "temperature": 0.5}
    same = [
        json.dumps(body).encode(),
        json.dumps(body, indent=2, ensure_ascii=False).encode(),
        json.dumps(dict(reversed(body.items()))).encode(),
        json.dumps(body).replace("/", "\\/").encode(),
    ]
    assert len({digest(each) for each in same}) == 1


def test_key_depends_on_the_order_of_the_fields_inside_of_a_parameter() -> None:
    """A model writes the fields of its answer in the order of the schema."""
    schemas = [{"reasoning": {"type": "string"}, "answer": {"type": "string"}}]
    schemas.append(dict(reversed(schemas[0].items())))
    bodies = [
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": schema}}}}
        for schema in schemas
    ]
    assert len({digest(body) for body in bodies}) == 2


# Bytes that readers of JSON may read differently


@pytest.mark.parametrize(
    "text",
    [
        '"a":1,"a":2', '"a":1,"a":1', '"model":"n"', '"a":1,"\\u0061":2', '"a":{"b":1,"b":2}', '"a":[[{"b":1,"b":2}]]',
        '"store":true,"store":false', '"":1,"":2',
    ],
)  # fmt: skip
def test_body_with_a_name_twice_bypasses_the_cache(text: str) -> None:
    for stateful in (False, True):
        assert reason(raw(text), stateful=stateful) == "the body has a name twice in one object"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1E400", "1" + "0" * 400 + ".0"])
def test_body_with_a_number_that_json_cannot_hold_bypasses_the_cache(number: str) -> None:
    for text in (f'"a":{number}', f'"a":[[{{"b":{number}}}]]'):
        assert reason(raw(text), stateful=True) == "the body has a number that JSON cannot hold"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null x", b'{"a":01}', b'{"a":+1}', b'{"a":.5}', b'{"a":1.}', b"{'a':1}", b'{"a":1,}', b'{"a"}',
        b'{"a":"\n"}', b'{"a":nan}', b'{"a":1} {"a":1}', b"// note\n{}", b"a=1&b=2", b'{"a":' + b"9" * 5000 + b"}",
        b"\x00", "{\u00a0}".encode(), b"--boundary\r\n\r\n{}\r\n--boundary--",
    ],
    ids=lambda body: repr(body[:16]),
)  # fmt: skip
def test_body_that_is_no_json_bypasses_the_cache(body: bytes) -> None:
    assert reason(body, stateful=True) == "the body is not JSON"


@pytest.mark.parametrize("body", [b"null", b"5", b'"x"', b"[]", b"[{}]", b"true"])
def test_body_that_is_no_object_bypasses_the_cache(body: bytes) -> None:
    assert reason(body, stateful=True) == "the body is no JSON object"


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"])
def test_body_in_another_encoding_bypasses_the_cache(coding: str) -> None:
    body = json.dumps({"model": "m", "messages": ["é"]}, ensure_ascii=False).encode(coding)
    assert reason(body, stateful=True) in ("the body is not JSON", "the body is not UTF-8", None)
    if coding != "utf-7":  # It is ASCII, which says something else in UTF-8: that counts.
        assert reason(body, stateful=True) is not None


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe9"])
def test_body_that_is_not_utf8_bypasses_the_cache(text: bytes) -> None:
    body = b'{"model":"m","messages":["%b"]}' % text
    assert reason(body, stateful=True) == "the body is not UTF-8"


@pytest.mark.parametrize("text", ["\\ud800", "\\udfff", "\\ude00\\ud83d", "x\\ud83d"])
def test_body_with_a_lone_surrogate_bypasses_the_cache(text: str) -> None:
    for field in (f'"a":"{text}"', f'"a":{{"{text}":1}}', f'"{text}":1'):
        assert reason(raw(field), stateful=True) == (
            "the request has text that is not Unicode, or is nested too deeply"
        )
    assert digest(raw('"a":"\\ud83d\\ude00"')) == digest(raw('"a":"\U0001f600"'))


@pytest.mark.parametrize("depth", [300, 1_000, 100_000])
@pytest.mark.parametrize("shape", [("[", "]"), ('{"a":', "}")])
def test_body_that_is_nested_too_deeply_bypasses_the_cache(depth: int, shape: tuple[str, str]) -> None:
    for name, api in (("messages", "chat"), ("tools", "messages"), ("input", "responses"), ("contents", "gemini")):
        body = f'{{"model":"m","max_tokens":9,"{name}":{shape[0] * depth}1{shape[1] * depth}}}'.encode()
        key = key_of(api, body, stateful=True)
        assert key.bypass in (
            "the body is nested too deeply",
            "the request has text that is not Unicode, or is nested too deeply",
        )


def test_numbers_in_different_forms_share_no_key() -> None:
    forms = [
        "1", "1.0", "1.00", "1e0", "1E0", "10e-1", "true", '"1"', "0", "-0", "0.0", "-0.0", "0e0", "1e5", "1E5",
        "1e+5", "100000.0", "100000", "0.1", "0.10", "0.1000000000000000055511151231257827", "9007199254740993",
        "9007199254740992", "9007199254740993.0", "9007199254740992.0", "18446744073709551616",
        "18446744073709551617", "1e-400", "5e-324", "null",
    ]  # fmt: skip
    digests = {form: digest(raw(f'"a":{form}')) for form in forms}
    assert len(set(digests.values())) == len(forms)
    assert digests["0.10"] == digest(raw('"a":0.10'))


def test_a_number_that_loses_its_form_counts_at_its_place() -> None:
    assert digest(raw('"a":0.10,"b":0.1')) != digest(raw('"a":0.1,"b":0.10'))
    assert digest(raw('"a":[0.10,0.1]')) != digest(raw('"a":[0.1,0.10]'))


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate", "identity, gzip", "x"])
def test_body_with_a_content_encoding_bypasses_the_cache(coding: str) -> None:
    assert key_of("chat", headers={"content-encoding": coding}).bypass == "the body is compressed"
    assert key_of("chat", headers={"content-encoding": "identity"}).bypass is None
    assert key_of("chat", headers={"content-encoding": ""}).bypass is None


@pytest.mark.parametrize(
    ("kind", "is_read"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ('application/json;CHARSET="UTF-8"; x=y', True),
        ("application/json; charset=iso-8859-1", False),
        ("application/json; charset=utf-16", False),
        ("", True),
    ],
)
def test_body_with_another_charset_bypasses_the_cache(kind: str, is_read: bool) -> None:
    key = key_of("chat", headers={"content-type": kind})
    assert key.bypass == (None if is_read else "the body is not UTF-8")


def test_request_with_another_method_in_a_header_bypasses_the_cache() -> None:
    key = key_of("gemini", headers={"x-http-method-override": "GET"}, stateful=True)
    assert key.bypass == "the header x-http-method-override"


# The model


@pytest.mark.parametrize(
    ("api", "url", "body", "model"),
    [
        ("chat", "", {"model": "gpt-5"}, "gpt-5"),
        ("chat", "", {"model": 5}, ""),
        ("chat", "", {}, ""),
        ("chat", "https://x.azure.com/openai/deployments/my%2Dgpt/chat/completions?api-version=1", {}, "my-gpt"),
        ("chat", "https://x.azure.com/openai/deployments/d/chat/completions?api-version=1", {"model": "m"}, "m"),
        ("embeddings", "https://x.azure.com/openai/deployments/d/embeddings?api-version=1", {"model": None}, "d"),
        ("responses", "https://x.azure.com/openai/v1/responses?api-version=preview", {"model": "m"}, "m"),
        ("gemini", "", {"model": "ignored"}, "gemini-3-pro"),
        (
            "gemini",
            "https://aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/google/models/g-2:generateContent",
            {},
            "g-2",
        ),
        ("gemini", "https://x/v1beta/tunedModels/t%201:streamGenerateContent", {}, "t 1"),
    ],
)
def test_model_is_the_one_that_the_request_names(api: str, url: str, body: dict[str, Any], model: str) -> None:
    assert key_of(api, body, url=url).model == model


@pytest.mark.parametrize("model", ["x" * 513, "é" * 257, "\ud800"])
def test_model_whose_name_cannot_be_counted_bypasses_the_cache(model: str) -> None:
    body = json.dumps({**CHAT, "model": model}).encode()
    key = key_of("chat", body, stateful=True)
    assert (key.bypass, key.model) == ("the name of the model is too long, or not Unicode", "")
    url = "https://x/v1beta/models/" + "x" * 600 + ":generateContent"
    assert key_of("gemini", url=url).bypass == "the name of the model is too long, or not Unicode"
    assert key_of("chat", {**CHAT, "model": "x" * 512}).bypass is None


# Streams


@pytest.mark.parametrize(
    ("url", "is_stream"),
    [
        (URLS["gemini"], False),
        (URLS["gemini"] + "?alt=sse", False),
        (GEMINI_STREAM, True),
        (GEMINI_STREAM.replace("alt=sse", "key=x&%61lt=sse"), True),
        (GEMINI_STREAM.replace("alt=sse", "$alt=sse"), True),
        (GEMINI_STREAM.replace("alt=sse", "alt=json"), False),
        (GEMINI_STREAM.replace("?alt=sse", ""), False),
    ],
)
def test_gemini_streams_only_with_its_method_and_alt_sse(url: str, is_stream: bool) -> None:
    assert key_of("gemini", url=url).is_stream is is_stream


@pytest.mark.parametrize(
    ("stream", "is_stream"), [(True, True), (False, False), (None, False), (1, False), ("x", False)]
)
def test_request_streams_only_if_it_says_true(stream: object, is_stream: bool) -> None:
    assert key_of("chat", {**CHAT, "stream": stream}).is_stream is is_stream


# Which requests


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", URLS["chat"]),
        ("post", URLS["chat"]),
        ("PUT", URLS["responses"]),
        ("POST", "https://api.openai.com/v1/chat/completions/chatcmpl-1"),
        ("POST", "https://api.openai.com/v1/chat/completions/"),
        ("POST", "https://api.openai.com/v1/completions"),
        ("POST", "https://api.openai.com/v1/responses/resp_1/cancel"),
        ("POST", "https://api.openai.com/v1/responses/input_tokens"),
        ("POST", "https://api.openai.com/v1/models?x=/chat/completions"),
        ("POST", "https://api.openai.com/v1/models#/chat/completions"),
        ("POST", "https://api.openai.com/v1/audio/speech"),
        ("POST", "https://api.openai.com/v1/images/generations"),
        ("POST", "https://api.openai.com/v1/threads/thread_1/messages"),
        ("POST", "https://api.anthropic.com/v1/messages/count_tokens"),
        ("POST", "https://api.anthropic.com/v1/messages/batches"),
        ("POST", "https://x/v1beta/models/m:countTokens"),
        ("POST", "https://x/v1beta/models/m:batchEmbedContents"),
        ("POST", "https://chat/completions"),
        ("POST", "https://embeddings"),
        ("POST", ""),
        ("POST", "::::"),
    ],
)
def test_other_requests_have_no_key(method: str, url: str) -> None:
    made = altered(request("chat"), method=method, url=url)
    assert RequestKeys().of(made) is None
    assert question_of(made) is None


def test_same_question_to_another_server_or_path_has_another_key() -> None:
    urls = [
        URLS["chat"],
        URLS["chat"].replace("https", "http"),
        URLS["chat"].replace(".com", ".com:8443"),
        URLS["chat"].replace("v1", "v2"),
        "https://x.azure.com/openai/deployments/a/chat/completions?api-version=1",
        "https://x.azure.com/openai/deployments/b/chat/completions?api-version=1",
        "https://x.azure.com/openai/deployments/b/chat/completions?api-version=2",
        "https://x.azure.com/openai/deployments/b/chat/completions?api-version=2&a",
        "https://x.azure.com/openai/deployments/b/chat/completions?api-version=2&a=",
        "https://x.azure.com/openai/deployments/b/chat/completions?a=&api-version=2",
        "https://x.azure.com/openai/deployments/b/chat/completions?api-version=2&a=%62",
        "https://x.azure.com/openai/deployments/b/chat/completions?api-version=2&a=b",
        "https://x.azure.com/openai/deployments/b/chat/completions?api-version=2&a=b\t",
        "https://x.azure.com/openai/deployments/b/chat/completions?api-version=2&a=b&Key=1",
    ]
    assert len({digest(CHAT, url=url) for url in urls}) == len(urls)


# Credentials


@pytest.mark.parametrize(
    "query",
    ["key={}", "access_token={}", "alt=sse&key={}", "key={}&alt=sse", "%6Bey={}", "ke%79={}&alt=sse", "key={}&key=z"],
)
def test_credential_in_the_query_enters_no_key(query: str) -> None:
    base = "https://g.googleapis.com/v1beta/models/m:generateContent"
    rest = "?alt=sse" if "alt" in query else ""
    made = [request("gemini", url=f"{base}?{query.format(secret)}") for secret in ("SECRET", "other")]
    made.append(request("gemini", url=base + rest))
    questions = [question_of(each) for each in made]
    assert all(question == questions[0] for question in questions)
    assert "SECRET" not in repr(questions)


@each_api
def test_credential_in_a_header_or_before_the_host_enters_no_key(api: str) -> None:
    names = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization"]
    secret = request(
        api, headers=dict.fromkeys(names, "SECRET"), url=URLS[api].replace("https://", "https://user:SECRET@")
    )
    assert question_of(secret) == question_of(request(api))
    key = RequestKeys().of(secret)
    assert key == key_of(api)
    assert "SECRET" not in repr(question_of(secret)) + repr(key)


def test_headers_of_the_transport_enter_no_key() -> None:
    headers = {
        "user-agent": "OpenAI/Python 3.57", "x-stainless-retry-count": "1", "idempotency-key": "k", "accept": "*/*",
        "traceparent": "t", "content-type": "application/json", "content-length": "5", "x-tiercache": "refresh",
    }  # fmt: skip
    assert digest(None, headers=headers) == digest(None)


def test_credentials_are_no_headers_of_the_key() -> None:
    assert not {"authorization", "x-api-key", "api-key", "x-goog-api-key"} & set(KEY_HEADERS)


# Scopes, and state


def test_scopes_share_no_key() -> None:
    scopes: list[str | None] = [None, "", "a", "b", "None", "é"]
    assert len({digest(None, scope=scope) for scope in scopes}) == len(scopes)


@pytest.mark.parametrize("scope", ["\ud800", 5, b"x"])
def test_scope_that_is_no_text_is_refused(scope: Any) -> None:
    for find in (RequestKeys().of, question_of):
        with pytest.raises(UsageError, match="scope"):
            find(request("chat", scope=scope))


def test_stateful_caches_the_requests_that_depend_on_state_under_the_same_key() -> None:
    body = {**BODIES["responses"], "previous_response_id": "resp_1"}
    assert key_of("responses", body).bypass == "previous_response_id"
    assert key_of("responses", body, stateful=True).bypass is None
    assert digest(None, "responses", stateful=True) == digest(None, "responses")


# Hints for the provider's cache

HINT: Final = {"type": "ephemeral", "ttl": "1h"}
TEXT: Final = {"type": "text", "text": "a"}
Place = Callable[[dict[str, Any]], dict[str, Any]]


def user(*blocks: object) -> dict[str, Any]:
    return {**MESSAGES, "messages": [{"role": "user", "content": list(blocks)}]}


PLACES: Final[dict[str, Place]] = {
    "body": lambda hint: {**MESSAGES, **hint},
    "system": lambda hint: {**MESSAGES, "system": [TEXT, {**TEXT, **hint}]},
    "tools": lambda hint: {**MESSAGES, "tools": [{"name": "f", "input_schema": {}, **hint}]},
    "text": lambda hint: user({**TEXT, **hint}),
    "image": lambda hint: user({"type": "image", "source": {"type": "url", "url": "u"}, **hint}),
    "tool_use": lambda hint: user({"type": "tool_use", "id": "t", "name": "f", "input": {}, **hint}),
    "tool_result": lambda hint: user({"type": "tool_result", "tool_use_id": "t", "content": "x", **hint}),
    "in tool_result": lambda hint: user({"type": "tool_result", "tool_use_id": "t", "content": [{**TEXT, **hint}]}),
    "in search_result": lambda hint: user({"type": "search_result", "source": "s", "content": [{**TEXT, **hint}]}),
    "document": lambda hint: user({"type": "document", "source": {"type": "text", "data": "d"}, **hint}),
    "in document": lambda hint: user({"type": "document", "content": [{**TEXT, **hint}]}),
    "in the source of a document": lambda hint: user(
        {"type": "document", "source": {"type": "content", "content": [{**TEXT, **hint}]}}
    ),
    "in a document in tool_result": lambda hint: user(
        {
            "type": "tool_result",
            "content": [{"type": "document", "source": {"type": "content", "content": [{**TEXT, **hint}]}}],
        }
    ),
}
DATA: Final[dict[str, Place]] = {
    "input of tool_use": lambda hint: user({"type": "tool_use", "id": "t", "name": "f", "input": hint}),
    "deep in the input of tool_use": lambda hint: user(
        {"type": "tool_use", "input": {"type": "tool_result", "content": [{**TEXT, **hint}]}}
    ),
    "input_schema": lambda hint: {**MESSAGES, "tools": [{"name": "f", "input_schema": {"properties": hint}}]},
    "input_schema itself": lambda hint: {**MESSAGES, "tools": [{"name": "f", "input_schema": hint}]},
    "input_examples": lambda hint: {**MESSAGES, "tools": [{"name": "f", "input_schema": {}, "input_examples": [hint]}]},
    "a tool with content": lambda hint: {
        **MESSAGES, "tools": [{"name": "f", "type": "document", "content": [{**TEXT, **hint}]}]
    },
    "source of an image": lambda hint: user({"type": "image", "source": hint}),
    "an unknown block": lambda hint: user({"type": "new", "content": [{**TEXT, **hint}]}),
    "a message": lambda hint: {**MESSAGES, "messages": [{"role": "user", "content": "a", **hint}]},
    "content that is an object": lambda hint: {**MESSAGES, "messages": [{"role": "user", "content": hint}]},
    "output_config": lambda hint: {**MESSAGES, "output_config": {"format": {"schema": hint}}},
    "a definition in a conversation": lambda hint: user(
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"name": "f", **hint}}}
    ),
    "below the levels that the API has": lambda hint: user(
        {
            "type": "tool_result",
            "content": [{"type": "tool_result", "content": [{"type": "tool_result", "content": [{**TEXT, **hint}]}]}],
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_hint_for_the_cache_of_anthropic_is_left_out_where_the_api_defines_one(place: str) -> None:
    body = PLACES[place]
    same = [{}, {"cache_control": HINT}, {"cache_control": {"type": "ephemeral"}}, {"cache_control": None}]
    assert len({digest(body(hint), "messages") for hint in same}) == 1


@pytest.mark.parametrize("place", PLACES)
def test_hint_in_a_form_that_the_api_does_not_define_counts(place: str) -> None:
    values = [None, 5, "ephemeral", [HINT], {}, {"type": "new"}, {**HINT, "scope": "x"}, {"ttl": "1h"}]
    digests = {digest(PLACES[place]({"cache_control": value}), "messages") for value in values}
    assert len(digests) == len(values)


@pytest.mark.parametrize("place", DATA)
def test_data_of_the_same_name_as_the_hint_counts(place: str) -> None:
    body = DATA[place]
    different = [{}, {"cache_control": HINT}, {"cache_control": {"type": "ephemeral"}}, {"cache_control": None}]
    assert len({digest(body(hint), "messages", stateful=True) for hint in different}) == 4


@pytest.mark.parametrize("api", ["chat", "responses", "embeddings", "gemini"])
def test_hint_counts_for_every_other_api(api: str) -> None:
    assert digest({**BODIES[api], "cache_control": HINT}, api) != digest(None, api)


@pytest.mark.parametrize("name", ["system", "tools", "messages"])
@pytest.mark.parametrize("value", [None, 5, "x", {}, [5], [None], [[]], [{"content": 5}], [{"type": ["document"]}]])
def test_messages_of_any_shape_have_a_key_of_their_own_or_bypass_the_cache(name: str, value: object) -> None:
    key = key_of("messages", {**MESSAGES, name: value}, stateful=True)
    assert key.digest != key_of("messages").digest
    assert key.bypass is None


# Remembered keys


def test_remembered_keys_are_those_of_the_request() -> None:
    keys = RequestKeys()
    variants = [
        request("chat"),
        request("chat", {**CHAT, "n": 2}),
        request("chat", url=URLS["chat"] + "?a=1"),
        request("chat", scope="a"),
        request("chat", scope=""),
        request("chat", scope="None"),
        *(request("chat", headers={name: "a"}) for name in KEY_HEADERS),
        request("chat", headers={KEY_HEADERS[0]: "b"}),
        request("chat", headers={"content-encoding": "gzip"}),
        request("chat", headers={"content-type": "application/json; charset=latin-1"}),
        request("chat", headers={"x-http-method-override": "GET"}),
        request("chat", {**CHAT, "store": True}),
        request("chat", {**CHAT, "store": True}, stateful=True),
        request("responses"),
        request("messages"),
        request("gemini"),
        request("chat", b"\xff"),
    ]
    expected = [RequestKeys().of(each) for each in variants]
    assert len({repr(key) for key in expected}) == len(variants) - 1  # Both charsets that are none.
    for _ in range(2):
        assert [keys.of(each) for each in variants] == expected
    assert keys.entry_count == len(variants)


def test_a_part_of_a_request_is_not_taken_for_another_part() -> None:
    keys = RequestKeys()
    one = request("chat", encoded(CHAT), url=URLS["chat"] + "?a=1", scope="b")
    found = keys.of(one)
    for other in (
        altered(one, url=URLS["chat"], scope="?a=1b"),
        altered(one, scope="b" + "{"),
        altered(one, headers={"anthropic-beta": "b"}, scope=None),
        altered(one, headers={"anthropic-version": "b"}, scope=None),
    ):
        assert keys.of(other) != found
    assert keys.entry_count == 5


def test_remembered_keys_parse_no_body_again(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = RequestKeys()
    made = request("chat")
    first = keys.of(made)
    monkeypatch.setattr(json, "loads", None)
    assert keys.of(request("chat")) is first


def test_remembered_keys_are_bounded_in_count() -> None:
    keys = RequestKeys(max_entries=10)
    for number in range(100):
        keys.of(request("chat", {**CHAT, "n": number}))
    assert keys.entry_count == 10
    last = keys.of(request("chat", {**CHAT, "n": 99}))
    keys.of(request("chat", {**CHAT, "n": 90}))
    for number in range(100, 109):
        keys.of(request("chat", {**CHAT, "n": number}))
    assert keys.of(request("chat", {**CHAT, "n": 99})) == last


def test_remembered_keys_are_bounded_in_memory() -> None:
    most = 256 * 1024
    keys = RequestKeys(max_entries=10**9, max_bytes=most)
    for number in range(1000):
        body = {**CHAT, "model": f"{number:03}" + "é" * 250, "messages": ["x" * 10_000]}
        keys.of(request("chat", body))
    assert 0 < keys.entry_count < 1000
    assert size_of(keys) < most * 1.1
    assert RequestKeys(max_bytes=0).of(request("chat")) is not None


def size_of(value: object) -> int:
    """Return the bytes of an object and of all that it alone refers to: no classes, modules and functions."""
    seen: dict[int, object] = {}
    rest = [value]
    while rest:
        each = rest.pop()
        if id(each) in seen or isinstance(each, type | type(sys) | type(size_of)) or each is None:
            continue
        seen[id(each)] = each
        rest += gc.get_referents(each)
    return sum(sys.getsizeof(each) for each in seen.values())


def test_remembered_keys_serve_many_threads() -> None:
    keys = RequestKeys(max_entries=4)
    wrong: list[object] = []
    bodies = [b"%d" % number for number in range(8)]
    expected = [key_of("chat", body) for body in bodies]

    def ask(start: int) -> None:
        for step in range(5000):
            number = (start + step * 7) % len(bodies)
            if keys.of(request("chat", bodies[number])) != expected[number]:
                wrong.append(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            # Raises the errors of the threads.
            list(pool.map(ask, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert keys.entry_count == 4


# Any two requests

json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from([0.0, -0.0, 0.5, 1.0, 1e-7, 1e22]),
        st.sampled_from(["", "a", "1", "null", "é", "cache_control", "text"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "type", "content", "cache_control", "input"]), inner, max_size=3),
    ),
    max_leaves=8,
)  # fmt: skip
chat_bodies = st.dictionaries(
    st.sampled_from(["model", "messages", "n", "a", "b", "", "stream"]), json_values, max_size=4
)


def exact(value: object) -> object:
    """Return a form of JSON that tells apart whatever two questions may differ in: types, and order below the top."""
    if isinstance(value, dict):
        return ("object", tuple((name, exact(item)) for name, item in value.items()))
    if isinstance(value, list):
        return ("array", tuple(exact(item) for item in value))
    return (type(value).__name__, repr(value))


@settings(max_examples=300)
@given(one=chat_bodies, other=chat_bodies)
@example(one={"a": {"a": 1, "b": 2}}, other={"a": {"b": 2, "a": 1}})
@example(one={"a": 1}, other={"a": "1"})
@example(one={"a": [1]}, other={"a": "[1]"})
@example(one={"a": None}, other={})
def test_two_bodies_share_a_key_only_if_they_are_the_same_question(one: dict[str, Any], other: dict[str, Any]) -> None:
    bodies = [{"messages": [], **body} for body in (one, other)]
    keys = [key_of("chat", json.dumps(body).encode(), stateful=True) for body in bodies]
    top = [{name: exact(value) for name, value in body.items()} for body in bodies]
    assert (keys[0].digest == keys[1].digest) is (top[0] == top[1])


@settings(max_examples=300)
@given(data=st.one_of(st.binary(max_size=60), json_values.map(lambda value: json.dumps(value).encode())))
@example(data=b'{"model":"m","tools":[{}]}')
def test_request_with_any_body_has_a_key_or_a_reason(data: bytes) -> None:
    for api in URLS:
        for stateful in (False, True):
            key = key_of(api, data, stateful=stateful)
            assert (len(key.digest), key.bypass is None) in ((64, True), (0, False))


@given(url=st.text(max_size=40), scope=st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=3)))
def test_request_to_any_url_has_a_key_a_reason_or_neither(url: str, scope: str | None) -> None:
    for end in ("", "/chat/completions", "/deployments/x/embeddings", "/models/%ff:generateContent"):
        for query in ("", "?" + url):
            made = ModelRequest("POST", url + end + query, {}, encoded(CHAT), scope)
            question = question_of(made)
            assert question is None or question.bypass is not None or question.hashed["v"] == 1
