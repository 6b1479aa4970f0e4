"""Chats of LlamaIndex for the llm tier, under betterdb-agent-cache's names."""

from ....adapters.llamaindex.params import LlamaIndexPrepareOptions, prepare_params

__all__ = ["LlamaIndexPrepareOptions", "prepare_params"]
