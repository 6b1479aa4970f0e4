"""Responses for the llm tier: ``prepare_params`` makes params of the arguments of OpenAI's ``responses.create``.

The params have the key of betterdb-agent-cache where the request has nothing that its helper ignores or merges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import UsageError
from .http.apis.responses import Responses
from .normalizer import BinaryNormalizer
from .params import PreparedParams, PrepareOptions
from .params.blocks import (
    Block,
    binary_block,
    blocks_of,
    call_block,
    file_id,
    image_source,
    kept_block,
    media_type_of,
    parsed_arguments,
    text_block,
    with_rest,
)
from .params.fields import Fields, dicts_in
from .params.options import checked_options
from .params.prepared import prepared_params, read_request

__all__ = ["OpenAIResponsesPrepareOptions", "PreparedParams", "prepare_params"]

_RESPONSES: Final = Responses()


class OpenAIResponsesPrepareOptions(PrepareOptions):
    """The options of ``prepare_params``, under the name that betterdb-agent-cache gives them."""


async def prepare_params(
    params: Mapping[str, object], opts: OpenAIResponsesPrepareOptions | None = None
) -> PreparedParams:
    """Return the params of a response for ``cache.llm``.

    Args:
        params: The arguments of ``responses.create``. They stay as they are.

    Raises:
        UsageError: ``params`` has no model, or a part of the input is no mapping, list or text where it must be one.
            The message names the place.
    """
    options = checked_options(opts, OpenAIResponsesPrepareOptions)
    request = read_request(params, _RESPONSES, options)
    messages = _instructions(request.fields)
    messages += await _input(request.fields, options.normalizer, is_first=not messages)
    tokens = request.fields.take("max_output_tokens", object)
    return prepared_params(request, messages, max_tokens=tokens, reasoning_effort=_effort(request.fields))


def _effort(fields: Fields) -> str | None:
    # An object without an effort stays whole, and of an object with one everything else.
    reasoning = fields.peek("reasoning", dict)
    if reasoning is None or not isinstance(reasoning.get("effort"), str):
        return None
    inner = fields.inner("reasoning")
    return None if inner is None else inner.take("effort", str)


def _instructions(fields: Fields) -> list[dict[str, Any]]:
    text = fields.take_text("instructions")
    return [] if text is None else [{"role": "system", "content": text}]


async def _input(fields: Fields, normalizer: BinaryNormalizer, *, is_first: bool) -> list[dict[str, Any]]:
    """Return the messages of the input.

    Args:
        is_first: Whether no message comes before them.
    """
    given = fields.whole.get("input")
    if given is None:
        return []
    if isinstance(given, str):
        fields.take("input", str)
        return [{"role": "user", "content": given}]
    items = dicts_in(given, "params.input")
    if items:  # An empty list stays, because it differs from no input.
        fields.take("input", list)
    messages: list[dict[str, Any]] = []
    is_turn = False
    for number, item in enumerate(items):
        inner = Fields(item, "params.input", number)
        block = _turn_block(inner)
        if block is None:
            message = await _message(inner, normalizer)
            messages.append(kept_block(item=item) if message is None else with_rest(message, inner))
        elif is_turn:
            messages[-1]["content"].append(with_rest(block, inner))
        else:
            messages.append({"role": "assistant", "content": [with_rest(block, inner)]})
        is_turn = block is not None
    if is_first and messages and messages[0].get("role") == "system" and isinstance(messages[0]["content"], str):
        # Without this mark the message would be the instructions.
        messages[0]["is_input"] = True
    return messages


def _turn_block(item: Fields) -> Block | None:
    """Return the block of a call or of reasoning: those that follow each other are one turn of the assistant."""
    match item.peek("type", str):
        case "function_call":
            return _call(item)
        case "reasoning":
            return _reasoning(item)
    return None


def _call(item: Fields) -> Block | None:
    call, name = item.peek("call_id", str), item.peek("name", str)
    if call is None or name is None or item.peek("arguments", str) is None:
        return None
    for placed in ("type", "call_id", "name"):
        item.take(placed, str)
    return call_block(call, name, parsed_arguments(item))


def _reasoning(item: Fields) -> Block | None:
    # A summary that is not empty stays beside the block.
    if item.peek("summary", list) is None:
        return None
    item.take("type", str)
    item.take_value("summary", [])
    block: Block = {"type": "reasoning", "text": ""}
    if (encrypted := item.take_text("encrypted_content")) is not None:
        block["opaqueSignature"] = encrypted
    return block


async def _message(item: Fields, normalizer: BinaryNormalizer) -> dict[str, Any] | None:
    """Return the message of an item, or None if its form is unknown."""
    kind = item.peek("type", str)
    if kind == "function_call_output":
        return _output(item)
    role, content = item.peek("role", str), item.whole.get("content")
    if role is None or content is None or item.whole.get("type") not in ("message", None):
        return None
    if not isinstance(content, str | list):
        raise UsageError(f"{item.place}.content must be a str or a list, not {type(content).__name__}")
    for placed in ("type", "role"):
        item.take(placed, str)
    if isinstance(content, str):
        item.take("content", str)
        return {"role": role, "content": content}
    item.take("content", list)

    async def convert(part: Fields) -> Block | None:
        return await _part(part, role, normalizer)

    return {"role": role, "content": await blocks_of(content, f"{item.place}.content", convert)}


def _output(item: Fields) -> dict[str, Any] | None:
    call, output = item.take("call_id", str), item.take("output", object)
    if call is None or output is None:
        return None
    item.take("type", str)
    # Parts are one text for betterdb, their JSON. Here they stay as they are.
    block = {"type": "text", "text": output} if isinstance(output, str) else kept_block(output=output)
    return {"role": "tool", "toolCallId": call, "content": [block]}


async def _part(part: Fields, role: str, normalizer: BinaryNormalizer) -> Block | None:
    match part.peek("type", str):
        case "input_text" | "output_text":
            # The other type of text stays beside the block.
            part.take_value("type", "output_text" if role == "assistant" else "input_text")
            for empty in ("annotations", "logprobs"):
                part.take_value(empty, [])
            return text_block(part)
        case "input_image":
            return await _image(part, normalizer)
        case "input_file":
            return await _file(part, normalizer)
    return None


async def _image(part: Fields, normalizer: BinaryNormalizer) -> Block | None:
    source = file_id(part, "openai")
    if source is None:
        url = part.take_text("image_url")
        source = None if url is None else image_source(url)
    if source is None:
        return None
    part.take("type", str)
    block = await binary_block(normalizer, "image", source)
    if (detail := part.take_text("detail")) is not None:
        block["detail"] = detail
    return block


async def _file(part: Fields, normalizer: BinaryNormalizer) -> Block | None:
    media_type = "application/octet-stream"
    source = file_id(part, "openai")
    if source is None and (data := part.take_text("file_data")) is not None:
        source, media_type = {"type": "base64", "data": data}, media_type_of(data, media_type)
    if source is None and (url := part.take_text("file_url")) is not None:
        source = {"type": "url", "url": url}
    if source is None:
        return None
    part.take("type", str)
    block = await binary_block(normalizer, "document", source, media_type)
    if (name := part.take_text("filename")) is not None:
        block["filename"] = name
    return block
