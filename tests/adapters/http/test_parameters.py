"""Every documented parameter of each API: two requests that differ only in it share no key, or the docs say why.

The SDKs' own types say which parameters there are. Without an SDK, ``PARAMETERS`` has to suffice.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from types import ModuleType
from typing import Any, Final

import pytest

from tests.adapters.http.exchanges import BODIES, WHOLE, altered, encoded, key_of, request
from tests.adapters.http.page import BYPASSED, LEFT_OUT, OWN_TOOLS, table
from tests.adapters.http.parameters import GEMINI_CONFIG, HEADERS, NOT_SENT, PARAMETERS
from tiercache.adapters.http.apis import APIS
from tiercache.adapters.http.request_key import KEY_HEADERS, ModelRequest, RequestKey, RequestKeys

HEADER: Final = "header:"
EACH: Final = [(api, parameter) for api, parameters in PARAMETERS.items() for parameter in parameters]
each_parameter = pytest.mark.parametrize(("api", "parameter"), EACH)


def with_parameter(api: str, parameter: str, value: object) -> ModelRequest:
    """Return a request with its least body and a parameter."""
    if parameter.startswith(HEADER):
        return request(api, headers={parameter.removeprefix(HEADER): str(value)})
    body: dict[str, Any] = json.loads(encoded(BODIES[api]))
    place = body
    *outer, last = parameter.split(".")
    for name in outer:
        place = place.setdefault(name, {})
    place[last] = value
    return request(api, body)


def key(made: ModelRequest) -> RequestKey:
    found = RequestKeys().of(made)
    assert found is not None
    return found


def variants(api: str, parameter: str) -> list[ModelRequest]:
    """Return requests that differ in one parameter only: without it, and with each of its values."""
    first, second = PARAMETERS[api][parameter]
    return [request(api), with_parameter(api, parameter, first), with_parameter(api, parameter, second)]


@each_parameter
def test_requests_that_differ_in_one_parameter_share_no_key_unless_the_docs_say_why(api: str, parameter: str) -> None:
    digests = [key(altered(made, stateful=True)).digest for made in variants(api, parameter)]
    assert all(len(digest) == 64 for digest in digests)
    for one, other in combinations(digests, 2):
        assert (one == other) is ((api, parameter) in LEFT_OUT)


@each_parameter
def test_requests_with_a_parameter_bypass_the_cache_if_the_docs_say_so(api: str, parameter: str) -> None:
    plain, first, second = (key(made) for made in variants(api, parameter))
    assert plain.bypass is None
    bypassed = [made for made in (first, second) if made.bypass is not None]
    assert bool(bypassed) is ((api, parameter) in BYPASSED)
    for made in bypassed:
        assert made.digest == ""
        # The reason names the parameter, or says it in a word.
        assert made.bypass in (parameter.rpartition(".")[2], "audio")


@pytest.mark.parametrize(
    ("api", "parameter"),
    [
        ("chat", "web_search_options"),
        ("chat", "search_parameters"),
        ("responses", "conversation"),
        ("messages", "container"),
        ("gemini", "outputConfig"),
    ],
)
def test_an_empty_object_bypasses_the_cache_and_an_empty_list_does_not(api: str, parameter: str) -> None:
    # {} asks for a search of the web, with the defaults of the provider.
    assert key_of(api, {**BODIES[api], parameter: {}}).bypass == parameter
    for nothing in (None, False, "", []):
        assert key_of(api, {**BODIES[api], parameter: nothing}).bypass is None


def test_docs_name_only_parameters_that_the_tests_try() -> None:
    assert set(EACH) >= LEFT_OUT
    assert set(EACH) >= BYPASSED
    assert all(row[2] for row in table("API", "left out"))
    assert not LEFT_OUT & BYPASSED


def test_docs_list_exactly_the_parameters_that_the_code_leaves_out() -> None:
    # Messages also leaves out its hints for the provider's cache, at the places where the API defines them.
    left_out = {(api.name, name) for api in APIS for name in api.left_out}
    assert left_out | {("messages", "cache_control")} == LEFT_OUT


def test_docs_list_exactly_the_headers_of_the_key() -> None:
    assert [row[0].strip("`") for row in table("header", "chooses")] == list(KEY_HEADERS)
    named = {parameter.removeprefix(HEADER) for _, parameter in EACH if parameter.startswith(HEADER)}
    assert named == set(KEY_HEADERS)


def test_docs_list_exactly_the_apis() -> None:
    assert {row[0].strip("`") for row in table("API", "requests")} == {api.name for api in APIS} == set(WHOLE)


def test_stream_options_and_stream_are_in_the_key() -> None:
    for api in ("chat", "responses", "messages"):
        assert key(with_parameter(api, "stream", True)).is_stream
        assert not key(with_parameter(api, "stream", False)).is_stream


# Tools


def tool_of(api: str, kind: str) -> dict[str, Any]:
    """Return a tool of a kind."""
    if api == "gemini":
        return {kind: {}}
    return {"type": kind.replace("*", "20260101"), "name": "f", "tools": [{"type": "function", "name": "g"}]}


def with_tools(api: str, *tools: object) -> RequestKey:
    return key_of(api, {**BODIES[api], "tools": list(tools)})


@pytest.mark.parametrize(("api", "kind"), sorted(OWN_TOOLS))
def test_tools_that_the_program_runs_do_not_bypass_the_cache(api: str, kind: str) -> None:
    assert with_tools(api, tool_of(api, kind)).bypass is None
    assert with_tools(api, tool_of(api, kind)).digest != with_tools(api).digest


HOSTED: Final = {
    "chat": ["web_search", "browser_search", "code_interpreter", "builtin_function", "a_new_tool"],
    "responses": [
        "web_search", "web_search_preview", "web_search_2025_08_26", "file_search", "computer", "computer_use_preview",
        "code_interpreter", "mcp", "image_generation", "local_shell", "shell", "tool_search",
        "programmatic_tool_calling", "a_new_tool",
    ],
    "messages": [
        "web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "mcp_toolset", "advisor_20260301",
        "tool_search_tool_bm25_20251119", "tool_search_tool_regex", "a_new_tool",
    ],
    "gemini": [
        "googleSearch", "google_search", "urlContext", "codeExecution", "googleSearchRetrieval", "retrieval",
        "fileSearch", "googleMaps", "enterpriseWebSearch", "mcpServers", "exaAiSearch", "parallelAiSearch", "aNewTool",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("api", "kind"), [(api, kind) for api, kinds in HOSTED.items() for kind in kinds])
def test_tools_of_the_provider_bypass_the_cache(api: str, kind: str) -> None:
    tool, own = tool_of(api, kind), tool_of(api, next(own for name, own in sorted(OWN_TOOLS) if name == api))
    for tools in ([tool], [own, tool], [tool, own]):
        assert with_tools(api, *tools).bypass == "a tool of the provider"
        body = {**BODIES[api], "tools": tools}
        assert key_of(api, body, stateful=True).digest != key_of(api, stateful=True).digest


@pytest.mark.parametrize("api", ["chat", "responses", "messages", "gemini"])
@pytest.mark.parametrize("tools", ["x", 5, [None], ["x"], [[]], [{"type": 5}], [{"type": ["function"]}], {"a": 1}])
def test_tools_of_the_wrong_type_bypass_the_cache(api: str, tools: object) -> None:
    assert key_of(api, {**BODIES[api], "tools": tools}).bypass == "a tool of the provider"


@pytest.mark.parametrize("api", ["chat", "responses", "messages", "gemini"])
@pytest.mark.parametrize("tools", [None, []])
def test_no_tools_do_not_bypass_the_cache(api: str, tools: object) -> None:
    assert key_of(api, {**BODIES[api], "tools": tools}).bypass is None


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", {"input": [{"type": "additional_tools", "tools": [{"type": "web_search"}]}]}),
        ("responses", {"input": [{"type": "tool_search_output", "tools": [{"type": "mcp"}]}]}),
        ("responses", {"input": [{"type": "a_new_item", "tools": "x"}]}),
        ("responses", {"tools": [{"type": "namespace", "tools": [{"type": "web_search"}]}]}),
        ("responses", {"tools": [{"type": "namespace", "tools": [{"type": "namespace", "tools": []}]}]}),
        ("responses", {"tools": [{"type": "namespace"}]}),
        (
            "messages",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_addition",
                                "tool": {"type": "tool_definition", "definition": {"type": "web_search_20250305"}},
                            }
                        ],
                    }
                ]
            },
        ),
    ],
)
def test_tools_of_the_provider_in_the_middle_of_a_request_bypass_the_cache(api: str, body: dict[str, Any]) -> None:
    assert key_of(api, {**BODIES[api], **body}).bypass == "a tool of the provider"


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("responses", {"input": [{"type": "additional_tools", "tools": [{"type": "function", "name": "f"}]}]}),
        ("responses", {"input": [5, "x", None]}),
        ("responses", {"prompt": {"id": "pmpt_1", "version": "3"}}),
        (
            "messages",
            {
                "messages": [
                    5,
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}},
                            {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"name": "f"}}},
                        ],
                    },
                ]
            },
        ),
        ("chat", {"tools": [{"function": {"name": "f"}}]}),
        ("chat", {"store": False, "plugins": [], "modalities": "text"}),
        ("chat", {"model": "sonarqube-helper"}),
        ("responses", {"model": "my-compound-model:onlineish"}),
        ("gemini", {"tools": {"functionDeclarations": []}}),
    ],
)
def test_requests_without_state_do_not_bypass_the_cache(api: str, body: dict[str, Any]) -> None:
    assert key_of(api, {**BODIES[api], **body}).bypass is None


@pytest.mark.parametrize(
    ("api", "body", "reason"),
    [
        ("responses", {"prompt": {"id": "pmpt_1"}}, "prompt without a version"),
        ("responses", {"prompt": {"id": "pmpt_1", "version": None}}, "prompt without a version"),
        ("responses", {"prompt": "pmpt_1"}, "prompt without a version"),
        ("chat", {"model": "gpt-4o-search-preview-2025-03-11"}, "the model searches the web"),
        ("chat", {"model": "gpt-5-search-api"}, "the model searches the web"),
        ("chat", {"model": "openai/gpt-4o:online"}, "the model searches the web"),
        ("chat", {"model": "sonar"}, "the model searches the web"),
        ("chat", {"model": "perplexity/sonar-pro"}, "the model searches the web"),
        ("chat", {"model": "compound-beta-mini"}, "the model searches the web"),
        ("responses", {"model": "groq/compound"}, "the model searches the web"),
        ("gemini", {"cached_content": "x"}, "cachedContent"),
        ("gemini", {"generation_config": {"response_modalities": ["audio"]}}, "audio"),
        ("gemini", {"generationConfig": {"responseModalities": "AUDIO"}}, "audio"),
        ("gemini", {"output_config": {"x": 1}}, "outputConfig"),
    ],
)
def test_requests_with_state_bypass_the_cache(api: str, body: dict[str, Any], reason: str) -> None:
    assert key_of(api, {**BODIES[api], **body}).bypass == reason
    assert key_of(api, {**BODIES[api], **body}, stateful=True).digest


# The SDKs


def sdk(name: str) -> ModuleType:
    """Return a module of an SDK; without the SDK, skip the test."""
    return pytest.importorskip(name, reason=f"{name} is not installed: its own list of parameters cannot be compared")


def options_of(method: Callable[..., Any]) -> set[str]:
    """Return the parameters that a method of an SDK sends."""
    of_the_sdk = {"self", "extra_headers", "extra_query", "extra_body", "timeout", "text_format"}
    return set(inspect.signature(method).parameters) - of_the_sdk


def known(api: str) -> set[str]:
    return {HEADERS_BACK.get(parameter, parameter) for parameter in PARAMETERS[api]}


HEADERS_BACK: Final = {header: name for name, header in HEADERS.items()}


@pytest.mark.parametrize(
    ("api", "module", "kinds"),
    [
        (
            "chat",
            "openai.types.chat.completion_create_params",
            ["CompletionCreateParamsStreaming", "CompletionCreateParamsNonStreaming"],
        ),
        (
            "responses",
            "openai.types.responses.response_create_params",
            ["ResponseCreateParamsStreaming", "ResponseCreateParamsNonStreaming"],
        ),
        ("embeddings", "openai.types.embedding_create_params", ["EmbeddingCreateParams"]),
        (
            "messages",
            "anthropic.types.message_create_params",
            ["MessageCreateParamsStreaming", "MessageCreateParamsNonStreaming"],
        ),
        (
            "messages",
            "anthropic.types.beta.message_create_params",
            ["MessageCreateParamsStreaming", "MessageCreateParamsNonStreaming"],
        ),
    ],
)
def test_sdk_knows_no_parameter_that_the_table_lacks(api: str, module: str, kinds: list[str]) -> None:
    sdk(module.partition(".")[0])
    types = importlib.import_module(module)
    for kind in kinds:
        found = set(typing.get_type_hints(getattr(types, kind)))
        assert len(found) >= 5
        assert found <= known(api), f"{found - known(api)}: add it to the table, and decide whether it counts"


@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("chat", "openai.resources.chat.completions.AsyncCompletions"),
        ("responses", "openai.resources.responses.AsyncResponses"),
        ("embeddings", "openai.resources.embeddings.AsyncEmbeddings"),
        ("messages", "anthropic.resources.messages.AsyncMessages"),
        ("messages", "anthropic.resources.beta.messages.AsyncMessages"),
    ],
)
def test_sdk_method_has_no_parameter_that_the_table_lacks(api: str, path: str) -> None:
    sdk(path.partition(".")[0])
    module, _, name = path.rpartition(".")
    found = options_of(getattr(importlib.import_module(module), name).create)
    assert len(found) >= 5
    assert found <= known(api), f"{found - known(api)}: add it to the table, and decide whether it counts"


def test_gemini_sdk_knows_no_field_that_the_table_lacks() -> None:
    types = sdk("google.genai.types")
    fields = set(types.GenerateContentConfig.model_fields) - NOT_SENT
    lacking = {name for name in fields if gemini_place(name) not in PARAMETERS["gemini"]}
    assert len(fields) > 20
    assert not lacking, "add them to the table, and decide whether they count"


def gemini_place(field: str) -> str:
    """Return the place in the body of a field of ``GenerateContentConfig``."""
    head, *rest = field.split("_")
    return GEMINI_CONFIG.get(field) or f"generationConfig.{head}{''.join(word.capitalize() for word in rest)}"


def literals(annotation: object) -> Iterator[str]:
    """Yield the types of the tools in a union of an SDK."""
    for each in typing.get_args(annotation) or (annotation,):
        hint = typing.get_type_hints(each).get("type")
        yield from _texts(hint) if hint is not None else ()


def _texts(hint: object) -> Iterator[str]:
    for argument in typing.get_args(hint):
        if isinstance(argument, str):
            yield argument
        else:
            yield from _texts(argument)


@pytest.mark.parametrize(
    ("api", "module", "union"),
    [
        ("chat", "openai.types.chat.chat_completion_tool_union_param", "ChatCompletionToolUnionParam"),
        ("responses", "openai.types.responses.tool_param", "ToolParam"),
        ("messages", "anthropic.types.tool_union_param", "ToolUnionParam"),
        ("messages", "anthropic.types.beta.beta_tool_union_param", "BetaToolUnionParam"),
    ],
)
def test_sdk_knows_no_tool_that_the_tests_do_not_try(api: str, module: str, union: str) -> None:
    sdk(module.partition(".")[0])
    kinds = set(literals(getattr(importlib.import_module(module), union)))
    assert len(kinds) >= 2
    own = tuple(kind.removesuffix("*") for name, kind in OWN_TOOLS if name == api)
    for kind in kinds:
        is_own = kind in own or (api == "messages" and kind.startswith(own))
        assert (with_tools(api, tool_of(api, kind)).bypass is None) is is_own
        assert is_own or any(kind.split("_20")[0] == hosted.split("_20")[0] for hosted in HOSTED[api]), kind


def test_gemini_sdk_knows_no_tool_that_the_tests_do_not_try() -> None:
    types = sdk("google.genai.types")
    tried = {kind.lower() for kind in HOSTED["gemini"]} | {kind.lower() for name, kind in OWN_TOOLS if name == "gemini"}
    assert {name.replace("_", "") for name in types.Tool.model_fields} <= tried


# The requests that the SDKs send


class Sent(Exception):  # noqa: N818 - it ends a call, and is no error.
    """A request that an SDK has sent."""

    def __init__(self, made: ModelRequest) -> None:
        self.request = made


def http_library(sdk_class: type) -> ModuleType:
    """Return the HTTP library that a client class of an SDK builds on: ``httpx`` or ``httpx2``."""
    names = [each.__module__.partition(".")[0] for each in sdk_class.__mro__]
    return importlib.import_module(next(name for name in names if name.startswith("httpx")))


def transport_of(library: Any) -> Any:
    """Return a transport that raises each request as ``Sent``."""

    def send(made: Any) -> Any:
        headers = {name.lower(): value for name, value in made.headers.items()}
        raise Sent(ModelRequest(made.method, str(made.url), headers, made.read()))

    return library.MockTransport(send)


def sent_by(call: Callable[[], object]) -> ModelRequest:
    """Return the request that a call of an SDK sends."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - The SDK may wrap it in an error of its own.
        call()
    error: BaseException | None = raised.value
    while error is not None and not isinstance(error, Sent):
        error = error.__cause__ or error.__context__
    assert isinstance(error, Sent), raised.value
    return error.request


