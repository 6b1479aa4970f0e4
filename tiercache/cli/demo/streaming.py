"""Agents with OpenAI's SDK: streams, through a wrapped client."""

import time
from collections.abc import AsyncIterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from ...adapters.http.calls import Outcome as CallOutcome
from ...agent_cache import AgentCache
from ...pricing.prices import PriceTable
from .replies import Reply, outcome_of, tool_call
from .tally import Outcome

SDK = "openai"
# The oldest version whose clients ``cache.wrap`` takes.
_OLDEST = 2


def sdk_version() -> str | None:
    """Return the version of OpenAI's SDK, or None if the demo cannot use it: it is missing or too old."""
    try:
        if find_spec(SDK) is None:
            return None
        found = version(SDK)
    except (PackageNotFoundError, ValueError):
        return None
    return found if can_be_wrapped(found) else None


def can_be_wrapped(sdk: str) -> bool:
    """Return whether ``cache.wrap`` takes the clients of this version of the SDK."""
    major = sdk.partition(".")[0]
    return major.isdecimal() and int(major) >= _OLDEST


class Streaming:
    """Asks for streams by a wrapped ``AsyncOpenAI``."""

    def __init__(self, cache: AgentCache, port: int) -> None:
        self._cache = cache
        # No retries: a failure must show.
        client = import_module(SDK).AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60.0
        )
        self._client = cache.wrap(client)
        self._prices = PriceTable(None, use_default=True)

    async def open(self) -> None:
        """Connect, and let the SDK import its parts. The list of models passes by the cache."""
        await self._client.models.list()
        _ = self._client.chat.completions

    async def ask(self, params: dict[str, Any]) -> Reply:
        """Return the reply to ``params``, when its last part has arrived."""
        started = time.perf_counter()
        with self._cache.watch() as seen:
            stream = await self._client.chat.completions.create(
                **params, stream=True, stream_options={"include_usage": True}
            )
        answer = StreamedAnswer()
        await answer.read(stream)
        took = time.perf_counter() - started
        return Reply(
            outcome=_outcome(seen[-1], took),
            text=answer.text,
            tool_calls=[tool_call(*call) for call in answer.calls],
            tokens=answer.tokens,
            first_part=answer.first_part_at - started,
            took=took,
            cost=self._prices.cost(params["model"], answer.tokens),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.close()


def _outcome(outcome: CallOutcome, took: float) -> Outcome:
    if outcome.source == "follower":
        return "coalesced"
    return outcome_of(outcome.source, outcome.age, took)


class StreamedAnswer:
    """The answer in a stream of chat.completion.chunk objects.

    Attributes:
        text: The text up to now.
        calls: The tool calls up to now: id, name, and arguments as JSON.
        tokens: ``input`` and ``output``, empty until the usage has arrived.
        first_part_at: The time of the first text or tool call, by ``time.perf_counter``.
    """

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[list[str]] = []
        self.tokens: dict[str, int] = {}
        self.first_part_at = 0.0

    async def read(self, stream: AsyncIterable[Any]) -> None:
        """Read ``stream`` to its end."""
        async for chunk in stream:
            if chunk.usage is not None:
                self.tokens = {"input": chunk.usage.prompt_tokens, "output": chunk.usage.completion_tokens}
            for choice in chunk.choices:
                self._add(choice.delta)

    def _add(self, delta: Any) -> None:
        if not self.first_part_at and (delta.content or delta.tool_calls):
            self.first_part_at = time.perf_counter()
        self.text += delta.content or ""
        for call in delta.tool_calls or ():
            if call.index == len(self.calls):
                self.calls.append([call.id, call.function.name, ""])
            self.calls[call.index][2] += call.function.arguments or ""
