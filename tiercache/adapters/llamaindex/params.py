"""Chats of LlamaIndex for the llm tier: ``prepare_params`` makes params of messages and of the options of a call.

Messages are ChatMessage objects, or dicts in the form of betterdb-agent-cache: a role, a content, and ``options``
with a call of a tool or its result. The params have betterdb's key where the messages have nothing that its helper
ignores or merges. LlamaIndex is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ...errors import UsageError
from ..normalizer import BinaryNormalizer, Kind
from ..params import PreparedParams, PrepareOptions
from ..params.blocks import (
    Block,
    binary_block,
    blocks_of,
    call_block,
    image_source,
    kept_block,
    parsed_arguments,
    text_block,
    with_rest,
)
from ..params.fields import Fields, dicts_in
from ..params.options import checked_options
from ..params.plain import KEPT, plain
from ..params.prepared import GivenRequest, prepared_params

__all__ = ["LlamaIndexPrepareOptions", "PreparedParams", "prepare_params"]

# betterdb gives a message of these roles the role of the system.
_AS_SYSTEM: Final = ("memory", "developer")
_KINDS: Final[dict[str, Kind]] = {"image": "image", "audio": "audio", "file": "document"}
_MEDIA_TYPES: Final = {"image": "image/*", "audio": "audio/*", "document": "application/octet-stream"}
_READS_A_FILE: Final = "a file of this machine"


@dataclass(frozen=True, kw_only=True)
class LlamaIndexPrepareOptions(PrepareOptions):
    """The options of ``prepare_params``, under the name that betterdb-agent-cache gives them.

    Attributes:
        model: The name of the model. It is required.
        temperature: As the call of the model gives it, like the next three; None where it gives none.
        top_p: See ``temperature``.
        max_tokens: See ``temperature``.
        tools: The tools that the model may call: objects with ``metadata``, or dicts with it.
        parameters: All other parameters that change the answer, such as ``seed`` or ``stop``.
    """

    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    tools: Sequence[Any] | None = None
    parameters: Mapping[str, Any] | None = None


async def prepare_params(
    messages: Sequence[Any], opts: LlamaIndexPrepareOptions | None = None, **options: Any
) -> PreparedParams:
    """Return the params of a chat for ``cache.llm``.

    Args:
        messages: ChatMessage objects or dicts. They stay as they are.
        options: The attributes of ``LlamaIndexPrepareOptions``, as keywords instead of ``opts``.

    Raises:
        UsageError: No model is named, an option is unknown, ``opts`` and keywords are both given, or a part of the
            messages is no mapping, list or text where it must be one. The message names the place.
    """
    chosen = _options(opts, options)
    if not isinstance(messages, list | tuple):
        raise UsageError(f"messages must be a list, not {type(messages).__name__}")
    given = dicts_in(plain(messages, "messages", sent=False), "messages")
    made = [await _message(Fields(m, "messages", n), chosen.normalizer) for n, m in enumerate(given)]
    parameters = plain(chosen.parameters or {}, "parameters")
    named = {name: getattr(chosen, name) for name in ("model", "temperature", "top_p", "max_tokens")}
    if doubled := sorted(parameters.keys() & {*named, "tools", "messages"}):
        raise UsageError(f"parameters has {doubled[0]!r}, which is an option of its own")
    if chosen.tools:
        named["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(chosen.tools)]
    bypass = _READS_A_FILE if not chosen.stateful and any(map(_reads_a_file, given)) else None
    request = GivenRequest(Fields({**parameters, **named}, "params"), bypass, {})
    return prepared_params(request, made)


def _options(opts: object, options: dict[str, Any]) -> LlamaIndexPrepareOptions:
    given = {name: value for name, value in options.items() if value is not None}
    if opts is not None and given:
        raise UsageError(f"opts and {min(given)} are both given: choose one way")
    try:
        chosen = LlamaIndexPrepareOptions(**given) if opts is None else checked_options(opts, LlamaIndexPrepareOptions)
    except TypeError as error:
        raise UsageError(f"prepare_params has no such option: {error}") from error
    if not chosen.model:
        raise UsageError("model is missing: prepare_params(messages, model=...); messages name no model")
    return chosen


def _reads_a_file(value: Any) -> bool:
    """Return whether a block in ``value`` names a file, whose content is not in the key."""
    if isinstance(value, dict):
        return ("block_type" in value and value.get("path") is not None) or any(map(_reads_a_file, value.values()))
    return isinstance(value, list) and any(map(_reads_a_file, value))


async def _message(fields: Fields, normalizer: BinaryNormalizer) -> dict[str, Any]:
    options = fields.whole.get("options")
    if not isinstance(options, dict | None):
        raise UsageError(f"{fields.place}.options must be a mapping, not {type(options).__name__}")
    message = _tool_result(fields) if options and options.get("tool_result") else None
    if message is None:
        fields = Fields(fields.whole, fields.place)
        message = await _turn(fields, normalizer)
    return kept_block(message=fields.whole) if message is None else with_rest(message, fields)


def _tool_result(fields: Fields) -> dict[str, Any] | None:
    """Return the message of the result of a tool, which betterdb reads from the options alone."""
    options = fields.inner("options")
    result = None if options is None else options.inner("tool_result")
    identifier = None if result is None else result.take("id", str)
    text = None if result is None else result.take("result", str)
    if identifier is None or text is None:
        return None
    fields.take_value("role", "user")
    return {"role": "tool", "toolCallId": identifier, "content": [{"type": "text", "text": text}]}


async def _turn(fields: Fields, normalizer: BinaryNormalizer) -> dict[str, Any] | None:
    role = fields.whole.get("role", "user")
    if not isinstance(role, str):
        return None
    if role not in _AS_SYSTEM:
        fields.take("role", str)
    blocks = await _content(fields, normalizer)
    if (kwargs := fields.peek("additional_kwargs", dict)) is not None and not kwargs:
        fields.take("additional_kwargs", dict)
    options = fields.inner("options")
    calls = None if options is None or not options.whole.get("tool_call") else options.whole["tool_call"]
    if options is not None and calls is not None:
        options.take("tool_call", object)
        calls = calls if isinstance(calls, list) else [calls]
        for number, call in enumerate(dicts_in(calls, f"{options.place}.tool_call")):
            inner = Fields(call, f"{options.place}.tool_call", number)
            block = _call(inner, "id", "name", "input")
            blocks.append(kept_block(tool_call=call) if block is None else with_rest(block, inner))
    return {"role": "system" if role in _AS_SYSTEM else role, "content": blocks}


async def _content(fields: Fields, normalizer: BinaryNormalizer) -> list[Block]:
    """Return the blocks of a message: of the content of a dict, or of the blocks of a ChatMessage."""
    content = fields.whole.get("content")
    blocks: list[Block] = []
    if isinstance(content, str):
        fields.take("content", str)
        if content:  # An empty text is no content.
            blocks.append({"type": "text", "text": content})
    elif content is not None:
        blocks += await blocks_of(content, f"{fields.place}.content", partial(_part, normalizer=normalizer))
        if content:  # An empty list stays, because it differs from no content.
            fields.take("content", list)
    if (given := fields.peek("blocks", list)) is not None and "content" not in fields.whole:
        fields.take("blocks", list)
        blocks += await blocks_of(given, f"{fields.place}.blocks", partial(_block, normalizer=normalizer))
    return blocks


def _call(fields: Fields, identifier: str, name: str, args: str) -> Block | None:
    """Return the block of a call of a tool, whose arguments are JSON or an object."""
    of_call, of_tool = fields.take(identifier, str), fields.take(name, str)
    if of_call is None or of_tool is None:
        return None
    if isinstance(fields.whole.get(args), str):
        return call_block(of_call, of_tool, parsed_arguments(fields, args))
    return call_block(of_call, of_tool, fields.take(args, object))


async def _part(part: Fields, normalizer: BinaryNormalizer) -> Block | None:
    """Return the block of a part in the form of betterdb."""
    kind = part.take("type", str) or ""
    if kind == "text":
        return text_block(part)
    if kind == "image_url":
        image = part.inner("image_url")
        url = None if image is None else image.take("url", str)
        return None if url is None else await binary_block(normalizer, "image", image_source(url))
    if kind not in _KINDS or not part.whole.get("data"):
        return None
    data = part.take("data", str) or part.take("data", bytes)
    if data is None:
        return None
    source = {"type": "base64" if isinstance(data, str) else "bytes", "data": data}
    default = _MEDIA_TYPES[_KINDS[kind]]
    # A type that is the default stays beside the block, where it differs from no type.
    media_type = part.take_text("mime_type") if part.whole.get("mime_type") != default else None
    return await binary_block(normalizer, _KINDS[kind], source, media_type or default)


async def _block(part: Fields, normalizer: BinaryNormalizer) -> Block | None:
    """Return the block of a block of a ChatMessage."""
    match part.take("block_type", str):
        case "text":
            return text_block(part)
        case "tool_call":
            return _call(part, "tool_call_id", "tool_name", "tool_kwargs")
        case "image":
            return await _binary(part, "image", ("image", "image_mimetype"), normalizer)
        case "document":
            return await _binary(part, "document", ("data", "document_mimetype"), normalizer)
    return None


async def _binary(part: Fields, kind: Kind, names: tuple[str, str], normalizer: BinaryNormalizer) -> Block | None:
    """Return the block of an image or a document, of its data or else of its URL.

    Args:
        names: The fields of the data and of the media type.
    """
    data, media_type = part.take_text(names[0]), part.take_text(names[1])
    url = part.take_text("url") if data is None else None
    if media_type is None or (data is None and url is None):
        return None
    source = {"type": "base64", "data": data} if data is not None else {"type": "url", "url": url}
    return await binary_block(normalizer, kind, source, media_type)


def _tool(tool: Any, place: str) -> dict[str, Any]:
    """Return the definition of a tool, in the form of chat completions."""
    metadata = getattr(tool, "metadata", None)
    if metadata is None and isinstance(tool, Mapping):
        metadata = tool.get("metadata") or tool
    if isinstance(metadata, Mapping):
        return _tool_of_dict(plain(tool, place), plain(metadata, place), place)
    name = getattr(metadata, "name", None)
    if not isinstance(name, str):
        raise UsageError(f"{place} must have metadata with a name, or be a mapping, not {type(tool).__name__}")
    function = {"name": name, "description": getattr(metadata, "description", None)}
    schema = getattr(metadata, "parameters", None)
    if schema is None and (schema_of := getattr(metadata, "get_parameters_dict", None)) is not None:
        schema = schema_of()
    function["parameters"] = schema
    return {"type": "function", "function": plain({n: v for n, v in function.items() if v is not None}, place)}


def _tool_of_dict(tool: dict[str, Any], metadata: dict[str, Any], place: str) -> dict[str, Any]:
    fields = Fields(metadata, place)
    function = {name: fields.take(name, object) for name in ("name", "description", "parameters")}
    if not isinstance(function["name"], str):
        return tool  # A definition in another form, such as that of an API.
    made: dict[str, Any] = {"type": "function"}
    made["function"] = {name: value for name, value in function.items() if value is not None}
    rest = {name: value for name, value in tool.items() if name != "metadata"} if "metadata" in tool else {}
    if kept := {**fields.rest(), **({"tool": rest} if rest else {})}:
        made[KEPT] = kept
    return made
