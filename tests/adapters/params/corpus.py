"""The corpus: requests of each API, made of all its documented parameters and of all parts of messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from betterdb_agent_cache.adapters import anthropic as betterdb_anthropic
from betterdb_agent_cache.adapters import openai as betterdb_openai
from betterdb_agent_cache.adapters import openai_responses as betterdb_responses
from betterdb_agent_cache.utils import llm_cache_hash

from tests.adapters.http.exchanges import BODIES
from tests.adapters.http.page import LEFT_OUT
from tests.adapters.http.parameters import PARAMETERS
from tests.adapters.params.contents import SAFE, SHARED
from tiercache import AgentCache
from tiercache.adapters import anthropic, openai, openai_responses
from tiercache.adapters.params import PreparedParams

__all__ = ["APIS", "CORPUS", "Made", "betterdb_key", "key_of", "prepare"]

Prepare = Callable[..., Awaitable[PreparedParams]]

# Each API: our helper with its options, and betterdb's helper.
APIS: Final[dict[str, tuple[Prepare, Any, Any]]] = {
    "chat": (openai.prepare_params, openai.OpenAIPrepareOptions, betterdb_openai.prepare_params),
    "responses": (
        openai_responses.prepare_params,
        openai_responses.OpenAIResponsesPrepareOptions,
        betterdb_responses.prepare_params,
    ),
    "messages": (anthropic.prepare_params, anthropic.AnthropicPrepareOptions, betterdb_anthropic.prepare_params),
}
# The parameters that betterdb has in its key, in every form.
_KNOWN: Final = {
    "chat": "max_tokens messages model prompt_cache_key response_format seed stop temperature tool_choice tools top_p",
    "responses": (
        "input instructions max_output_tokens model prompt_cache_key reasoning temperature tool_choice tools top_p"
    ),
    "messages": "max_tokens messages model stop_sequences system temperature tool_choice tools top_p",
}
# Parameters of which two values are two forms of one request: see test_forms.py.
_FORMS: Final = {
    *(("chat", "stop"), ("chat", "top_p"), ("messages", "messages"), ("messages", "top_p")),
    *(("responses", "input"), ("responses", "top_p")),
}
_MORE: Final[dict[str, list[tuple[bool, dict[str, Any]]]]] = {
    "chat": [
        (True, {"temperature": 0.25, "top_p": 0.5, "max_tokens": 7, "seed": 0}),
        (True, {"temperature": 0, "seed": -1, "stop": ["a", "b"]}),
        (True, {"stop": ["b", "a"]}),
        (True, {"response_format": {"type": "json_object"}}),
        (True, {"response_format": {"type": "text"}}),
        (True, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (True, {"tool_choice": {"type": "function", "function": {"name": "g"}}}),
        (True, {"tools": []}),
        (True, {"tools": [{"type": "custom", "custom": {"name": "f"}}]}),
        (True, {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}]}),
        (True, {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}),
        (False, {"tools": [{"type": "function", "function": "f"}]}),
        (False, {"toolChoice": "auto"}),
        (False, {"responseFormat": {"type": "json_object"}}),
        (False, {"promptCacheKey": "a"}),
        (False, {"__tc_scope": "a"}),
        (False, {"tiercache": {"params": {"toolChoice": "auto"}}}),
        (False, {"min_p": 0.1, "repetition_penalty": 1.1}),
        (False, {"extra_query": {"api-version": "1"}}),
        (False, {"extra_query": {"api-version": "2"}}),
        (False, {"extra_body": {"guided_json": {}}}),
    ],
    "responses": [
        (True, {"instructions": "a", "input": [{"role": "system", "content": "b"}]}),
        (True, {"reasoning": {"effort": "minimal"}, "max_output_tokens": 20, "temperature": 0.25}),
        (False, {"reasoning": {"effort": "high", "summary": "auto"}}),
        (False, {"reasoning": {"effort": "high", "summary": "detailed"}}),
        (False, {"reasoning": {"summary": "auto"}}),
        (False, {"reasoning": {}}),
        (False, {"reasoning_effort": "high"}),
        (False, {"max_tokens": 16}),
        (False, {"messages": [{"role": "user", "content": "hi"}]}),
        (False, {"instructions": ""}),
        (True, {"input": None}),
        (False, {"text": {"format": {"type": "json_object"}}}),
        (False, {"include": []}),
    ],
    "messages": [
        (True, {"system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        (True, {"stop_sequences": ["a", "b"], "temperature": 0.25, "max_tokens": 10}),
        (True, {"tool_choice": {"type": "tool", "name": "f"}}),
        (True, {"tool_choice": {"type": "none"}}),
        (True, {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        (False, {"tool_choice": {"type": "auto"}, "thinking": {"type": "enabled", "budget_tokens": 2048}}),
        (False, {"thinking": {"type": "adaptive"}}),
        (False, {"stop": ["a"]}),
        (False, {"system": ""}),
        (False, {"system": []}),
        (False, {"system": [{"type": "text", "text": "a", "citations": [{"type": "char_location"}]}]}),
        (False, {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
        (False, {"betas": ["a-2026"]}),
    ],
}


class Made(NamedTuple):
    """A request of the corpus.

    Attributes:
        is_shared: Whether betterdb ignores and merges nothing of it, so that its key must be betterdb's.
    """

    api: str
    name: str
    request: dict[str, Any]
    is_shared: bool


def _conversation(api: str, content: Any) -> dict[str, Any]:
    return {**BODIES[api], ("input" if api == "responses" else "messages"): content}


def _with(api: str, parameter: str, value: Any) -> dict[str, Any]:
    header = parameter.removeprefix("header:")
    changes = {parameter: value} if header == parameter else {"extra_headers": {header: value}}
    return {**BODIES[api], **changes}


def _corpus() -> list[Made]:
    made: list[Made] = []
    for api in APIS:
        known = _KNOWN[api].split()
        made.append(Made(api, "plain", dict(BODIES[api]), True))
        for parameter, values in PARAMETERS[api].items():
            if (api, parameter) in LEFT_OUT and parameter not in known:
                continue
            for value in values[:1] if (api, parameter) in _FORMS else values:
                is_shared = parameter in known
                made.append(Made(api, f"{parameter}={value}", _with(api, parameter, value), is_shared))
        for is_shared, contents in ((True, SHARED), (False, SAFE)):
            for content in contents[api]:
                made.append(Made(api, str(content), _conversation(api, content), is_shared))
        for is_shared, changes in _MORE[api]:
            made.append(Made(api, str(changes), {**BODIES[api], **changes}, is_shared))
    return made


CORPUS: Final = _corpus()
_CACHE: Final = AgentCache.in_memory(name="test")


async def prepare(api: str, request: Any, **options: Any) -> PreparedParams:
    """Return the params of a request."""
    ours, kind, _ = APIS[api]
    return await ours(request, kind(**options))


async def key_of(api: str, request: Any, **options: Any) -> str:
    """Return the hash in the key of a request, also of one whose answer depends on state at the provider."""
    return str(_CACHE.llm.key(await prepare(api, request, stateful=True, **options))).rpartition(":")[2]


async def betterdb_key(api: str, request: Any) -> str:
    """Return the hash that betterdb makes for a request."""
    return llm_cache_hash(await APIS[api][2](request))
