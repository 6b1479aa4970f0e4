"""A chat completion by a function of your own, with the key of betterdb-agent-cache where that key is safe.

python -m pip install ".[openai]"
"""

import asyncio
import os

from openai import AsyncOpenAI

from tiercache import AgentCache, LlmResponse
from tiercache.adapters.openai import prepare_params

REQUEST = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Which river runs through Vienna?"}],
    "max_completion_tokens": 200,
}


async def main() -> None:
    client = AsyncOpenAI()
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:

        async def ask() -> LlmResponse:
            answer = await client.chat.completions.create(**REQUEST)
            tokens = {"input": answer.usage.prompt_tokens, "output": answer.usage.completion_tokens}
            return LlmResponse(answer.choices[0].message.content, tokens=tokens)

        for _ in range(2):
            params = await prepare_params(REQUEST)
            result = await cache.llm.get_or_load(params, ask, mode=params.mode)
            print(result.response, result.tokens["output"])


asyncio.run(main())
