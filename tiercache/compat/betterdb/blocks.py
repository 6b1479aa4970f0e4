"""The shapes of requests and of content blocks. The dicts have these fields when they are stored."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Required, TypeAlias, TypedDict

__all__ = [
    "BinaryBlock",
    "BlockHints",
    "CacheControlHint",
    "ContentBlock",
    "LlmCacheMessage",
    "LlmCacheParams",
    "ReasoningBlock",
    "TextBlock",
    "ToolCallBlock",
    "ToolDefinition",
    "ToolResultBlock",
]


class CacheControlHint(TypedDict):
    """A hint of Anthropic's prompt cache."""

    type: Literal["ephemeral"]
    ttl: NotRequired[Literal["5m", "1h"]]


class BlockHints(TypedDict, total=False):
    """Hints for a provider, which a block carries."""

    anthropicCacheControl: CacheControlHint


class TextBlock(TypedDict):
    """A text."""

    type: Literal["text"]
    text: str
    hints: NotRequired[BlockHints]


class BinaryBlock(TypedDict):
    """A picture, a sound or a document, by the text that a normalizer made of it."""

    type: Literal["binary"]
    kind: Literal["image", "audio", "document"]
    mediaType: str
    ref: str
    detail: NotRequired[Literal["auto", "low", "high", "original"]]
    filename: NotRequired[str]
    hints: NotRequired[BlockHints]


class ToolCallBlock(TypedDict):
    """A call of a tool, which the model asks for."""

    type: Literal["tool_call"]
    id: str
    name: str
    args: Any
    hints: NotRequired[BlockHints]


class ToolResultBlock(TypedDict):
    """The result of a tool call."""

    type: Literal["tool_result"]
    toolCallId: str
    content: list[TextBlock | BinaryBlock]
    isError: NotRequired[bool]
    hints: NotRequired[BlockHints]


class ReasoningBlock(TypedDict):
    """The reasoning of the model."""

    type: Literal["reasoning"]
    text: str
    opaqueSignature: NotRequired[str]
    redacted: NotRequired[bool]
    hints: NotRequired[BlockHints]


ContentBlock: TypeAlias = TextBlock | BinaryBlock | ToolCallBlock | ToolResultBlock | ReasoningBlock


class LlmCacheMessage(TypedDict, total=False):
    """A message of a request."""

    role: Required[Literal["system", "user", "assistant", "tool"]]
    content: Required[str | list[ContentBlock]]
    toolCallId: str
    name: str


class ToolDefinition(TypedDict):
    """A tool that the model may call."""

    type: str
    function: dict[str, Any]


class LlmCacheParams(TypedDict, total=False):
    """The parameters of a request. A request may have further ones, which are part of its key."""

    model: Required[str]
    messages: Required[list[LlmCacheMessage]]
    temperature: float
    top_p: float
    max_tokens: int
    tools: list[ToolDefinition]
    tool_choice: Any
    seed: int
    stop: list[str]
    response_format: Any
    reasoning_effort: str
    prompt_cache_key: str
