"""Pydantic AI: betterdb-agent-cache's wrapper of models is refused."""

from .refused import refusal

__getattr__ = refusal(
    __name__,
    "give the provider a cached client, OpenAIProvider(openai_client=cache.tiercache.wrap(AsyncOpenAI()))",
    "CachedModel",
    "PydanticAIPrepareOptions",
    "prepare_params",
)
