"""The endpoint: the OpenAI chat-completions wire format over real HTTP."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import openai
import pytest

from tiercache.cli.demo.answers import answer
from tiercache.cli.demo.client import EndpointClient
from tiercache.cli.demo.endpoint import COMPLETIONS_PATH, MAX_BODY_BYTES, MODELS_PATH, Endpoint
from tiercache.cli.demo.workload import build_catalog

WORDS = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is a lease?"}], "temperature": 0}
TOOLS = next(params for params in (r.params() for r in build_catalog()) if params.get("tool_choice") == "auto")

Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def ask(endpoint: Endpoint) -> Iterator[Ask]:
    """Return a function of one kept-alive connection: ``ask(body, path=, method=)`` returns status and decoded body."""
    connection = http.client.HTTPConnection(*endpoint.server_address[:2], timeout=10)

    def send(
        body: bytes | dict[str, Any] | None, path: str = COMPLETIONS_PATH, method: str = "POST"
    ) -> tuple[int, Any]:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(response.read())

    yield send
    connection.close()


def test_endpoint_answers_text_as_a_chat_completion(ask: Ask) -> None:
    status, completion = ask(WORDS)
    reply = answer(WORDS)
    assert status == 200
    assert completion["object"] == "chat.completion"
    assert completion["id"] == f"chatcmpl-{reply.digest}"
    assert completion["model"] == "gpt-4o-mini"
    assert isinstance(completion["created"], int)
    (choice,) = completion["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == reply.text
    assert reply.digest in choice["message"]["content"]
    assert "tool_calls" not in choice["message"]
    usage = completion["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (reply.prompt_tokens, reply.completion_tokens)


def test_endpoint_answers_a_tool_call_with_arguments_in_a_json_string(ask: Ask) -> None:
    status, completion = ask(TOOLS)
    reply = answer(TOOLS)
    (choice,) = completion["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert status == 200
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert reply.tool_call is not None
    assert call["type"] == "function"
    assert call["id"] == f"call_{reply.digest}"
    assert call["function"]["name"] == reply.tool_call.name
    assert json.loads(call["function"]["arguments"]) == reply.tool_call.arguments


def test_endpoint_answers_the_official_client(endpoint: Endpoint) -> None:
    host, port = endpoint.server_address[:2]
    with openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0) as client:
        words = client.chat.completions.create(**WORDS)
        assert words.choices[0].message.content == answer(WORDS).text
        call = client.chat.completions.create(**TOOLS).choices[0].message.tool_calls[0]
        assert call.id == f"call_{answer(TOOLS).digest}"
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(**{**WORDS, "model": "no-such-model"})


@pytest.mark.parametrize("params", [WORDS, TOOLS], ids=["words", "tools"])
def test_endpoint_streams_the_whole_answer_in_parts(endpoint: Endpoint, params: dict[str, Any]) -> None:
    host, port = endpoint.server_address[:2]
    reply = answer(params)
    with openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0) as client:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *parts, last = client.chat.completions.create(**params, **options)
        deltas = [part.choices[0].delta for part in parts]
        assert "".join(delta.content or "" for delta in deltas) == (reply.text or "")
        calls = [call for delta in deltas for call in delta.tool_calls or ()]
        if reply.tool_call is not None:
            assert calls[0].id == reply.tool_call.id
            assert calls[0].function.name == reply.tool_call.name
            assert json.loads("".join(call.function.arguments for call in calls)) == reply.tool_call.arguments
        assert parts[-1].choices[0].finish_reason == ("stop" if reply.tool_call is None else "tool_calls")
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (
            reply.prompt_tokens,
            reply.completion_tokens,
        )
        # The same connection serves the next request; without the option no part has a usage.
        parts = list(client.chat.completions.create(**params, stream=True))
        assert all(part.usage is None and part.choices for part in parts)


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"{not json", 400, None, "could not parse the JSON body"),
        (b"\xff\xfe", 400, None, "could not parse the JSON body"),
        (b"[1, 2]", 400, None, "has to be an object"),
        ({"messages": WORDS["messages"]}, 400, "model", "model"),
        ({**WORDS, "model": ""}, 400, "model", "model"),
        ({**WORDS, "model": "no-such-model"}, 404, "model", "no-such-model"),
        ({"model": "gpt-4o"}, 400, "messages", "messages"),
        ({"model": "gpt-4o", "messages": []}, 400, "messages", "messages"),
        ({"model": "gpt-4o", "messages": "hello"}, 400, "messages", "messages"),
        ({"model": "gpt-4o", "messages": ["hello"]}, 400, "messages", "messages"),
    ],
)
def test_endpoint_refuses_a_bad_request_and_keeps_the_connection(
    ask: Ask, body: Any, status: int, param: str | None, says: str
) -> None:
    got, reply = ask(body)
    assert got == status
    assert set(reply) == {"error"}
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert reply["error"]["type"] == "invalid_request_error"
    assert reply["error"]["param"] == param
    assert says in reply["error"]["message"]
    assert ask(WORDS)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/completions", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", COMPLETIONS_PATH, 405, "method_not_supported"),
        ("DELETE", COMPLETIONS_PATH, 501, None),
    ],
)
def test_endpoint_names_a_wrong_url_or_method(ask: Ask, method: str, path: str, status: int, code: str | None) -> None:
    got, reply = ask({} if method == "POST" else None, path, method)
    assert got == status
    assert reply["error"]["code"] == code
    assert method in reply["error"]["message"]


def test_endpoint_refuses_a_body_without_a_length_or_over_the_limit(endpoint: Endpoint) -> None:
    for headers, status in (
        ({}, 411),
        ({"Content-Length": "soon"}, 411),
        ({"Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
    ):
        connection = http.client.HTTPConnection(*endpoint.server_address[:2], timeout=10)
        connection.putrequest("POST", COMPLETIONS_PATH)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == status
        assert "Content-Length" in json.loads(response.read())["error"]["message"]
        connection.close()


def test_endpoint_lists_the_models(ask: Ask) -> None:
    status, reply = ask(None, MODELS_PATH, "GET")
    assert status == 200
    assert reply["object"] == "list"
    assert "gpt-4o" in {model["id"] for model in reply["data"]}


def test_endpoint_counts_completions_and_errors_separately(ask: Ask, endpoint: Endpoint) -> None:
    for _ in range(3):
        ask(WORDS)
    ask(b"{")
    assert (endpoint.completions, endpoint.errors) == (3, 1)


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[EndpointClient]:
    """Return the workers' client of the endpoint."""
    with closing(EndpointClient(endpoint.server_address[1], concurrency=2)) as client:
        yield client


async def test_client_returns_text_tool_calls_and_tokens(client: EndpointClient) -> None:
    words, tools = await client.call_llm(WORDS), await client.call_llm(TOOLS)
    reply = answer(TOOLS)
    assert words.response == answer(WORDS).text
    assert words.content_blocks is None
    assert tools.response == ""
    assert reply.tool_call is not None
    assert tools.content_blocks == [
        {"type": "tool_call", "id": reply.tool_call.id, "name": reply.tool_call.name, "args": reply.tool_call.arguments}
    ]
    assert tools.tokens == {"input": reply.prompt_tokens, "output": reply.completion_tokens}


async def test_client_raises_if_the_endpoint_refuses(client: EndpointClient) -> None:
    with pytest.raises(RuntimeError, match="answered 404: The model `none` does not exist"):
        await client.call_llm({**WORDS, "model": "none"})
