"""Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from ..answer import Answer
from .api import UNREADABLE, Api, Ending, Event
from .parts import counted, is_asked, joined_texts, json_events, kind_in, mapping, mappings, text, tools_in

__all__ = ["Messages"]

_STATE: Final = ("container", "mcp_servers", "thread", "diagnostics")
# The caller runs these tools, whose types end in a date. A tool of any other type runs at the provider.
_OWN_TOOLS: Final = ("bash_", "text_editor_", "computer_", "browser_", "memory_")
_GOOD: Final = frozenset({"end_turn", "stop_sequence", "tool_use"})
_ENDINGS: Final = {b"message_stop": Ending.LAST, b"error": Ending.ERROR}

_HINT: Final = "cache_control"
# Blocks whose ``content`` is a list of blocks.
_OUTER: Final = frozenset({"tool_result", "document", "search_result"})
# A document in the result of a tool has blocks at the third level. Deeper blocks keep their hints.
_LEVELS: Final = 3


class Messages(Api):
    """``POST .../v1/messages``."""

    name: ClassVar[str] = "messages"
    suffix: ClassVar[str] = "/v1/messages"
    asked_by: ClassVar[tuple[str, ...]] = ("max_tokens", "messages")
    left_out: ClassVar[frozenset[str]] = frozenset({"metadata"})

    def state_in(self, body: Mapping[str, Any]) -> str | None:
        for name in _STATE:
            if is_asked(body.get(name)):
                return name
        if any(_runs_elsewhere(tool) for tool in tools_in(body.get("tools"), _later_tools(body.get("messages")))):
            return "a tool of the provider"
        return None

    def reduced(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``body`` without its metadata and without the hints for the provider's cache.

        The name of a hint is also a name that a tool may give to its own data, so that a hint is dropped only at the
        places where the API defines one, and only in the form that the API defines.
        """
        reduced = _without_hint(super().reduced(body))
        for name, without_hints in (("system", _blocks), ("tools", _tools), ("messages", _turns)):
            if name in reduced:
                reduced[name] = without_hints(reduced[name])
        return reduced

    def ending(self, field: bytes, value: bytes) -> Ending | None:
        kind = kind_in(field, value)
        return None if kind is None else _ENDINGS.get(kind)

    def read(self, data: object) -> Answer:
        message = mapping(data)
        if message.get("type") != "message" or mappings(message.get("content")) is None:
            return UNREADABLE
        return _answer(joined_texts(message["content"], "text"), message, message)

    def read_events(self, events: Iterable[Event]) -> Answer:
        read = json_events(events)
        kinds = [event.get("type") for event in read or ()]
        if not read or kinds.count("message_start") != 1 or "error" in kinds:
            return UNREADABLE
        if kinds.count("message_stop") != 1 or kinds[-1] != "message_stop":
            return UNREADABLE
        message = mapping(read[kinds.index("message_start")].get("message"))
        ended: dict[str, Any] = {"usage": dict(mapping(message.get("usage")))}
        texts: list[str] = []
        for event in read:
            delta = mapping(event.get("delta"))
            if event.get("type") == "message_delta":
                # A count that is null is no newer count.
                usage = mapping(event.get("usage")).items()
                ended["usage"].update((name, count) for name, count in usage if count is not None)
                ended["stop_reason"] = delta.get("stop_reason")
            elif event.get("type") == "content_block_start":
                texts.append(joined_texts([event.get("content_block")], "text"))
            elif delta.get("type") == "text_delta":
                texts.append(text(delta.get("text")))
        return _answer("".join(texts), message, ended)


def _answer(joined: str, message: Mapping[str, Any], ended: Mapping[str, Any]) -> Answer:
    finish = text(ended.get("stop_reason"))
    tokens = counted(ended.get("usage"), input=("input_tokens",), output=("output_tokens",))
    return Answer(joined, text(message.get("model")), tokens, (finish,), finish in _GOOD)


def _runs_elsewhere(tool: Mapping[str, Any] | None) -> bool:
    """Return whether a tool runs at the provider, as every unknown tool does."""
    if tool is None:
        return True
    kind = tool.get("type") or "custom"
    return not isinstance(kind, str) or (kind != "custom" and not kind.startswith(_OWN_TOOLS))


def _later_tools(turns: object) -> list[Any]:
    """Return the tools that blocks of type ``tool_addition`` define in the middle of a conversation."""
    found: list[Any] = []
    for turn in turns if isinstance(turns, list) else ():
        for block in mappings(mapping(turn).get("content")) or ():
            if block.get("type") == "tool_addition":
                tool = mapping(block.get("tool"))
                # A reference names a tool that the request defines elsewhere.
                if not text(tool.get("type")).endswith("_reference"):
                    found.append(tool.get("definition"))
    return found


def _without_hint(value: dict[str, Any]) -> dict[str, Any]:
    if _HINT not in value or not _is_hint(value[_HINT]):
        return value
    return {name: item for name, item in value.items() if name != _HINT}


def _is_hint(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and value.get("type") == "ephemeral" and value.keys() <= {"type", "ttl"}


def _tools(tools: object) -> object:
    if not isinstance(tools, list):
        return tools
    return [_without_hint(tool) if isinstance(tool, dict) else tool for tool in tools]


def _turns(turns: object) -> object:
    if not isinstance(turns, list):
        return turns
    return [
        {**turn, "content": _blocks(turn["content"])} if isinstance(turn, dict) and "content" in turn else turn
        for turn in turns
    ]


def _blocks(blocks: object, levels: int = _LEVELS) -> object:
    if not isinstance(blocks, list) or levels == 0:
        return blocks
    return [_block(block, levels) if isinstance(block, dict) else block for block in blocks]


def _block(block: dict[str, Any], levels: int) -> dict[str, Any]:
    block = _without_hint(block)
    kind = block.get("type")
    if not isinstance(kind, str) or kind not in _OUTER:
        return block
    if "content" in block:
        block = {**block, "content": _blocks(block["content"], levels - 1)}
    source = block.get("source")
    # A document may have its blocks in its source.
    if kind == "document" and isinstance(source, dict) and source.get("type") == "content" and "content" in source:
        block = {**block, "source": {**source, "content": _blocks(source["content"], levels - 1)}}
    return block
