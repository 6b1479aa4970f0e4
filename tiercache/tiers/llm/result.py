"""The response that an llm loader returns, and the result that the llm tier returns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr

from ...errors import UsageError
from ...text import shown
from ...ttl import Ttl, check_ttl
from ..result import TextResult
from ..values.unstorable import own_copy

__all__ = ["LlmResponse", "LlmResult", "check_blocks", "check_tokens", "has_counts"]


@dataclass(frozen=True, slots=True)
class LlmResponse:
    """The answer of an llm loader that returns more than a text.

    Args:
        response: The answer's text. None: the joined text of the text blocks.
        content_blocks: The answer's blocks, a sequence of JSON mappings such as ``{"type": "text", "text": "Hi"}``.
        tokens: Token counts, ``{"input": 12, "output": 34}``, from which the cost is computed. Other names are stored
            too.
        ttl: Lifetime of this answer; wins over the lifetimes of the call and of the tier.
        store: Whether to store the answer. False: it reaches every waiter and is not stored.
    """

    response: str | None
    content_blocks: Sequence[Mapping[str, Any]] | None = None
    tokens: Mapping[str, Any] | None = None
    ttl: Ttl | None = None
    store: bool = True

    def __post_init__(self) -> None:
        if self.response is None and self.content_blocks is None:
            raise UsageError("LlmResponse must have a response or content_blocks")
        if self.response is not None and not isinstance(self.response, str):
            raise UsageError(f"LlmResponse.response must be a str, not {type(self.response).__name__}")
        # The contents of the blocks and the token counts are the provider's: if they are wrong, the answer reaches the
        # callers all the same, and the tier does not store it.
        if self.content_blocks is not None:
            _check_form_of_blocks(self.content_blocks)
        if self.tokens is not None:
            _check_form_of_tokens(self.tokens)
        if self.ttl is not None:
            check_ttl(self.ttl, "LlmResponse.ttl")


def check_blocks(blocks: object) -> None:
    """Refuse blocks that are not a sequence of mappings, or have a text block whose text is not a str.

    Raises:
        UsageError: The message names the defect.
    """
    for block in _check_form_of_blocks(blocks):
        if block.get("type") == "text" and not isinstance(block.get("text", ""), str):
            raise UsageError("content_blocks has a text block whose text is not a str")


def check_tokens(tokens: object) -> None:
    """Refuse tokens that are not a mapping, or whose ``input`` or ``output`` is not a count.

    Raises:
        UsageError: The message names the defect.
    """
    counts = _check_form_of_tokens(tokens)
    for name in ("input", "output"):
        count = counts.get(name, 0)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**63:
            raise UsageError(f"tokens[{name!r}] must be a whole number from 0, not {shown(count)}")


def has_counts(tokens: object) -> bool:
    """Return whether ``tokens`` has counts, and ``check_tokens`` accepts them."""
    try:
        check_tokens(tokens)
        return bool(tokens)
    # A mapping of the loader's own may raise any exception.
    except Exception:
        return False


def _check_form_of_blocks(blocks: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(blocks, list | tuple) or not all(isinstance(block, Mapping) for block in blocks):
        raise UsageError("content_blocks must be a list of mappings")
    return blocks


def _check_form_of_tokens(tokens: object) -> Mapping[str, Any]:
    if not isinstance(tokens, Mapping):
        raise UsageError(f"tokens must be a mapping such as {{'input': 12, 'output': 34}}, not {type(tokens).__name__}")
    return tokens


class LlmResult(TextResult, frozen=True, eq=False):
    """An answer of the llm tier. It also has the attributes of ``Result``."""

    _hidden: ClassVar[tuple[str, ...]] = ("tokens", "content_blocks")

    _tokens: dict[str, Any] | UnsetType | None = UNSET
    _content_blocks: list[dict[str, Any]] | UnsetType | None = UNSET

    @property
    def tokens(self) -> dict[str, Any] | None:
        """The token counts as they were stored, or None if there are none. Decoded at the first read."""
        if self._tokens is UNSET:
            entry = self._entry
            force_setattr(self, "_tokens", None if entry is None else _decoded(entry.value.tokens))
        return self._tokens  # type: ignore[return-value]

    @property
    def content_blocks(self) -> list[dict[str, Any]] | None:
        """The answer's blocks, or None if it was stored as text alone. Decoded at the first read."""
        if self._content_blocks is UNSET:
            force_setattr(
                self, "_content_blocks", None if self._entry is None else _decoded(self._entry.value.content_blocks)
            )
        return self._content_blocks  # type: ignore[return-value]


def _decoded(part: Any) -> Any:
    """Return a part of an entry: the value of its JSON, or a copy of the object that the loader returned."""
    return json.loads(part) if type(part) is bytes else own_copy(part)
