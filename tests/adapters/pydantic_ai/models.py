"""A model of Pydantic AI that calls given tools, and then answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai import Agent, models
from pydantic_ai.messages import ModelMessage, ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

__all__ = ["calling", "results", "run"]

# A test asks no model over the network.
models.ALLOW_MODEL_REQUESTS = False


def calling(*calls: tuple[str, dict[str, Any]]) -> FunctionModel:
    """Return a model that makes ``calls`` at the same time, and answers "done" when it has their results."""

    def wants_tools(messages: list[ModelMessage]) -> bool:
        return not any(
            isinstance(part, ToolReturnPart | RetryPromptPart) for message in messages for part in message.parts
        )

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if calls and wants_tools(messages):
            return ModelResponse(parts=[ToolCallPart(name, arguments) for name, arguments in calls])
        return ModelResponse(parts=[TextPart("done")])

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for number, part in enumerate(answer(messages, info).parts):
            if isinstance(part, ToolCallPart):
                yield {number: DeltaToolCall(part.tool_name, part.args_as_json_str())}
            elif isinstance(part, TextPart):
                yield part.content

    return FunctionModel(answer, stream_function=stream)


def results(result: Any) -> list[Any]:
    """Return the contents of the results of tools in the messages of a run."""
    return [
        part.content for message in result.all_messages() for part in message.parts if isinstance(part, ToolReturnPart)
    ]


async def run(agent: Agent[Any, Any], *calls: tuple[str, dict[str, Any]], **options: Any) -> list[Any]:
    """Run an agent whose model makes ``calls``; return the results of its tools."""
    return results(await agent.run("Hi", model=calling(*calls), **options))
