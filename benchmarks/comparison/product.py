"""The interface of a product, and the values that its calls take and return.

A product offers an ability by having the method for it. A method that is None is an ability that the product lacks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

Question = dict[str, Any]
"""The parameters of a chat completion, as OpenAI's API takes them, ``extra_body`` included."""
Method = Callable[..., Any] | None


@dataclass(frozen=True)
class Setting:
    """How a product is set up.

    Attributes:
        valkey_url: The store.
        model_url: The model provider.
        ttl: The lifetime of every entry in seconds, or None.
        tag: The tag of every entry, or None.
    """

    valkey_url: str
    model_url: str
    ttl: int | None = None
    tag: str | None = None


@dataclass(frozen=True)
class Reply:
    """The parts of an answer that must survive in a cache.

    Attributes:
        texts: The text of each choice.
        tools: The name and the arguments of each call of a tool.
        usage: The input and output tokens, or None.
    """

    texts: tuple[str, ...]
    tools: tuple[tuple[str, str], ...] = ()
    usage: tuple[int, int] | None = None
    refusal: str | None = None
    finish: str | None = None


class Product:
    """One product, as its documentation sets it up."""

    title: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]
    """The distributions whose versions the table states; the first is the product."""
    uses_store: ClassVar[bool] = True
    """False: the product keeps everything in the memory of its process."""

    @classmethod
    def missing(cls) -> str:
        """Return why the product cannot run here, except for a failed import; empty if it can."""
        return ""


class Answers(Product):
    """A cache of model answers."""

    needs_modules: ClassVar[bool] = False
    """True: the product needs RedisJSON, so every probe but one runs on an emulation of it."""

    ask_plain: Method = None
    stream: Method = None
    invalidate_entry: Method = None
    invalidate_tag: Method = None
    invalidate_model: Method = None
    clear: Method = None
    statistics: Method = None
    has_ttl: ClassVar[bool] = True

    async def open(self, setting: Setting) -> None:
        """Connect and set up the cache."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect and end every task."""

    async def ask(self, question: Question, *, base: str | None = None) -> Reply:
        """Return the answer from the cache, or from the model.

        Args:
            question: The request.
            base: The URL of the model provider, if it is not that of the setting.
        """
        raise NotImplementedError


class Threads(Product):
    """A checkpoint saver of LangGraph."""

    has_ttl: ClassVar[bool] = True
    has_plain: ClassVar[bool] = True

    async def saver(self, setting: Setting) -> Any:
        """Return a new saver for the async methods of a graph."""
        raise NotImplementedError

    def plain_saver(self, setting: Setting) -> Any:
        """Return a new saver for the plain methods of a graph."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close every saver that the product has made."""


def reply_of(completion: dict[str, Any]) -> Reply:
    """Return the parts of a chat completion, which is given as its JSON object."""
    messages = [choice["message"] for choice in completion["choices"]]
    first, usage = messages[0], completion.get("usage") or {}
    calls = [call["function"] for call in first.get("tool_calls") or ()]
    tokens = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    return Reply(
        texts=tuple(message.get("content") or "" for message in messages),
        tools=tuple((call["name"], call["arguments"]) for call in calls),
        usage=tokens if any(tokens) else None,
        refusal=first.get("refusal"),
        finish=completion["choices"][0].get("finish_reason"),
    )
