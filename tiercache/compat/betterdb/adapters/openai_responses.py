"""Requests of OpenAI's responses for the llm tier, under betterdb-agent-cache's names."""

from ....adapters.openai_responses import OpenAIResponsesPrepareOptions, prepare_params

__all__ = ["OpenAIResponsesPrepareOptions", "prepare_params"]
