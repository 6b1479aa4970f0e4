"""Chat models of the tests: a model with given answers, and ChatOpenAI on the local provider."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import Field, SecretStr

from tests.providers import ProviderServer

__all__ = ["GivenModel", "chat_openai"]


class GivenModel(BaseChatModel):
    """A chat model that answers with given messages, and counts its calls."""

    answers: list[AIMessage]
    calls: list[list[BaseMessage]] = Field(default_factory=list)
    before: Any = None

    @property
    def _llm_type(self) -> str:
        return "given"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": "given"}

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        self.calls.append(messages)
        if self.before is not None:
            self.before()
        return ChatResult(generations=[ChatGeneration(message=answer) for answer in self.answers])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        await asyncio.sleep(0)
        return self._generate(messages)


def chat_openai(provider: ProviderServer, cache: Any, **options: Any) -> ChatOpenAI:
    """Return OpenAI's chat model of LangChain on the local provider."""
    options = {"model": "gpt-4o-mini", "max_retries": 0, **options}
    return ChatOpenAI(base_url=provider.openai_url, api_key=SecretStr("none"), cache=cache, **options)
