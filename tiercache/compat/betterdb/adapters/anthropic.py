"""Requests of Anthropic's messages for the llm tier, under betterdb-agent-cache's names."""

from ....adapters.anthropic import AnthropicPrepareOptions, prepare_params

__all__ = ["AnthropicPrepareOptions", "prepare_params"]
