"""The SDK of Anthropic on a wrapped client: messages, whole and streamed.

python -m pip install ".[anthropic]"
"""

import asyncio
import os

from anthropic import AsyncAnthropic

from tiercache import AgentCache

MESSAGES = [{"role": "user", "content": "Which river runs through Vienna?"}]


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        client = cache.wrap(AsyncAnthropic())

        for _ in range(2):
            answer = await client.messages.create(model="claude-sonnet-5-5", max_tokens=200, messages=MESSAGES)
            print(answer.content[0].text)

        for _ in range(2):
            async with client.messages.stream(model="claude-sonnet-5-5", max_tokens=200, messages=MESSAGES) as stream:
                async for text in stream.text_stream:
                    print(text, end="", flush=True)
            print()


asyncio.run(main())
