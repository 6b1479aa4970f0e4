"""The provider server: scripts, gates, deaths, hang-ups and its record of requests, by plain HTTP."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.providers import Gate, ProviderServer, Script

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
GEMINI = "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
GEMINI_ARRAY = "/v1beta/models/gemini-3.8-flash:streamGenerateContent"
AZURE = "/openai/deployments/mine/chat/completions?api-version=2025-01-01"
MESSAGE = {"role": "user", "content": "Hello"}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "gpt-4o", "messages": [MESSAGE]},
    AZURE: {"messages": [MESSAGE]},
    RESPONSES: {"model": "gpt-4o", "input": "Hello"},
    MESSAGES: {"model": "claude-sonnet-5-5", "max_tokens": 9, "messages": [MESSAGE]},
    GEMINI: {"contents": [{"parts": [{"text": "Hello"}]}]},
    GEMINI_ARRAY: {"contents": [{"parts": [{"text": "Hello"}]}]},
}
# A text of the terminal event of each stream.
TERMINAL = {
    CHAT: b"data: [DONE]\n\n",
    AZURE: b"data: [DONE]\n\n",
    RESPONSES: b"event: response.completed\n",
    MESSAGES: b"event: message_stop\n",
    GEMINI: b'"finishReason":"STOP"',
    GEMINI_ARRAY: b'"finishReason":"STOP"',
}
# A text of the event that reports an error in the middle of each stream.
ERROR = {
    CHAT: b'data: {"error":',
    RESPONSES: b'event: error\ndata: {"type":"error"',
    MESSAGES: b'event: error\ndata: {"type":"error"',
    GEMINI: b'data: {"error":',
}


class Client:
    """A plain client with one connection to a server."""

    def __init__(self, server: ProviderServer) -> None:
        self._connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)

    def send(self, path: str, params: object = None, *, method: str = "POST") -> http.client.HTTPResponse:
        """Send a request; return its answer, whose body is not read."""
        body = None if params is None else json.dumps(params)
        self._connection.request(method, path, body)
        return self._connection.getresponse()

    def ask(self, path: str) -> http.client.HTTPResponse:
        """Ask for a whole answer, or for that of a path that always streams."""
        return self.send(path, BODIES[path])

    def stream(self, path: str) -> http.client.HTTPResponse:
        """Ask for a stream."""
        return self.send(path, {**BODIES[path], "stream": True})

    def hang_up(self) -> None:
        """Close the connection."""
        self._connection.close()


@pytest.fixture
def client(provider: ProviderServer) -> Iterator[Client]:
    """Return a plain client of the server."""
    client = Client(provider)
    yield client
    client.hang_up()


def read_until(response: http.client.HTTPResponse, text: bytes) -> bytes:
    """Read a stream up to the line with ``text``; return the bytes that were read."""
    received = b""
    while text not in received:
        line = response.readline()
        assert line, received
        received += line
    return received


# Answers


@pytest.mark.parametrize("path", BODIES)
def test_provider_streams_every_part_and_then_the_terminal_event(
    provider: ProviderServer, client: Client, path: str
) -> None:
    body = client.stream(path).read()
    places = [body.find(text) for text in (b"Answer 1:", b" part 1", b" part 2", b" part 3", b" part 4")]
    assert -1 not in places
    assert [*places, body.rfind(TERMINAL[path])] == sorted([*places, body.rfind(TERMINAL[path])])
    provider.wait_until(lambda: provider.calls[0].is_eof_sent)
    assert (provider.calls[0].parts_sent, provider.calls[0].outcome) == (5, "answered")


def test_provider_streams_gemini_without_sse_as_one_array(client: Client) -> None:
    response = client.stream(GEMINI_ARRAY)
    answers = json.loads(response.read())
    assert response.headers.get_content_type() == "application/json"
    assert [answer["candidates"][0].get("finishReason") for answer in answers] == [None] * 5 + ["STOP"]


def test_provider_repeats_no_id_and_no_text(client: Client) -> None:
    answers = [json.loads(client.ask(CHAT).read()) for _ in range(2)]
    assert len({answer["id"] for answer in answers}) == 2
    assert len({answer["choices"][0]["message"]["content"] for answer in answers}) == 2


def test_provider_names_each_answer_in_its_headers(client: Client) -> None:
    headers = []
    for _ in range(2):
        response = client.ask(CHAT)
        response.read()
        headers.append(response.headers)
    assert len({each["x-request-id"] for each in headers}) == 2
    assert [each["x-ratelimit-remaining-requests"] for each in headers] == ["9998", "9997"]
    assert all("__cf_bm=" in each["set-cookie"] for each in headers)


def test_provider_answers_without_a_model_what_no_model_answers(provider: ProviderServer, client: Client) -> None:
    models = client.send("/v1/models", method="GET")
    assert json.loads(models.read())["data"][0]["id"] == "gpt-4o"
    assert client.send("/v1/files", method="GET").status == 404
    assert provider.call_count == 0
    assert [request.path for request in provider.requests] == ["/v1/models", "/v1/files"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":"gpt-4o"}', b'{"messages":[]}'])
def test_provider_refuses_malformed_request(provider: ProviderServer, body: bytes) -> None:
    connection = http.client.HTTPConnection(provider.url.removeprefix("http://"), timeout=30)
    connection.request("POST", CHAT, body)
    response = connection.getresponse()
    assert response.status == 400
    assert json.loads(response.read())["error"]["type"] == "invalid_request_error"
    connection.close()


def test_provider_reads_body_in_chunks(provider: ProviderServer) -> None:
    body = json.dumps(BODIES[CHAT]).encode()
    connection = http.client.HTTPConnection(provider.url.removeprefix("http://"), timeout=30)
    connection.request("POST", CHAT, iter([body[:9], body[9:]]), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert provider.calls[0].params == BODIES[CHAT]


# Scripts


def test_provider_takes_the_chosen_script_before_the_next_and_the_default(
    provider: ProviderServer, client: Client
) -> None:
    provider.script = Script(status=500)
    provider.enqueue(Script(status=429, retry_after="7"))
    provider.choose = lambda request: Script() if b"chosen" in request.body else None
    statuses = []
    for user in ("chosen", "queued", "other"):
        answer = client.send(CHAT, {**BODIES[CHAT], "user": user})
        answer.read()
        statuses.append((answer.status, answer.headers["retry-after"]))
    assert statuses == [(200, None), (429, "7"), (500, None)]


@pytest.mark.parametrize("path", ERROR)
def test_provider_sends_error_event_after_some_parts(provider: ProviderServer, client: Client, path: str) -> None:
    provider.enqueue(Script(error_after=2))
    body = client.stream(path).read()
    assert b" part 1" in body
    assert b" part 2" not in body
    assert ERROR[path] in body
    assert TERMINAL[path] not in body


@pytest.mark.parametrize("death", ["reset", "close"])
def test_provider_dies_after_some_parts(provider: ProviderServer, client: Client, death: Any) -> None:
    provider.enqueue(Script(dies_after=2, death=death))
    response = client.stream(CHAT)
    read_until(response, b" part 1")
    with pytest.raises(ConnectionResetError if death == "reset" else http.client.IncompleteRead):
        response.read()
    assert (provider.calls[0].outcome, provider.calls[0].parts_sent) == ("died", 2)


def test_provider_dies_in_the_middle_of_whole_answer(provider: ProviderServer, client: Client) -> None:
    provider.enqueue(Script(dies_after=0, death="close"))
    with pytest.raises(http.client.IncompleteRead):
        client.ask(CHAT).read()


@pytest.mark.parametrize("path", TERMINAL)
def test_provider_omits_the_terminal_event(provider: ProviderServer, client: Client, path: str) -> None:
    provider.enqueue(Script(omits_terminal=True))
    body = client.stream(path).read()
    assert b" part 4" in body
    assert TERMINAL[path] not in body


@pytest.mark.parametrize("path", [CHAT, GEMINI_ARRAY])
@pytest.mark.parametrize("script", [Script(gzip=True), Script(chunk_bytes=1), Script(gzip=True, chunk_bytes=1)])
def test_provider_encodes_the_same_body(provider: ProviderServer, client: Client, path: str, script: Script) -> None:
    provider.enqueue(script)
    response = client.stream(path)
    body = response.read()
    assert (response.headers["content-encoding"] == "gzip") is script.gzip
    body = gzip.decompress(body) if script.gzip else body
    assert b" part 4" in body
    assert TERMINAL[path] in body


def test_provider_compresses_whole_answer(provider: ProviderServer, client: Client) -> None:
    provider.enqueue(Script(gzip=True))
    assert json.loads(gzip.decompress(client.ask(CHAT).read()))["object"] == "chat.completion"


def test_provider_replaces_headers(provider: ProviderServer, client: Client) -> None:
    provider.enqueue(Script(headers=(("Content-Type", "text/plain"), ("x-more", "1"))))
    headers = client.ask(CHAT).headers
    assert headers.get_all("content-type") == ["text/plain"]
    assert headers["x-more"] == "1"


def test_provider_streams_20_megabytes(provider: ProviderServer, client: Client) -> None:
    provider.enqueue(Script.of_size(20_000_000))
    response = client.stream(CHAT)
    size = 0
    while data := response.read(1 << 20):
        size += len(data)
    assert size > 20_000_000
    assert provider.calls[0].parts_sent == -(-20_000_000 // 65_536)


def test_provider_delays_each_step(provider: ProviderServer, client: Client) -> None:
    provider.enqueue(Script(part_count=3, delay_head=0.02, delay_first=0.02, delay_part=0.02, delay_eof=0.02))
    begun = time.monotonic()
    client.stream(CHAT).read()
    assert time.monotonic() - begun >= 6 * 0.02
    times = [begun, *provider.calls[0].parts_sent_at]
    assert times == sorted(times)
    assert len(times) == 4


# Gates and hang-ups


@pytest.mark.parametrize(
    ("place", "parts_sent", "is_ended"), [(0, 0, False), (3, 3, False), ("ending", 5, False), ("eof", 5, True)]
)
def test_provider_holds_stream_at_gate(
    provider: ProviderServer, client: Client, place: Any, parts_sent: int, is_ended: bool
) -> None:
    gate = Gate(place)
    provider.enqueue(Script(gates=(gate,)))
    response = client.stream(CHAT)
    assert gate.held.wait(30)
    call = provider.calls[0]
    assert (call.parts_sent, call.is_ended, call.outcome) == (parts_sent, is_ended, "open")
    gate.release()
    response.read()
    provider.wait_until(lambda: call.outcome == "answered")


def test_provider_holds_head_at_gate(provider: ProviderServer, client: Client) -> None:
    gate = Gate("head")
    provider.enqueue(Script(gates=(gate,)))
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(client.ask(CHAT).read()))
    thread.start()
    assert gate.held.wait(30)
    assert not provider.calls[0].response_headers
    gate.release()
    thread.join(30)
    assert answers
    assert provider.calls[0].response_headers


@pytest.mark.parametrize("parts", [0, 2])
def test_provider_notices_hang_up(provider: ProviderServer, client: Client, parts: int) -> None:
    provider.enqueue(Script(gates=(Gate(parts),)))
    response = client.stream(CHAT)
    provider.wait_until(lambda: provider.calls[0].parts_sent == parts)
    response.close()
    client.hang_up()
    provider.wait_until(lambda: provider.hung_up)
    assert provider.hung_up == provider.calls
    assert provider.hung_up[0].parts_sent == parts
    provider.wait_until(lambda: provider.open_connection_count == 0)


def test_provider_notices_hang_up_of_client_that_does_not_read(provider: ProviderServer, client: Client) -> None:
    provider.enqueue(Script.of_size(50_000_000))
    response = client.stream(CHAT)
    provider.wait_until(lambda: provider.calls[0].parts_sent > 0)
    response.close()
    client.hang_up()
    provider.wait_until(lambda: provider.hung_up)
    assert provider.hung_up[0].parts_sent < 50_000_000 // 65_536


def test_provider_counts_no_hang_up_after_the_terminal_event(provider: ProviderServer, client: Client) -> None:
    provider.enqueue(Script(gates=(Gate("eof"),)))
    response = client.stream(CHAT)
    read_until(response, b"[DONE]")
    response.close()
    client.hang_up()
    provider.wait_until(lambda: provider.calls[0].outcome != "open")
    assert not provider.hung_up
    assert not provider.calls[0].is_eof_sent


# The record


def test_provider_keeps_connection_alive(provider: ProviderServer, client: Client) -> None:
    for path in (CHAT, RESPONSES, MESSAGES):
        client.stream(path).read()
        client.ask(path).read()
    assert provider.connection_count == provider.open_connection_count == 1
    assert provider.calls_by_path == {CHAT: 2, RESPONSES: 2, MESSAGES: 2}
    client.hang_up()
    provider.wait_until(lambda: provider.open_connection_count == 0)
    assert not provider.hung_up


def test_provider_records_query_headers_and_body(provider: ProviderServer, client: Client) -> None:
    client.ask(AZURE).read()
    call = provider.calls[0]
    assert (call.method, call.path) == ("POST", "/openai/deployments/mine/chat/completions")
    assert call.query == "api-version=2025-01-01"
    assert call.params == BODIES[AZURE]
    assert call.headers["host"] == provider.url.removeprefix("http://")


def test_provider_is_reached_by_child_process(provider: ProviderServer) -> None:
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).status)"
    run = subprocess.run(
        [sys.executable, "-c", code, f"{provider.openai_url}/models"], capture_output=True, text=True, check=True
    )
    assert run.stdout == "200\n"


async def test_provider_waits_without_blocking_the_loop(provider: ProviderServer, client: Client) -> None:
    gate = Gate(1)
    provider.enqueue(Script(gates=(gate,)))
    response = client.stream(CHAT)
    await provider.until(gate.held.is_set)
    gate.release()
    response.read()
    await provider.until(lambda: not provider.open_requests)


# The end


def test_provider_ends_with_open_streams() -> None:
    gate = Gate(1)
    with ProviderServer(Script(gates=(gate,))) as server:
        client = Client(server)
        response = client.stream(CHAT)
        assert gate.held.wait(30)
    response.close()
    client.hang_up()
    assert not server.open_requests
    assert server.open_connection_count == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "provider-server"]
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(server.url.split(":")[2]))):
        pass


def test_provider_raises_its_own_error_at_the_end() -> None:
    def choose(_: object) -> None:
        raise LookupError("a defect of the script")

    server = ProviderServer(choose=choose).__enter__()
    with pytest.raises(http.client.RemoteDisconnected):
        Client(server).ask(CHAT)
    with pytest.raises(LookupError):
        server.__exit__(None)


def test_provider_refuses_to_wait_for_an_event_that_does_not_happen(provider: ProviderServer) -> None:
    with pytest.raises(AssertionError, match="not within"):
        provider.wait_until(lambda: provider.calls, 0.01)
