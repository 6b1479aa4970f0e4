"""A model of ADK that answers by a script, and runs of agents with it."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Some versions of ADK use their own deprecated classes.
    from google.adk.agents import LlmAgent
    from google.adk.runners import InMemoryRunner, RunConfig
from google.adk.events import Event
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.plugins import BasePlugin
from google.genai import types

__all__ = ["LlmAgent", "Scripted", "ask", "call", "run"]


class Scripted(BaseLlm):
    """A model that calls the tools of ``calls``, all in one answer, and then answers with a text."""

    calls: list[types.FunctionCall]

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        last = llm_request.contents[-1]
        if any(part.function_response for part in last.parts or []):
            yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text="done")]))
        else:
            parts = [types.Part(function_call=each.model_copy()) for each in self.calls]
            yield LlmResponse(content=types.Content(role="model", parts=parts))


def call(tool: str, **args: Any) -> types.FunctionCall:
    """Return a call of a tool."""
    return types.FunctionCall(name=tool, args=args)


async def run(
    plugins: Sequence[BasePlugin],
    tools: Sequence[Callable[..., Any] | Any],
    *calls: types.FunctionCall,
    user: str = "ann",
    **options: Any,
) -> list[Any]:
    """Run an agent whose model calls ``calls``; return the responses of the tools."""
    agent = LlmAgent(name="agent", model=Scripted(model="scripted", calls=list(calls)), tools=list(tools), **options)
    events = await ask(agent, "go", plugins=plugins, user=user)
    return [response.response for event in events for response in event.get_function_responses()]


async def ask(
    agent: LlmAgent,
    *questions: str,
    plugins: Sequence[BasePlugin] = (),
    config: RunConfig | None = None,
    user: str = "ann",
) -> list[Event]:
    """Ask an agent questions in a new session; return the events of the last answer."""
    runner = InMemoryRunner(agent=agent, app_name="app", plugins=list(plugins))
    session = await runner.session_service.create_session(app_name="app", user_id=user)
    events: list[Event] = []
    for question in questions or ("Which river?",):
        message = types.Content(role="user", parts=[types.Part(text=question)])
        run = runner.run_async(user_id=user, session_id=session.id, new_message=message, run_config=config)
        events = [event async for event in run]
    return events
