"""The right answer to a request: its text or tool call, its tokens, and the latency of a model.

These are plain functions of the request. The endpoint uses them to answer, and the workers use them to check the
answers that they receive. Every answer contains the digest of its request: no two requests share an answer, and no
mix-up stays hidden.
"""

import hashlib
import json
import math
import random
from dataclasses import dataclass
from typing import Any

from .bundled import bundled

CHARACTERS_PER_TOKEN = 4  # the usual ratio for English text
TOKENS_PER_MESSAGE = 4  # role and separators
MAX_LATENCY = 12.0
_SLOW_FRACTION = 0.03  # the fraction of requests that meet a busy model


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one tool, with the arguments that the model chose."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a model to one request.

    Attributes:
        latency: Seconds until the whole answer, at full scale.
        first_latency: Seconds until its first part.
    """

    digest: str
    text: str | None
    tool_call: ToolCall | None
    prompt_tokens: int
    completion_tokens: int
    latency: float
    first_latency: float


def digest_of(params: dict[str, Any]) -> str:
    """Return a digest of all parameters, 32 hex characters that do not depend on the order of the keys."""
    text = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def answer(params: dict[str, Any]) -> Answer:
    """Return the answer to ``params``, a chat-completions request with ``model`` and ``messages``."""
    digest = digest_of(params)
    rng = random.Random(int(digest, 16))
    tools = params.get("tools")
    tool_call = _call_tool(tools, params, digest, rng) if tools and params.get("tool_choice") != "none" else None
    text = None if tool_call else _write_text(params, digest, rng)
    shown = json.dumps(tool_call.arguments) + tool_call.name if tool_call else text or ""
    prompt_tokens = count_prompt_tokens(params)
    completion_tokens = count_tokens(shown)
    if "reasoning_effort" in params:  # hidden reasoning is billed as output
        completion_tokens += rng.randrange(120, 700)
    first_latency, latency = _model_latencies(params["model"], prompt_tokens, completion_tokens, rng)
    return Answer(digest, text, tool_call, prompt_tokens, completion_tokens, latency, first_latency)


def count_tokens(text: str) -> int:
    """Return an estimate by length. A real tokenizer would be a dependency and give nearly the same number."""
    return max(1, math.ceil(len(text) / CHARACTERS_PER_TOKEN))


def count_prompt_tokens(params: dict[str, Any]) -> int:
    """Return the estimated input tokens of the contents, the tool calls and the tool definitions."""
    count = 0
    for message in params["messages"]:
        content = message.get("content")
        parts = [content if isinstance(content, str) else json.dumps(content)] if content else []
        if "tool_calls" in message:
            parts.append(json.dumps(message["tool_calls"]))
        count += TOKENS_PER_MESSAGE + sum(map(count_tokens, parts))
    if params.get("tools"):
        count += count_tokens(json.dumps(params["tools"]))
    return count


def _write_text(params: dict[str, Any], digest: str, rng: random.Random) -> str:
    data = bundled("answers")
    sentences: list[str] = rng.sample(data["sentences"], rng.randrange(3, 13))
    if params.get("response_format", {}).get("type") == "json_object":
        return json.dumps(
            {"team": "platform", "priority": f"P{rng.randrange(1, 5)}", "reason": sentences[0], "ref": digest}
        )
    text: str = rng.choice(data["openers"])
    ending = f"\n\nRef {digest}"
    for sentence in sentences:
        if count_tokens(f"{text} {sentence}{ending}") > params.get("max_tokens", math.inf):
            break
        text += " " + sentence
    return text + ending


def _call_tool(tools: list[dict[str, Any]], params: dict[str, Any], digest: str, rng: random.Random) -> ToolCall:
    function = rng.choice(tools)["function"]
    last = next((m["content"] for m in reversed(params["messages"]) if m["role"] == "user"), "")
    words = str(last).split() or ["nothing"]
    schema = function.get("parameters") or {}
    arguments = {name: _fill(rule, words, rng) for name, rule in schema.get("properties", {}).items()}
    return ToolCall(f"call_{digest}", function["name"], arguments)


def _fill(rule: dict[str, Any], words: list[str], rng: random.Random) -> Any:
    """Return a value that the JSON schema ``rule`` of one property allows."""
    if "enum" in rule:
        return rng.choice(rule["enum"])
    match rule.get("type"):
        case "boolean":
            return rng.random() < 0.5
        case "integer" | "number":
            low = rule.get("minimum", 0)
            return rng.randint(math.ceil(low), int(rule.get("maximum", math.ceil(low) + 100)))
        case _:
            start = rng.randrange(len(words))
            return " ".join(words[start : start + 3])


def _model_latencies(model: str, prompt_tokens: int, completion_tokens: int, rng: random.Random) -> tuple[float, float]:
    """Return the time to read the prompt, and this time plus a time for each token of the answer.

    Some latencies are very long.
    """
    models: dict[str, dict[str, float]] = bundled("models")
    speed = models.get(model) or models["gpt-4o"]
    first_token = (speed["first_token"] + prompt_tokens / 20_000) * rng.lognormvariate(0, 0.35)
    writing = completion_tokens / speed["tokens_per_second"] * rng.lognormvariate(0, 0.2)
    busy = rng.uniform(2, 4) if rng.random() < _SLOW_FRACTION else 1
    latency = min(MAX_LATENCY, (first_token + writing) * busy)
    return min(first_token * busy, latency), latency
