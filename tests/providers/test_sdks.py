"""The official clients read the answers of the provider server: whole and streamed, from plain code and coroutines."""

from __future__ import annotations

import gc
import json
import traceback

import pytest

from tests.providers import ProviderServer, Script
from tests.providers.sdks import (
    APIS,
    ASK,
    WEATHER,
    anthropic_client,
    chat,
    close,
    items_of,
    openai_client,
    responses,
    text_of_chat,
)

every_api = pytest.mark.parametrize("api", APIS)
both_forms = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@every_api
@both_forms
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
async def test_provider_answers_in_the_form_of_the_sdk(
    provider: ProviderServer, api: str, stream: bool, is_async: bool
) -> None:
    make, call, text_of = APIS[api]
    client = make(provider, is_async=is_async)
    for number in (1, 2):
        items = await items_of(call(client, stream))
        for item in items:
            # The SDKs read fields that are missing or wrong without an error; their models find them.
            type(item).model_validate(item.model_dump(by_alias=True, exclude_unset=True))
        assert text_of(items) == f"Answer {number}: part 1 part 2 part 3 part 4"
    await close(client)
    await provider.until(lambda: not provider.open_requests)
    assert [(c.outcome, c.is_stream) for c in provider.calls] == [("answered", stream)] * 2
    await provider.until(lambda: provider.open_connection_count == 0)


@every_api
@both_forms
async def test_provider_answers_with_a_tool_call(provider: ProviderServer, api: str, stream: bool) -> None:
    make, call, _ = APIS[api]
    client = make(provider, is_async=True)
    provider.enqueue(Script(tool_calls=(WEATHER,)))
    items = await items_of(call(client, stream))
    await close(client)
    if api == "chat":
        parts = [c.delta if stream else c.message for item in items for c in item.choices]
        functions = [tool.function for part in parts for tool in part.tool_calls or []]
        found = (functions[0].name, json.loads("".join(function.arguments for function in functions)))
        assert items[-1].choices[0].finish_reason == "tool_calls"
    elif api == "responses":
        item = (items[-1].response if stream else items[0]).output[0]
        found = (item.name, json.loads(item.arguments))
    elif api == "messages" and stream:
        text = "".join(item.delta.partial_json for item in items if item.type == "content_block_delta")
        found = (items[1].content_block.name, json.loads(text))
    elif api == "messages":
        found = (items[0].content[0].name, items[0].content[0].input)
        assert items[0].stop_reason == "tool_use"
    else:
        tool = items[0].function_calls[0]
        found = (tool.name, tool.args)
    assert found == (WEATHER.name, WEATHER.arguments)


@every_api
@both_forms
@pytest.mark.parametrize("finish", ["length", "content_filter", "refusal"])
async def test_provider_ends_answer_for_the_scripted_reason(
    provider: ProviderServer, api: str, stream: bool, finish: str
) -> None:
    make, call, _ = APIS[api]
    client = make(provider, is_async=True)
    provider.enqueue(Script(finish=finish))
    items = await items_of(call(client, stream))
    await close(client)
    reason: str
    if api == "chat":
        choices = [choice for item in items for choice in item.choices]
        reason = choices[-1].finish_reason
        if finish == "refusal":
            refusals = [(c.delta if stream else c.message).refusal or "" for c in choices]
            assert "".join(refusals).startswith("Answer 1:")
            reason = "refusal"
    elif api == "responses":
        response = items[-1].response if stream else items[0]
        details = response.incomplete_details
        reason = details.reason if details else response.output[0].content[0].type
        assert response.status == ("completed" if finish == "refusal" else "incomplete")
    elif api == "messages":
        reason = items[-2].delta.stop_reason if stream else items[0].stop_reason
    else:
        reason = items[-1].candidates[0].finish_reason.value
    words = {
        "responses": {"length": "max_output_tokens"},
        "messages": {"length": "max_tokens", "content_filter": "refusal"},
        "gemini": {"length": "MAX_TOKENS", "content_filter": "SAFETY", "refusal": "PROHIBITED_CONTENT"},
    }
    assert reason == words.get(api, {}).get(finish, finish)


@both_forms
async def test_provider_fails_response(provider: ProviderServer, stream: bool) -> None:
    client = openai_client(provider, is_async=True)
    provider.enqueue(Script(finish="failed"))
    last = (await items_of(responses(client, stream)))[-1]
    await close(client)
    response = last.response if stream else last
    assert (response.status, response.error.code) == ("failed", "server_error")
    assert not stream or last.type == "response.failed"


@every_api
@both_forms
async def test_provider_counts_tokens(provider: ProviderServer, api: str, stream: bool) -> None:
    make, call, _ = APIS[api]
    client = make(provider, is_async=True)
    more = {"stream_options": {"include_usage": True}} if api == "chat" and stream else {}
    items = await items_of(call(client, stream, **more))
    await close(client)
    last = items[-1]
    if api == "messages" and stream:
        last = items[-2]
    elif api == "responses" and stream:
        last = last.response
    elif api == "gemini":
        last = last.usage_metadata
    counted = {"chat": "completion_tokens", "gemini": "candidates_token_count"}.get(api, "output_tokens")
    assert getattr(last if api == "gemini" else last.usage, counted) == 5
    if api == "chat" and stream:
        assert not last.choices


