"""A model of OpenAI Agents that calls given tools, and then answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Tool, Usage, set_tracing_disabled
from agents.items import TResponseInputItem
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

__all__ = ["QUIET", "CallingModel", "agent_of", "outputs", "run"]

# OpenAI Agents must not send traces anywhere.
set_tracing_disabled(True)
QUIET = RunConfig(tracing_disabled=True)


class CallingModel(Model):
    """A model that makes ``calls`` at the same time, and answers "done" when it has their results.

    Attributes:
        inputs: The inputs that it has got.
    """

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self._calls = calls
        self.inputs: list[list[TResponseInputItem]] = []

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        given = kwargs.get("input", args[1] if len(args) > 1 else "")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        self.inputs.append(items)
        return ModelResponse(output=self._output(items), usage=Usage(), response_id=None)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        output = (await self.get_response(*args, **kwargs)).output
        response = Response(
            id="r",
            created_at=0,
            model="m",
            object="response",
            output=output,
            tool_choice="auto",
            tools=[],
            parallel_tool_calls=True,
        )
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=0)

    def _output(self, items: list[Any]) -> list[Any]:
        answered = [item for item in items if item.get("type") == "function_call_output"]
        if self._calls and not answered:
            return [
                ResponseFunctionToolCall(
                    type="function_call", name=name, arguments=json.dumps(arguments), call_id=f"call-{number}"
                )
                for number, (name, arguments) in enumerate(self._calls)
            ]
        text = ResponseOutputText(type="output_text", text="done", annotations=[], logprobs=[])
        return [ResponseOutputMessage(id="1", type="message", role="assistant", status="completed", content=[text])]


def agent_of(model: Model, *tools: Tool, **options: Any) -> Agent[Any]:
    """Return an agent with a model and tools."""
    return Agent(name="agent", model=model, tools=list(tools), **options)


async def run(tool: Tool, arguments: dict[str, Any], *, streamed: bool = False, **options: Any) -> list[Any]:
    """Run an agent that calls a tool once; return the outputs of its tools."""
    agent = agent_of(CallingModel((tool.name, arguments)), tool)
    if not streamed:
        return outputs(await Runner.run(agent, "Hi", run_config=QUIET, **options))
    result = Runner.run_streamed(agent, "Hi", run_config=QUIET, **options)
    async for _ in result.stream_events():
        pass
    return outputs(result)


def outputs(result: Any) -> list[Any]:
    """Return the outputs of the tools in the result of a run."""
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]