def openai_call(api: str, **options: Any) -> ModelRequest:
    openai = sdk("openai")
    library = http_library(openai.DefaultHttpxClient)
    client = openai.OpenAI(
        api_key="x", max_retries=0, http_client=openai.DefaultHttpxClient(transport=transport_of(library))
    )
    methods = {"chat": client.chat.completions, "responses": client.responses, "embeddings": client.embeddings}
    return sent_by(lambda: methods[api].create(**options))


def anthropic_call(_: str, **options: Any) -> ModelRequest:
    anthropic = sdk("anthropic")
    library = http_library(anthropic.DefaultHttpxClient)
    client = anthropic.Anthropic(
        api_key="x", max_retries=0, http_client=anthropic.DefaultHttpxClient(transport=transport_of(library))
    )
    return sent_by(lambda: client.beta.messages.create(**options))


CALLS: Final[Mapping[str, Callable[..., ModelRequest]]] = {
    "chat": openai_call,
    "responses": openai_call,
    "embeddings": openai_call,
    "messages": anthropic_call,
}


@pytest.mark.parametrize("api", CALLS)
def test_requests_that_an_sdk_sends_with_different_options_share_no_key_unless_the_docs_say_why(api: str) -> None:
    call = CALLS[api]
    path = {
        "messages": "anthropic.resources.beta.messages.AsyncMessages",
        "chat": "openai.resources.chat.completions.AsyncCompletions",
        "responses": "openai.resources.responses.AsyncResponses",
        "embeddings": "openai.resources.embeddings.AsyncEmbeddings",
    }[api]
    sdk(path.partition(".")[0])
    module, _, name = path.rpartition(".")
    options = options_of(getattr(importlib.import_module(module), name).create)
    least = dict(BODIES[api])
    plain = key(altered(call(api, **least), stateful=True))
    for option in sorted(options - {"output_format"}):  # Takes a class of pydantic in some versions.
        parameter = HEADERS.get(option, option)
        first, second = PARAMETERS[api][parameter]
        if option == "betas":
            first, second = first.split(","), second.split(",")
        digests = {
            key(altered(call(api, **{**least, option: value}), stateful=True)).digest for value in (first, second)
        }
        if (api, parameter) in LEFT_OUT:
            assert digests == {plain.digest}, option
        else:
            # The request without a parameter may be that with one of its values, which the SDK sends by default.
            assert len(digests) == 2, option


