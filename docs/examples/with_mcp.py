"""A client of an MCP server: the tool of the server runs once, and the client keeps the list of tools.

python -m pip install ".[mcp]"
"""

import asyncio
import os

from mcp import Client
from mcp.client import CacheConfig
from mcp.server import CacheHint
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

from tiercache import AgentCache
from tiercache.adapters.mcp import TierCacheResponseStore, TierCacheTools

server = MCPServer("rivers", cache_hints={"tools/list": CacheHint(ttl_ms=600_000)})


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def river(city: str) -> str:
    """Return the river that runs through a city."""
    print("The tool runs.")
    return f"The Danube runs through {city}."


async def main() -> None:
    async with AgentCache.from_url(os.environ.get("VALKEY_URL", "valkey://localhost:6379")) as cache:
        kept = CacheConfig(store=TierCacheResponseStore(cache), partition="ada", target_id="rivers")
        async with Client(server, cache=kept) as client:
            tools = TierCacheTools(cache, client, server="rivers", ttl="10m")
            for _ in range(2):
                result = await tools.call_tool("river", {"city": "Vienna"})
                print(result.content[0].text)


asyncio.run(main())
