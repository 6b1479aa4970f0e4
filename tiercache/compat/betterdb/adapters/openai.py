"""Requests of OpenAI's chat completions for the llm tier, under betterdb-agent-cache's names."""

from ....adapters.openai import OpenAIPrepareOptions, prepare_params

__all__ = ["OpenAIPrepareOptions", "prepare_params"]
