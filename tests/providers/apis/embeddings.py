"""Embeddings: ``POST /v1/embeddings``."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Mapping
from typing import Any

from tests.providers.apis.api import Reply, RequestError, as_json
from tests.providers.apis.openai import OpenAiApi

__all__ = ["Embeddings"]


class Embeddings(OpenAiApi):
    """Embeddings. https://platform.openai.com/docs/api-reference/embeddings

    Each call has other vectors, so that a replay is recognised.
    """

    def whole(self, reply: Reply) -> dict[str, Any]:
        size = int(reply.params.get("dimensions") or 8)
        as_text = reply.params.get("encoding_format") == "base64"
        data = []
        for index, text in enumerate(_inputs(reply.params)):
            vector = _vector(f"{reply.number} {reply.model} {text!r}", size)
            value = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if as_text else vector
            data.append({"object": "embedding", "index": index, "embedding": value})
        usage = {"prompt_tokens": reply.input_tokens, "total_tokens": reply.input_tokens}
        return {"object": "list", "data": data, "model": reply.model, "usage": usage}

    def wants_stream(self, path: str, params: Mapping[str, Any]) -> bool:
        return False

    def model_of(self, path: str, params: Mapping[str, Any]) -> str:
        if "input" not in params:
            raise RequestError("Missing required parameter: 'input'.")
        if "/deployments/" in path:
            return path.split("/deployments/")[1].split("/")[0]
        return super().model_of(path, params)


def _inputs(params: Mapping[str, Any]) -> list[Any]:
    """Return the inputs: one text, texts, one list of tokens, or lists of tokens."""
    given = params["input"]
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return given
    return [given]


def _vector(seed: str, size: int) -> list[float]:
    numbers = random.Random(as_json(seed))
    vector = [numbers.uniform(-1, 1) for _ in range(size)]
    # Numbers of 32 bits, so that both encodings give the same vector.
    return list(struct.unpack(f"<{size}f", struct.pack(f"<{size}f", *vector)))