@pytest.mark.parametrize("vertexai", [False, True])
def test_requests_that_the_gemini_sdk_sends_with_different_fields_share_no_key_unless_the_docs_say_why(
    vertexai: bool,
) -> None:
    types = sdk("google.genai.types")
    fields = sorted(set(types.GenerateContentConfig.model_fields) - NOT_SENT)
    plain, made = gemini_calls(vertexai, {field: PARAMETERS["gemini"][gemini_place(field)] for field in fields})
    # A client that is collected later would start a task in the loop of another test.
    gc.collect()
    assert key(plain).model == "m"
    # Each service refuses some fields of the other.
    assert len(made) > len(fields) - 8
    for field, requests in made.items():
        place = gemini_place(field)
        assert all(is_at(place, json.loads(each.body)) for each in requests), field
        digests = {key(each).digest for each in requests}
        # The SDK sends an empty ``generationConfig`` with a field that belongs elsewhere.
        assert len(digests) == (1 if ("gemini", place) in LEFT_OUT else 2), field
        assert key(plain).digest not in digests


def gemini_calls(
    vertexai: bool, fields: Mapping[str, tuple[Any, Any]]
) -> tuple[ModelRequest, dict[str, list[ModelRequest]]]:
    """Return the request without fields, and the requests with each field that the SDK does not refuse."""
    genai, types = sdk("google.genai"), sdk("google.genai.types")
    library = pytest.importorskip("httpx")
    with library.Client(transport=transport_of(library)) as http_client:
        client = genai.Client(api_key="x", vertexai=vertexai, http_options=types.HttpOptions(httpx_client=http_client))

        def sent(**config: Any) -> ModelRequest:
            made = sent_by(lambda: client.models.generate_content(model="m", contents="hi", config=config))
            return altered(made, stateful=True)

        made: dict[str, list[ModelRequest]] = {}
        for field, values in fields.items():
            with contextlib.suppress(AssertionError):
                made[field] = [sent(**{field: value}) for value in values]
        return sent(), made


def is_at(place: str, body: Any) -> bool:
    """Return whether a body has something at a place."""
    for name in place.split("."):
        if not isinstance(body, dict) or name not in body:
            return False
        body = body[name]
    return True
