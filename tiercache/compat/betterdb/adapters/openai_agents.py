"""OpenAI Agents: betterdb-agent-cache's wrappers of models are refused."""

from .refused import refusal

__getattr__ = refusal(
    __name__,
    "give the model a cached client, OpenAIResponsesModel(name, cache.tiercache.wrap(AsyncOpenAI()))",
    "CachedModel",
    "CachedModelProvider",
    "OpenAIAgentsPrepareOptions",
    "prepare_params",
)
