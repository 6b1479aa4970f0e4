"""Two forms of one request, requests that depend on state at the provider, and arguments that are wrong."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import pytest
from anthropic.types import Message
from openai import NOT_GIVEN, omit
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from tests.adapters.http.exchanges import BODIES
from tests.adapters.http.page import BYPASSED, LEFT_OUT
from tests.adapters.http.parameters import PARAMETERS
from tests.adapters.params.contents import HI, call, calling, function_call, image, put, text, use, user
from tests.adapters.params.corpus import APIS, key_of, prepare
from tiercache import AgentCache, UsageError, last_user_turn
from tiercache.adapters import anthropic, openai, openai_responses
from tiercache.adapters.normalizer import passthrough


class Role(StrEnum):
    USER = "user"


class Weather(BaseModel):
    city: str


class Wind(BaseModel):
    city: str
    speed: int = 1


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {**BODIES["chat"], "messages": list(messages), **more}


def responses(given: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "input": given, **more}


def said(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def turns(*messages: Any, **more: Any) -> dict[str, Any]:
    return {**BODIES["messages"], "messages": list(messages), **more}


HINT: Final = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
MESSAGE: Final = ChatCompletionMessage.construct(role="assistant", content="yes")
CALLED: Final = ResponseFunctionToolCall.construct(**function_call())
SAID: Final = Message.construct(role="assistant", content=[text("yes")]).content
# (API, request, the same request in another form)
FORMS: Final[list[tuple[str, Any, Any]]] = [
    ("chat", chat(HI), chat(user(text("hi")))),
    ("chat", chat(HI), chat({**HI, "name": None}, temperature=None, n=None, tools=None)),
    ("chat", chat(HI), chat(HI, temperature=1, top_p=1)),
    ("chat", chat(HI), chat(HI, n=NOT_GIVEN, tools=omit)),
    ("chat", chat(HI), chat({**HI, "role": Role.USER})),
    ("chat", chat(HI), {**chat(), "messages": (HI,)}),
    ("chat", chat(HI), chat(HI, timeout=5, extra_headers={"authorization": "x"}, extra_query={"key": "x"})),
    ("chat", chat(HI, top_k=5), chat(HI, extra_body={"top_k": 5})),
    ("chat", chat(HI, stop="a"), chat(HI, stop=["a"])),
    ("chat", chat(HI, extra_headers={"OpenAI-Beta": "a"}), chat(HI, extra_headers={"openai-beta": "a"})),
    ("chat", chat(*calling(call('{"a": 1, "b": "é"}'))), chat(*calling(call('{"b":"\\u00e9","a":1}')))),
    ("chat", chat(*calling(call("{}"))), chat(*calling(call("{}"), content=None))),
    ("chat", chat(*calling(call("{}"))), chat(*calling(call("{}"), content=""))),
    ("chat", chat(said("yes")), chat(MESSAGE)),
    ("chat", chat(said("yes")), chat(said([text("yes")]))),
    ("responses", responses("hi"), responses([HI])),
    ("responses", responses([user(put("hi"))]), responses([user(put("hi"), type="message")])),
    ("responses", responses([HI, function_call()]), responses([HI, CALLED])),
    ("responses", responses("hi"), responses("hi", reasoning=None, instructions=None)),
    ("messages", turns(HI), turns(user(text("hi")))),
    ("messages", turns(HI), turns(user(text("hi", **HINT)))),
    ("messages", turns(HI), turns(HI, **HINT)),
    ("messages", turns(HI, system=[text("a")]), turns(HI, system=[text("a", **HINT)])),
    ("messages", turns(HI, tools=[{"name": "f"}]), turns(HI, tools=[{"name": "f", **HINT}])),
    ("messages", turns(said([text("yes")])), turns(said(SAID))),
    ("messages", turns(said([use()])), turns(said([use(**HINT)]))),
]  # fmt: skip


@pytest.mark.parametrize(("api", "one", "other"), FORMS)
async def test_prepared_params_of_two_forms_of_a_request_share_the_key(api: str, one: Any, other: Any) -> None:
    assert await key_of(api, one) == await key_of(api, other)


@pytest.mark.parametrize(("api", "parameter"), sorted(LEFT_OUT))
async def test_prepared_params_leave_out_parameters_as_wrapped_clients_do(api: str, parameter: str) -> None:
    if api not in APIS:
        return
    for value in PARAMETERS[api][parameter]:
        is_counted = (api, parameter) == ("chat", "prompt_cache_key")  # betterdb has it in its key.
        assert (
            await key_of(api, {**BODIES[api], parameter: value}) == await key_of(api, BODIES[api])
        ) is not is_counted


async def test_prepared_params_have_the_schema_of_a_class() -> None:
    keys = {await key_of("chat", chat(HI, response_format=kind)) for kind in (None, Weather, Wind)}
    assert len(keys) == 3


async def test_prepared_params_follow_the_messages_for_the_key_of_the_last_turn() -> None:
    first = await prepare("chat", chat({"role": "developer", "content": "a"}, HI))
    later = await prepare("chat", chat(HI, {"role": "assistant", "content": "x", "refusal": "no"}, HI))
    assert last_user_turn(first) == last_user_turn(later)


# State at the provider


@pytest.mark.parametrize(("api", "parameter"), sorted((api, name) for api, name in BYPASSED if api in APIS))
async def test_prepared_params_bypass_the_cache_where_wrapped_clients_do(api: str, parameter: str) -> None:
    value = ["audio"] if parameter == "modalities" else PARAMETERS[api][parameter][0]
    request = {**BODIES[api], parameter: value}
    for each in (request, {**BODIES[api], "extra_body": {parameter: value}}):
        prepared = await prepare(api, each)
        assert prepared.bypass in (parameter, "audio")
        assert prepared.mode == "bypass"
    assert (await prepare(api, request, stateful=True)).mode == "use"
    assert await key_of(api, request) == await key_of(api, request)


async def test_prepared_params_with_state_never_share_a_key_even_if_the_caller_forgets_the_mode() -> None:
    request = responses("go on", previous_response_id="resp_1")
    async with AgentCache.in_memory() as cache:
        for number in range(2):
            prepared = await prepare("responses", request)
            result = await cache.llm.get_or_load(prepared, lambda number=number: f"answer {number}")
            assert (result.source, result.response) == ("loader", f"answer {number}")


async def test_prepared_params_bypass_the_cache_for_a_tool_of_the_provider() -> None:
    assert (await prepare("responses", responses("hi", tools=[{"type": "web_search"}]))).mode == "bypass"
    assert (await prepare("messages", turns(HI, tools=[{"type": "web_search_20250305", "name": "w"}]))).mode == "bypass"
    assert (await prepare("chat", chat(HI, tools=[{"type": "function", "function": {"name": "f"}}]))).mode == "use"


# Wrong arguments

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("api", "request_", "reason"),
    [
        ("chat", None, "params must be a mapping of parameters, not NoneType"),
        ("chat", [], "params must be a mapping of parameters, not list"),
        ("chat", {"messages": []}, "params must have 'model'"),
        ("chat", {"model": "m"}, "params must have 'messages'"),
        ("chat", {"model": 5, "messages": []}, "params.model must be a str, not int"),
        ("chat", {"model": "", "messages": []}, "params.model must not be empty"),
        ("chat", {"model": "m", "messages": "hi"}, "params.messages must be a list, not str"),
        ("chat", {"model": "m", "messages": None}, "params.messages must be a list, not NoneType"),
        ("chat", {"model": "m", "messages": iter([HI])}, "params.messages must be a list, not list_iterator"),
        ("chat", chat(HI, 5), r"params.messages\[1\] must be a mapping, not int"),
        (
            "chat",
            chat({"role": "user", "content": 5}),
            r"params.messages\[0\].content must be a str or a list, not int",
        ),
        ("chat", chat(user("hi")), r"params.messages\[0\].content\[0\] must be a mapping, not str"),
        ("chat", chat(*calling(None)), r"params.messages\[1\].tool_calls\[0\] must be a mapping, not NoneType"),
        ("chat", chat(HI, tools={}), "params.tools must be a list, not dict"),
        ("chat", chat(HI, tools=["f"]), r"params.tools\[0\] must be a mapping, not str"),
        ("chat", chat(HI, extra_body=5), "params.extra_body must be a mapping, not int"),
        ("chat", chat(HI, logit_bias={1: 5}), "params.logit_bias has the key 1, which must be a str, not int"),
        ("chat", chat(HI, top_k=DEEP), "nested deeper than"),
        ("responses", {"input": "hi"}, "params must have 'model'"),
        ("responses", {"model": "m", "input": 5}, "params.input must be a list, not int"),
        ("responses", responses(["hi"]), r"params.input\[0\] must be a mapping, not str"),
        ("responses", responses([{"role": "user", "content": 5}]), "content must be a str or a list, not int"),
        ("messages", {"model": "m"}, "params must have 'messages'"),
        ("messages", turns(HI, system=5), "params.system must be a list, not int"),
        ("messages", turns({"role": "user", "content": 5}), "content must be a str or a list, not int"),
        ("messages", turns(user("hi")), r"content\[0\] must be a mapping, not str"),
    ],
)
async def test_prepare_params_refuses_a_wrong_part_and_names_it(api: str, request_: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        await prepare(api, request_)


@pytest.mark.parametrize("module", [openai, openai_responses, anthropic])
async def test_prepare_params_refuses_other_options(module: Any) -> None:
    with pytest.raises(UsageError, match="opts must be"):
        await module.prepare_params({}, {"normalizer": None})


class Holder(BaseModel):
    anything: Any


async def test_prepare_params_refuses_an_object_that_is_no_json_and_names_it() -> None:
    with pytest.raises(UsageError, match=r"params.messages\[0\].content\[0\] is a Holder that is no JSON"):
        await prepare("chat", chat(user(Holder(anything=object()))))


async def test_prepare_params_takes_a_plain_function_as_a_normalizer() -> None:
    request = chat(user(image("https://a.example/1.png")))
    assert await key_of("chat", request, normalizer=passthrough) == await key_of("chat", request)


async def test_prepare_params_refuses_the_result_of_a_wrong_normalizer() -> None:
    async def number(ref: Any) -> int:
        return 5

    with pytest.raises(UsageError, match="the normalizer must return a str, not int"):
        await key_of("chat", chat(user(image("https://a.example/1.png"))), normalizer=number)
