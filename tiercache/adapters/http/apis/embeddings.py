"""Embeddings: of OpenAI, of Azure, and of the many servers that speak the same API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..answer import Answer
from .api import UNREADABLE, Api
from .parts import counted, is_given, mapping, mappings, text

__all__ = ["Embeddings"]


class Embeddings(Api):
    """``POST .../embeddings``."""

    name: ClassVar[str] = "embeddings"
    suffix: ClassVar[str] = "/embeddings"
    asked_by: ClassVar[tuple[str, ...]] = ("input",)
    left_out: ClassVar[frozenset[str]] = frozenset({"user"})

    def state_in(self, body: Mapping[str, Any]) -> str | None:
        return None

    def read(self, data: object) -> Answer:
        body = mapping(data)
        vectors = mappings(body.get("data"))
        if not vectors or is_given(body.get("error")):
            return UNREADABLE
        return Answer(
            "",
            text(body.get("model")),
            counted(body.get("usage"), input=("prompt_tokens",), output=("completion_tokens",)),
            (),
            # A list of numbers, or base64.
            all(isinstance(each := vector.get("embedding"), list | str) and len(each) > 0 for vector in vectors),
        )
