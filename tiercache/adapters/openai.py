"""Chat completions for the llm tier: ``prepare_params`` makes params of the arguments of ``chat.completions.create``.

The params have the key of betterdb-agent-cache where the request has nothing that its helper ignores or merges.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from ..errors import UsageError
from .http.apis.chat import Chat
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

__all__ = ["OpenAIPrepareOptions", "PreparedParams", "prepare_params"]

_CHAT: Final = Chat()
_LEGACY: Final = "legacy:"


class OpenAIPrepareOptions(PrepareOptions):
    """The options of ``prepare_params``, under the name that betterdb-agent-cache gives them."""


async def prepare_params(params: Mapping[str, object], opts: OpenAIPrepareOptions | None = None) -> PreparedParams:
    """Return the params of a chat completion for ``cache.llm``.

    Args:
        params: The arguments of ``chat.completions.create``. They stay as they are.

    Raises:
        UsageError: ``params`` has no model or no messages, or a part of them is no mapping, list or text where it must
            be one. The message names the place.
    """
    options = checked_options(opts, OpenAIPrepareOptions)
    # betterdb has ``prompt_cache_key`` in its key.
    request = read_request(params, _CHAT, options, counted=("prompt_cache_key",))
    if "messages" not in request.fields.whole:
        raise UsageError("params must have 'messages'")
    given = dicts_in(request.fields.whole["messages"], "params.messages")
    request.fields.take("messages", list)
    messages = [await _message(Fields(m, "params.messages", n), options.normalizer) for n, m in enumerate(given)]
    stop = request.fields.take("stop", str)
    return prepared_params(request, messages, **({} if stop is None else {"stop": [stop]}))


async def _message(fields: Fields, normalizer: BinaryNormalizer) -> dict[str, Any]:
    """Return the message of the params; whole, if its form is unknown."""
    role, content = fields.peek("role", str), fields.whole.get("content")
    if content is not None and not isinstance(content, str | list):
        raise UsageError(f"{fields.place}.content must be a str or a list, not {type(content).__name__}")
    if role in ("system", "developer"):
        message = await _system(fields)
    elif role == "user":
        message = await _user(fields, normalizer)
    elif role == "assistant":
        message = await _assistant(fields)
    elif role == "tool":
        message = await _tool(fields)
    else:
        message = _function(fields) if role == "function" else None
    return kept_block(message=fields.whole) if message is None else with_rest(message, fields)


async def _system(fields: Fields) -> dict[str, Any] | None:
    # A developer's message keeps its role beside the message.
    fields.take_value("role", "system")
    text = fields.take("content", str)
    if text is not None:
        return {"role": "system", "content": text}
    parts = fields.take("content", list)
    if parts is None:
        return None
    return {"role": "system", "content": await blocks_of(parts, f"{fields.place}.content", _text)}


async def _user(fields: Fields, normalizer: BinaryNormalizer) -> dict[str, Any] | None:
    content = await _content(fields, partial(_user_part, normalizer=normalizer))
    if content is None:
        return None
    fields.take("role", str)
    message: dict[str, Any] = {"role": "user", "content": content}
    if (name := fields.take_text("name")) is not None:
        message["name"] = name
    return message


async def _assistant(fields: Fields) -> dict[str, Any]:
    fields.take("role", str)
    # An empty text is no content. An empty list stays beside the message.
    fields.take_value("content", "")
    content = await _content(fields, _text) if fields.whole.get("content") else None
    calls = fields.take("tool_calls", list) if fields.whole.get("tool_calls") else None
    blocks = content or []
    for number, call in enumerate(dicts_in(calls or [], f"{fields.place}.tool_calls")):
        inner = Fields(call, f"{fields.place}.tool_calls", number)
        block = _call(inner)
        blocks.append(kept_block(tool_call=call) if block is None else with_rest(block, inner))
    return {"role": "assistant", "content": blocks}


def _call(fields: Fields) -> Block | None:
    function = fields.inner("function") if fields.take_value("type", "function") else None
    identifier = fields.take("id", str)
    if function is None or identifier is None or function.peek("arguments", str) is None:
        return None
    name = function.take("name", str)
    return None if name is None else call_block(identifier, name, parsed_arguments(function))


async def _tool(fields: Fields) -> dict[str, Any] | None:
    call = fields.take("tool_call_id", str)
    content = await _content(fields, _text)
    if call is None or content is None:
        return None
    # The result of a legacy function has such an id without this role.
    if not call.startswith(_LEGACY):
        fields.take("role", str)
    # Several parts are one text for betterdb. Here they stay apart.
    return {"role": "tool", "toolCallId": call, "content": content}


def _function(fields: Fields) -> dict[str, Any] | None:
    name = fields.take("name", str)
    if name is None or isinstance(fields.whole.get("content"), list):
        return None
    fields.take("role", str)
    # An empty text stays beside the message, where it differs from no content.
    text = fields.take_text("content") or ""
    return {"role": "tool", "toolCallId": f"{_LEGACY}{name}", "content": [{"type": "text", "text": text}]}


async def _content(fields: Fields, convert: Any) -> list[Block] | None:
    """Return the blocks of a content, a text or a list of parts; or None if there is no content."""
    text = fields.take("content", str)
    if text is not None:
        return [{"type": "text", "text": text}]
    parts = fields.take("content", list)
    return None if parts is None else await blocks_of(parts, f"{fields.place}.content", convert)


async def _text(part: Fields) -> Block | None:
    return text_block(part) if part.take_value("type", "text") else None


async def _user_part(part: Fields, normalizer: BinaryNormalizer) -> Block | None:
    match part.take("type", str):
        case "text":
            return text_block(part)
        case "image_url":
            return await _image(part, normalizer)
        case "input_audio":
            return await _audio(part, normalizer)
        case "file":
            return await _file(part, normalizer)
    return None


async def _image(part: Fields, normalizer: BinaryNormalizer) -> Block | None:
    image = part.inner("image_url")
    url = None if image is None else image.take("url", str)
    if image is None or url is None:
        return None
    block = await binary_block(normalizer, "image", image_source(url))
    if (detail := image.take_text("detail")) is not None:
        block["detail"] = detail
    return block


async def _audio(part: Fields, normalizer: BinaryNormalizer) -> Block | None:
    audio = part.inner("input_audio")
    data, format_ = (None, None) if audio is None else (audio.take("data", str), audio.take("format", str))
    if data is None or format_ is None:
        return None
    return await binary_block(normalizer, "audio", {"type": "base64", "data": data}, f"audio/{format_}")


async def _file(part: Fields, normalizer: BinaryNormalizer) -> Block | None:
    file = part.inner("file")
    if file is None:
        return None
    media_type = "application/octet-stream"
    source = file_id(file, "openai")
    if source is None:
        data = file.take_text("file_data")
        if data is None:
            return None
        source, media_type = {"type": "base64", "data": data}, media_type_of(data, media_type)
    block = await binary_block(normalizer, "document", source, media_type)
    if (name := file.take_text("filename")) is not None:
        block["filename"] = name
    return block
