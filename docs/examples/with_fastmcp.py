"""A FastMCP server whose tool results are cached: two calls of the tool, and one question to the model.

python -m pip install ".[fastmcp,openai]"
"""

import asyncio
import os

from fastmcp import Client, FastMCP
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from openai import AsyncOpenAI

from tiercache import AgentCache
from tiercache.adapters.keyvalue import TierCacheKeyValue

cache = AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379"))
server = FastMCP("rivers")
server.add_middleware(ResponseCachingMiddleware(cache_storage=TierCacheKeyValue(cache)))


@server.tool
async def river(city: str) -> str:
    """Return the river that runs through a city."""
    question = {"role": "user", "content": f"Which river runs through {city}?"}
    answer = await AsyncOpenAI().chat.completions.create(model="gpt-4o-mini", messages=[question])
    return answer.choices[0].message.content or ""


async def main() -> None:
    async with cache, Client(server) as client:
        for _ in range(2):
            print((await client.call_tool("river", {"city": "Vienna"})).data)


asyncio.run(main())
