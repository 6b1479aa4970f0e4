"""The answer of a model, as a wrapped client reads it from a response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Answer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a model to one request: the argument of ``store_when``.

    Attributes:
        text: The text of the answer, of its first choice if it has several. Empty for tool calls alone, for embeddings,
            and for an answer that could not be read.
        model: The model as the provider names it in the response, or an empty str.
        tokens: ``input`` and ``output``: how many tokens the provider counted. None if the response counts none, as a
            stream without usage.
        finish: Why each choice ended, in the words of the provider: ``("stop",)``. Empty for embeddings and for an
            answer that could not be read. A choice without a reason has an empty str.
        is_complete: Whether every choice ended by itself. An answer that was cut off, refused or filtered is not
            complete, nor is an answer that could not be read.
    """

    text: str
    model: str
    tokens: Mapping[str, int] | None
    finish: tuple[str, ...]
    is_complete: bool
