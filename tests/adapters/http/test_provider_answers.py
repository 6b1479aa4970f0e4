"""Answers of the provider server, which the official SDKs read too: their text, their end, which are complete."""

from __future__ import annotations

import urllib.request
from typing import Any, Final

import pytest

from tests.adapters.http.exchanges import BODIES, api, encoded
from tests.providers import ProviderServer, Script, ToolCall
from tiercache.adapters.http.answer import Answer
from tiercache.adapters.http.apis.sse import Scanner, events

MODELS: Final = {"chat": "gpt-4o", "responses": "gpt-4o", "messages": "gpt-4o", "gemini": "gemini-3.8-flash"}
PATHS: Final = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
}
each_api = pytest.mark.parametrize("name", MODELS)


def asked(server: ProviderServer, name: str, *, stream: str = "") -> bytes:
    """Return the body of the server's answer; ``stream`` is "", "events", or "array" for Gemini."""
    path, body = PATHS.get(name, ""), dict(BODIES[name])
    if name == "gemini":
        method = "streamGenerateContent" if stream else "generateContent"
        path = f"/v1beta/models/{MODELS[name]}:{method}{'?alt=sse' if stream == 'events' else ''}"
    else:
        body["model"] = MODELS.get(name, "text-embedding-3-small")
        if stream:
            body["stream"] = True
    if name == "chat" and stream:
        body["stream_options"] = {"include_usage": True}
    headers = {"content-type": "application/json", "authorization": "Bearer k", "x-api-key": "k"}
    sent = urllib.request.Request(server.url + path, encoded(body), headers, method="POST")
    with urllib.request.urlopen(sent, timeout=30) as response:
        read: bytes = response.read()
        assert response.headers["content-type"].startswith("text/event-stream" if stream == "events" else "application")
        return read


def scanned(name: str, body: bytes) -> Scanner:
    scanner = Scanner(api(name))
    scanner.feed(body)
    scanner.end()
    return scanner


def streamed(name: str, body: bytes) -> Answer:
    return api(name).read_events(events(body))


SCRIPTS: Final[dict[str, tuple[dict[str, Any], bool]]] = {
    "parts": ({"parts": ("Zürich ", "is", " nice")}, True),
    "tool": ({"tool_calls": (ToolCall(name="weather", arguments={"city": "Zürich"}),)}, True),
    "length": ({"parts": ("Zürich", " is"), "finish": "length"}, False),
    "content_filter": ({"parts": ("Zürich", " is"), "finish": "content_filter"}, False),
    "refusal": ({"parts": ("No", "."), "finish": "refusal"}, False),
}


@each_api
@pytest.mark.parametrize("script", SCRIPTS)
def test_answer_of_a_provider_is_complete_if_its_script_is(provider: ProviderServer, name: str, script: str) -> None:
    options, is_complete = SCRIPTS[script]
    provider.enqueue(*[Script(**options)] * 2)
    whole = api(name).read_whole(asked(provider, name))
    body = asked(provider, name, stream="events")
    answer = streamed(name, body)
    assert whole.is_complete is answer.is_complete is is_complete
    assert scanned(name, body).is_over
    assert not scanned(name, body).is_failed
    if script in ("parts", "length"):
        assert whole.text == answer.text == "".join(options["parts"])
    assert whole.model == answer.model == MODELS[name]
    assert whole.tokens is not None
    assert answer.tokens is not None
    # The server counts the length of the body as its input.
    assert whole.tokens.keys() == answer.tokens.keys() == {"input", "output"}
    assert whole.tokens["output"] == answer.tokens["output"]
    assert whole.finish == answer.finish


def test_answer_of_gemini_as_an_array_equals_that_of_its_events(provider: ProviderServer) -> None:
    provider.enqueue(*[Script(parts=("Zürich ", "is"))] * 2)
    array = api("gemini").read_whole(asked(provider, "gemini", stream="array"))
    assert array == streamed("gemini", asked(provider, "gemini", stream="events"))
    assert (array.text, array.is_complete) == ("Zürich is", True)


def test_answer_of_embeddings_of_a_provider_is_complete(provider: ProviderServer) -> None:
    answer = api("embeddings").read_whole(asked(provider, "embeddings"))
    assert answer.is_complete
    assert answer.tokens is not None


@each_api
def test_answer_of_a_provider_that_breaks_off_is_not_complete(provider: ProviderServer, name: str) -> None:
    provider.enqueue(Script(error_after=2), Script(omits_terminal=True))
    failed = asked(provider, name, stream="events")
    assert scanned(name, failed).is_failed
    assert not streamed(name, failed).is_complete
    cut_off = asked(provider, name, stream="events")
    assert not scanned(name, cut_off).is_over
    assert not streamed(name, cut_off).is_complete
