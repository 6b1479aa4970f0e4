"""Messages for the llm tier: ``prepare_params`` makes params of the arguments of Anthropic's ``messages.create``.

The params have the key of betterdb-agent-cache where the request has nothing that its helper ignores or merges, and no
hint for Anthropic's own cache: the hints are left out of the key.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Final

from ..errors import UsageError
from ..text import check_text
from .http.apis.messages import Messages
from .normalizer import BinaryNormalizer
from .params import PreparedParams, PrepareOptions
from .params.blocks import (
    Block,
    binary_block,
    blocks_of,
    call_block,
    file_id,
    kept_block,
    text_block,
    with_rest,
)
from .params.fields import Fields, dicts_in
from .params.options import checked_options
from .params.prepared import prepared_params, read_request

__all__ = ["AnthropicPrepareOptions", "PreparedParams", "prepare_params"]

_MESSAGES: Final = Messages()


class AnthropicPrepareOptions(PrepareOptions):
    """The options of ``prepare_params``, under the name that betterdb-agent-cache gives them."""


async def prepare_params(params: Mapping[str, object], opts: AnthropicPrepareOptions | None = None) -> PreparedParams:
    """Return the params of a message for ``cache.llm``.

    Args:
        params: The arguments of ``messages.create``. They stay as they are.

    Raises:
        UsageError: ``params`` has no model or no messages, or a part of them is no mapping, list or text where it must
            be one. The message names the place.
    """
    options = checked_options(opts, AnthropicPrepareOptions)
    request = read_request(params, _MESSAGES, options)
    if "messages" not in request.fields.whole:
        raise UsageError("params must have 'messages'")
    given = dicts_in(request.fields.whole["messages"], "params.messages")
    request.fields.take("messages", list)
    messages = await _system(request.fields)
    for number, turn in enumerate(given):
        made = await _turn(Fields(turn, "params.messages", number), options.normalizer)
        if messages and messages[-1].get("role") == "tool" and made[0].get("role") in ("user", "tool"):
            # Without this mark the two turns would be one: the results of tools, and more.
            made[0]["is_new_turn"] = True
        messages += made
    return prepared_params(request, messages, stop=request.fields.take("stop_sequences", object))


async def _system(fields: Fields) -> list[dict[str, Any]]:
    """Return the messages of the system prompt. An empty prompt stays, because it differs from no prompt."""
    text = fields.take_text("system")
    if text is not None:
        return [{"role": "system", "content": text}]
    given = fields.whole.get("system")
    if not given:
        return []
    blocks = await blocks_of(given, "params.system", _text)
    fields.take("system", list)
    return [{"role": "system", "content": blocks}]


async def _turn(fields: Fields, normalizer: BinaryNormalizer) -> list[dict[str, Any]]:
    """Return the messages of one turn, at least one; the turn as it is, if its form is unknown."""
    role, content = fields.peek("role", str), fields.whole.get("content")
    if content is not None and not isinstance(content, str | list):
        raise UsageError(f"{fields.place}.content must be a str or a list, not {type(content).__name__}")
    if role not in ("user", "assistant") or content is None:
        return [kept_block(message=fields.whole)]
    fields.take("role", str)
    fields.take("content", object)
    if isinstance(content, str):
        return [_with_turn({"role": role, "content": [{"type": "text", "text": content}]}, fields)]
    convert = partial(_block, normalizer=normalizer)
    if role == "assistant":
        blocks = await blocks_of(content, f"{fields.place}.content", convert)
        return [_with_turn({"role": role, "content": blocks}, fields)]
    return await _user_turn(fields, content, normalizer)


async def _user_turn(fields: Fields, content: list[Any], normalizer: BinaryNormalizer) -> list[dict[str, Any]]:
    """Return a message for the result of each tool, and one for all other parts of a turn."""
    place = f"{fields.place}.content"
    messages: list[dict[str, Any]] = []
    others: list[Block] = []
    results: list[int] = []
    for number, part in enumerate(dicts_in(content, place)):
        inner = Fields(part, place, number)
        if part.get("type") == "tool_result" and isinstance(part.get("tool_use_id"), str):
            messages.append(await _result(inner, normalizer))
            results.append(number)
        else:
            block = await _block(inner, normalizer=normalizer)
            others.append(kept_block(part=part) if block is None else with_rest(block, inner))
    if others:
        messages.append({"role": "user", "content": others})
    if not messages:
        return [kept_block(message=fields.whole)]
    if results != list(range(len(results))):
        messages[0]["result_positions"] = results
    _with_turn(messages[0], fields)
    return messages


def _with_turn(message: dict[str, Any], turn: Fields) -> dict[str, Any]:
    """Return the first message of a turn with the fields of the turn that have no place in it."""
    if rest := turn.rest():
        message["turn"] = rest
    return message


async def _result(fields: Fields, normalizer: BinaryNormalizer) -> dict[str, Any]:
    content: Any = fields.whole.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    elif content is not None:
        content = await blocks_of(content, f"{fields.place}.content", partial(_result_block, normalizer=normalizer))
    message = {"role": "tool", "toolCallId": fields.whole["tool_use_id"], "content": content}
    for placed in ("type", "tool_use_id", "content"):
        fields.take(placed, object)
    return with_rest(message, fields)


async def _text(fields: Fields) -> Block | None:
    return text_block(fields) if fields.take_value("type", "text") else None


async def _result_block(fields: Fields, normalizer: BinaryNormalizer) -> Block | None:
    return await _block(fields, normalizer) if fields.peek("type", str) in ("text", "image") else None


async def _block(fields: Fields, normalizer: BinaryNormalizer) -> Block | None:
    match fields.take("type", str):
        case "text":
            return text_block(fields)
        case "image":
            return await _image(fields, normalizer)
        case "document":
            return await _document(fields, normalizer)
        case "tool_use":
            return _tool_use(fields)
        case "thinking":
            return _thinking(fields)
        case "redacted_thinking":
            return _redacted(fields)
    return None


def _tool_use(fields: Fields) -> Block | None:
    identifier, name, args = fields.take("id", str), fields.take("name", str), fields.take("input", object)
    return None if identifier is None or name is None or args is None else call_block(identifier, name, args)


def _thinking(fields: Fields) -> Block | None:
    text = fields.take("thinking", str)
    if text is None:
        return None
    block: Block = {"type": "reasoning", "text": text}
    if (signature := fields.take_text("signature")) is not None:
        block["opaqueSignature"] = signature
    return block


def _redacted(fields: Fields) -> Block | None:
    data = fields.take("data", str)
    return None if data is None else {"type": "reasoning", "text": "", "redacted": True, "opaqueSignature": data}


async def _image(fields: Fields, normalizer: BinaryNormalizer) -> Block | None:
    source = fields.inner("source")
    if source is None:
        return None
    found = _binary_source(source)
    return None if found is None else await binary_block(normalizer, "image", found[0], found[1] or "image/*")


async def _document(fields: Fields, normalizer: BinaryNormalizer) -> Block | None:
    source = fields.inner("source")
    if source is None:
        return None
    match source.whole.get("type"):
        case "content":
            return _nested(source)
        case "text":
            found = _text_source(source)
        case "url":
            found = _binary_source(source, "application/pdf")
        case _:
            found = _binary_source(source, "application/octet-stream")
    return None if found is None else await binary_block(normalizer, "document", found[0], found[1])


def _nested(source: Fields) -> Block | None:
    content = source.take("content", object)
    if content is None:
        return None
    source.take("type", str)
    digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    ref = f"nested:sha256:{digest}"
    return {"type": "binary", "kind": "document", "mediaType": "application/x-nested-content", "ref": ref}


def _text_source(source: Fields) -> tuple[dict[str, Any], str | None] | None:
    # The API names the text ``data``, betterdb ``text``. The type stays beside the one that betterdb does not know.
    text = source.take("data", str)
    if text is None:
        text = source.take("text", str)
        source.take("type", str)
    if text is None:
        return None
    source.take_value("media_type", "text/plain")
    encoded = b64encode(check_text(text, source.place).encode()).decode()
    return {"type": "base64", "data": encoded}, "text/plain"


def _binary_source(source: Fields, otherwise: str | None = None) -> tuple[dict[str, Any], str | None] | None:
    """Return the source of a binary part and its media type; or None for an unknown form.

    Args:
        otherwise: The media type where the source names none.
    """
    kind = source.whole.get("type")
    if kind == "base64":
        data, media_type = source.take("data", str), source.take("media_type", str)
        if data is None or media_type is None:
            return None
        # A document of plain text has the same block, without this type beside it.
        if media_type != "text/plain":
            source.take("type", str)
        return {"type": "base64", "data": data}, media_type
    source.take("type", str)
    if kind == "url":
        url = source.take("url", str)
        return None if url is None else ({"type": "url", "url": url}, otherwise)
    found = file_id(source, "anthropic") if kind == "file" else None
    return None if found is None else (found, otherwise)
