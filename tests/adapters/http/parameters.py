"""Every documented parameter of each API, each with two values that ask for different answers.

A name with dots is a place in the body: ``generationConfig.topP``. A name that begins with ``header:`` is a header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["GEMINI_CONFIG", "HEADERS", "NOT_SENT", "PARAMETERS"]

_FUNCTION: Final = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
_SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "string"}}}

_CHAT: Final = {
    "audio": ({"voice": "alloy", "format": "wav"}, {"voice": "echo", "format": "wav"}),
    "frequency_penalty": (0.5, 1),
    "function_call": ("auto", {"name": "f"}),
    "functions": ([_FUNCTION], [{**_FUNCTION, "description": "e"}]),
    "logit_bias": ({"1": 5}, {"1": 6}),
    "logprobs": (True, False),
    "max_completion_tokens": (5, 6),
    "max_tokens": (5, 6),
    "messages": ([{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]),
    "metadata": ({"a": "1"}, {"a": "2"}),
    "modalities": (["text"], ["text", "audio"]),
    "model": ("gpt-5", "gpt-5-mini"),
    "moderation": ({"model": "omni"}, {"model": "omni", "policy": {"input": {"mode": "block"}}}),
    "n": (2, 3),
    "parallel_tool_calls": (True, False),
    "prediction": ({"type": "content", "content": "a"}, {"type": "content", "content": "b"}),
    "presence_penalty": (0.5, 1),
    "prompt_cache_key": ("a", "b"),
    "prompt_cache_options": ({"mode": "explicit"}, {"mode": "explicit", "ttl": "1h"}),
    "prompt_cache_retention": ("in_memory", "24h"),
    "reasoning_effort": ("low", "high"),
    "response_format": (
        {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}},
        {"type": "json_schema", "json_schema": {"name": "s", "schema": {**_SCHEMA, "required": ["a"]}}},
    ),
    "safety_identifier": ("a", "b"),
    "seed": (5, 6),
    "service_tier": ("flex", "priority"),
    "stop": ("a", ["a"]),
    "store": (True, False),
    "stream": (True, False),
    "stream_options": ({"include_usage": True}, {"include_usage": False}),
    "temperature": (0, 0.5),
    "tool_choice": ("auto", "required"),
    "tools": (
        [{"type": "function", "function": _FUNCTION}],
        [{"type": "function", "function": {**_FUNCTION, "strict": True}}],
    ),
    "top_logprobs": (5, 6),
    "top_p": (0.5, 1),
    "user": ("a", "b"),
    "verbosity": ("low", "high"),
    "web_search_options": ({"search_context_size": "low"}, {"search_context_size": "high"}),
    # Of other servers that speak this API.
    "data_sources": ([{"type": "azure_search"}], [{"type": "azure_cosmos_db"}]),
    "dataSources": ([{"type": "azure_search"}], [{"type": "azure_cosmos_db"}]),
    "search_parameters": ({"mode": "on"}, {"mode": "auto"}),
    "plugins": ([{"id": "web"}], [{"id": "file-parser"}]),
    "enable_search": (True, 1),
    "top_k": (5, 6),
    "an_unknown_parameter": ({"a": 1}, {"a": 2}),
}

_RESPONSES: Final = {
    "access_programs": ({"a": "x"}, {"a": "y"}),
    "background": (True, False),
    "background_options": ({"completion_window": "2h"}, {"completion_window": "8h"}),
    "context_management": ([{"type": "compaction"}], [{"type": "compaction", "compact_threshold": 5}]),
    "conversation": ("conv_1", {"id": "conv_2"}),
    "image": ({"detail": "low"}, {"detail": "high"}),
    "include": (["reasoning.encrypted_content"], ["message.output_text.logprobs"]),
    "input": ("a", [{"role": "user", "content": "a"}]),
    "instructions": ("a", "b"),
    "max_output_tokens": (16, 17),
    "max_tool_calls": (5, 6),
    "metadata": ({"a": "1"}, {"a": "2"}),
    "model": ("gpt-5", "gpt-5-mini"),
    "moderation": ({"model": "omni"}, {"model": "omni", "policy": {"input": {"mode": "block"}}}),
    "parallel_tool_calls": (True, False),
    "previous_response_id": ("resp_1", "resp_2"),
    "prompt": ({"id": "pmpt_1", "version": "1"}, {"id": "pmpt_1", "version": "2"}),
    "prompt_cache_key": ("a", "b"),
    "prompt_cache_options": ({"mode": "explicit"}, {"mode": "explicit", "ttl": "1h"}),
    "prompt_cache_retention": ("in_memory", "24h"),
    "reasoning": ({"effort": "low"}, {"effort": "high"}),
    "safety_identifier": ("a", "b"),
    "service_tier": ("flex", "priority"),
    "store": (True, False),
    "stream": (True, False),
    "stream_options": ({"include_obfuscation": True}, {"include_obfuscation": False}),
    "temperature": (0, 0.5),
    "text": ({"verbosity": "low"}, {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA}}),
    "tool_choice": ("auto", "required"),
    "tools": ([{"type": "function", **_FUNCTION}], [{"type": "custom", "name": "f"}]),
    "top_logprobs": (5, 6),
    "top_p": (0.5, 1),
    "truncation": ("auto", "disabled"),
    "user": ("a", "b"),
    "modalities": (["text"], ["text", "audio"]),
    "an_unknown_parameter": ({"a": 1}, {"a": 2}),
}

_EMBEDDINGS: Final = {
    "dimensions": (5, 6),
    "encoding_format": ("float", "base64"),
    "input": ("a", ["a"]),
    "model": ("text-embedding-3-small", "text-embedding-3-large"),
    "user": ("a", "b"),
    "input_type": ("query", "passage"),
    "an_unknown_parameter": ({"a": 1}, {"a": 2}),
}

_MESSAGES: Final = {
    "billing_policy": (
        {"type": "billing_policy", "bill_to": "self"},
        {"type": "billing_policy", "bill_to": "user_profile"},
    ),
    "cache_control": ({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}),
    "compaction": ({"type": "a"}, {"type": "b"}),
    "container": ("container_1", {"id": "container_2"}),
    "context_management": ({"edits": []}, {"edits": [{"type": "clear_tool_uses_20250919"}]}),
    "diagnostics": ({"previous_message_id": "msg_1"}, {"previous_message_id": "msg_2"}),
    "fallback_credit_token": ("a", "b"),
    "fallbacks": ("default", [{"model": "m2"}]),
    "inference_geo": ("us", "eu"),
    "max_tokens": (5, 6),
    "mcp_servers": ([{"type": "url", "name": "a", "url": "u"}], [{"type": "url", "name": "b", "url": "u"}]),
    "messages": ([{"role": "user", "content": "a"}], [{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
    "metadata": ({"user_id": "a"}, {"user_id": "b"}),
    "model": ("claude-opus-5", "claude-sonnet-5"),
    "output_config": ({"effort": "low"}, {"effort": "high"}),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard", "fast"),
    "stop_sequences": (["a"], ["b"]),
    "stream": (True, False),
    "system": ("a", [{"type": "text", "text": "a"}]),
    "thinking": ({"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}),
    "thread": ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}),
    "tool_choice": ({"type": "auto"}, {"type": "any"}),
    "tools": ([{"name": "f", "input_schema": _SCHEMA}], [{"name": "f", "input_schema": {**_SCHEMA, "required": []}}]),
    # Of earlier models and versions.
    "temperature": (0, 0.5),
    "top_k": (5, 6),
    "top_p": (0.5, 1),
    "output_format": ({"type": "json_schema", "schema": _SCHEMA}, {"type": "json_schema", "schema": {}}),
    "header:anthropic-beta": ("a-2026", "a-2026,b-2026"),
    "header:anthropic-version": ("2023-06-01", "2027-01-01"),
    "header:anthropic-user-profile-id": ("a", "b"),
    "header:anthropic-workspace-id": ("a", "b"),
    "an_unknown_parameter": ({"a": 1}, {"a": 2}),
}

_GEMINI: Final = {
    "cachedContent": ("cachedContents/a", "cachedContents/b"),
    "contents": ([{"role": "user", "parts": [{"text": "a"}]}], [{"role": "user", "parts": [{"text": "b"}]}]),
    "labels": ({"a": "1"}, {"a": "2"}),
    "modelArmorConfig": ({"promptTemplateName": "a"}, {"promptTemplateName": "b"}),
    "safetySettings": (
        [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}],
    ),
    "serviceTier": ("flex", "priority"),
    "store": (True, False),
    "systemInstruction": ({"role": "user", "parts": [{"text": "a"}]}, {"role": "user", "parts": [{"text": "b"}]}),
    "toolConfig": ({"functionCallingConfig": {"mode": "ANY"}}, {"functionCallingConfig": {"mode": "NONE"}}),
    "tools": (
        [{"functionDeclarations": [{"name": "f", "description": "d"}]}],
        [{"functionDeclarations": [{"name": "f", "description": "e"}]}],
    ),
    "generationConfig.audioTimestamp": (True, False),
    "generationConfig.audioTranscriptionConfig": ({"languageCodes": ["en"]}, {"languageCodes": ["bg"]}),
    "generationConfig.candidateCount": (2, 3),
    "continuationToken": ("YQ==", "Yg=="),
    "generationConfig.enableEnhancedCivicAnswers": (True, False),
    "generationConfig.frequencyPenalty": (0.5, 1.0),
    "generationConfig.imageConfig": ({"aspectRatio": "1:1"}, {"aspectRatio": "16:9"}),
    "generationConfig.logprobs": (5, 6),
    "generationConfig.maxOutputTokens": (5, 6),
    "generationConfig.mediaResolution": ("MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_HIGH"),
    "generationConfig.modelConfig": (
        {"featureSelectionPreference": "PRIORITIZE_COST"},
        {"featureSelectionPreference": "BALANCED"},
    ),
    "outputConfig": ({"outputUriPrefix": "gs://a"}, {"outputUriPrefix": "gs://b"}),
    "generationConfig.presencePenalty": (0.5, 1.0),
    "generationConfig.responseJsonSchema": (_SCHEMA, {**_SCHEMA, "required": ["a"]}),
    "generationConfig.responseLogprobs": (True, False),
    "generationConfig.responseMimeType": ("text/plain", "application/json"),
    "generationConfig.responseModalities": (["TEXT"], ["AUDIO"]),
    "generationConfig.responseSchema": ({"type": "STRING"}, {"type": "INTEGER"}),
    "generationConfig.routingConfig": (
        {"manualMode": {"modelName": "a"}},
        {"manualMode": {"modelName": "b"}},
    ),
    "generationConfig.seed": (5, 6),
    "generationConfig.speechConfig": ({"languageCode": "en"}, {"languageCode": "bg"}),
    "generationConfig.stopSequences": (["a"], ["b"]),
    "generationConfig.temperature": (0.25, 0.5),
    "generationConfig.thinkingConfig": ({"includeThoughts": True}, {"includeThoughts": False}),
    "generationConfig.topK": (5.0, 6.0),
    "generationConfig.topP": (0.5, 1.0),
    "header:x-goog-user-project": ("a", "b"),
    "header:x-goog-fieldmask": ("candidates", "candidates.content"),
    "an_unknown_parameter": ({"a": 1}, {"a": 2}),
}

PARAMETERS: Final[Mapping[str, Mapping[str, tuple[Any, Any]]]] = {
    "chat": {
        **_CHAT,
        "header:openai-organization": ("a", "b"),
        "header:openai-project": ("a", "b"),
        "header:openai-beta": ("a", "b"),
    },
    "responses": _RESPONSES,
    "embeddings": _EMBEDDINGS,
    "messages": _MESSAGES,
    "gemini": _GEMINI,
}

# Parameters of the Anthropic SDK that it sends as headers.
HEADERS: Final = {
    "betas": "header:anthropic-beta",
    "user_profile_id": "header:anthropic-user-profile-id",
    "workspace_id": "header:anthropic-workspace-id",
}

# The fields of ``GenerateContentConfig`` whose place is not their own name in ``generationConfig``.
GEMINI_CONFIG: Final = {
    "cached_content": "cachedContent",
    "continuation_token": "continuationToken",
    "generation_output_config": "outputConfig",
    "labels": "labels",
    "model_armor_config": "modelArmorConfig",
    "model_selection_config": "generationConfig.modelConfig",
    "safety_settings": "safetySettings",
    "service_tier": "serviceTier",
    "store": "store",
    "system_instruction": "systemInstruction",
    "tool_config": "toolConfig",
    "tools": "tools",
}
# Fields of ``GenerateContentConfig`` that the SDK keeps for itself.
NOT_SENT: Final = frozenset(
    {"automatic_continuation", "automatic_function_calling", "http_options", "should_return_http_response"}
)
