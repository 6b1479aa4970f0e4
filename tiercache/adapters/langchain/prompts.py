"""Prompts that an agent makes of answers from the cache.

LangChain sets ``total_cost`` to 0 in the usage of an answer that it takes from a cache. The usage is part of the prompt
of the agent's next step, but no model gets it: with the cost, the prompt would be another one after each first hit.
"""

from __future__ import annotations

import json
from typing import Any, Final

__all__ = ["without_costs"]

_COST: Final = '"total_cost": 0'


def without_costs(prompt: str) -> str:
    """Return the prompt as LangChain writes it for the same messages before any of them came from a cache."""
    if _COST not in prompt:
        return prompt
    try:
        messages = json.loads(prompt)
    except (ValueError, RecursionError):
        return prompt  # The prompt of a model for texts.
    if not isinstance(messages, list):
        return prompt
    for message in messages:
        _remove_cost(message)
    return json.dumps(messages)


def _remove_cost(message: Any) -> None:
    # Messages alone: a prompt of a model for texts may be JSON too.
    is_message = isinstance(message, dict) and message.get("lc") == 1 and message.get("type") == "constructor"
    fields = message.get("kwargs") if is_message else None
    if not isinstance(fields, dict):
        return
    usage = fields.get("usage_metadata")
    if isinstance(usage, dict) and usage.get("total_cost") == 0:
        del usage["total_cost"]
        if not usage:
            del fields["usage_metadata"]