async def test_provider_streams_no_usage_without_include_usage(provider: ProviderServer) -> None:
    client = openai_client(provider, is_async=True)
    items = await items_of(chat(client, True))
    await close(client)
    assert all(item.usage is None and item.choices for item in items)


async def test_provider_streams_every_choice(provider: ProviderServer) -> None:
    client = openai_client(provider, is_async=True)
    whole = await items_of(chat(client, False, n=3))
    chunks = await items_of(chat(client, True, n=3))
    await close(client)
    assert [choice.index for choice in whole[0].choices] == [0, 1, 2]
    texts = [text_of_chat([chunk for chunk in chunks if chunk.choices[0].index == n]) for n in range(3)]
    assert texts == ["Answer 2: part 1 part 2 part 3 part 4"] * 3


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_provider_embeds(provider: ProviderServer, encoding: str | None) -> None:
    client = openai_client(provider, is_async=True)
    more = {} if encoding is None else {"encoding_format": encoding}
    for _ in range(2):
        await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=4, **more)
    answer = await client.embeddings.create(model="text-embedding-3-small", input="a", **more)
    await close(client)
    if encoding != "base64":
        assert len(answer.data[0].embedding) == 8
        assert all(-1 <= number <= 1 for number in answer.data[0].embedding)
    assert provider.call_count == 3


async def test_provider_answers_deployment_of_azure(provider: ProviderServer) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    client = openai.AsyncAzureOpenAI(azure_endpoint=provider.url, api_key="k", api_version="2025-01-01")
    answer = (await items_of(chat(client, False)))[0]
    text = text_of_chat(await items_of(chat(client, True)))
    await close(client)
    assert (answer.model, text[:9]) == ("gpt-4o", "Answer 2:")
    assert provider.calls[0].path == "/openai/deployments/gpt-4o/chat/completions"
    assert provider.calls[0].query == "api-version=2025-01-01"


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_provider_refuses_until_the_sdk_has_repeated_its_request(provider: ProviderServer, api: str) -> None:
    make, call, text_of = APIS[api]
    client = make(provider, is_async=True)
    provider.enqueue(Script(status=429, retry_after="0.01"), Script(status=500, headers=(("retry-after-ms", "1"),)))
    assert text_of(await items_of(call(client, False))).startswith("Answer 3:")
    await close(client)
    assert provider.call_count == 3


@every_api
async def test_provider_answers_with_error_that_the_sdk_raises(provider: ProviderServer, api: str) -> None:
    make, call, _ = APIS[api]
    client = make(provider, is_async=True)
    provider.script = Script(status=400, message="This request is bad.")
    with pytest.raises(Exception, match=r"This request is bad\."):
        await items_of(call(client, False))
    await close(client)
    assert provider.call_count == 1


@every_api
async def test_provider_sends_error_event_that_the_sdk_raises(provider: ProviderServer, api: str) -> None:
    make, call, _ = APIS[api]
    client = make(provider, is_async=True)
    provider.enqueue(Script(error_after=2, message="The model is overloaded."))
    if api == "responses":  # This SDK reports the error as the last item of the stream.
        last = (await items_of(call(client, True)))[-1]
        assert (last.type, last.message) == ("error", "The model is overloaded.")
    else:
        # A cycle holds the generators of the SDK, one inside another. Python 3.11 closes those of a cycle all at once,
        # and an inner one may then be running when its outer one closes it. So the frames that hold them are cleared
        # before the collector looks.
        gc.disable()
        try:
            with pytest.raises(Exception, match=r"The model is overloaded\.") as failure:
                await items_of(call(client, True))
            traceback.clear_frames(failure.tb)
            del failure
        finally:
            gc.enable()
    await close(client)
    assert provider.calls[0].parts_sent == 2


@every_api
async def test_provider_dies_and_the_sdk_raises(provider: ProviderServer, api: str) -> None:
    make, call, _ = APIS[api]
    client = make(provider, is_async=True)
    provider.enqueue(Script(dies_after=2))
    with pytest.raises(Exception) as failure:  # noqa: PT011 - Each SDK raises another error.
        await items_of(call(client, True))
    name = type(failure.value).__name__
    del failure
    await close(client)
    assert name in ("ReadError", "APIConnectionError", "ClientOSError", "ClientPayloadError")
    assert provider.calls[0].outcome == "died"


async def test_provider_lists_models(provider: ProviderServer) -> None:
    client = openai_client(provider, is_async=True)
    assert (await client.models.list()).data[0].id == "gpt-4o"
    await close(client)


async def test_provider_counts_tokens_of_anthropic_message(provider: ProviderServer) -> None:
    client = anthropic_client(provider, is_async=True)
    assert (await client.messages.count_tokens(**ASK)).input_tokens > 0
    await close(client)
