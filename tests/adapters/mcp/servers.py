"""A server of MCP in this process that counts its calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from mcp import types
from mcp.server import CacheHint
from mcp.server.mcpserver import MCPServer

__all__ = ["READ_ONLY", "CountingServer"]

READ_ONLY = types.ToolAnnotations(read_only_hint=True)
_METHODS: tuple[Any, ...] = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")


class CountingServer(MCPServer):
    """A server with the read-only tool ``search``, which returns the number of its call.

    Attributes:
        counts: The calls of each tool, and the requests for the list of tools (``list``) and for a resource (``read``).
        release: The tool ``wait`` returns when this is set.
    """

    def __init__(self) -> None:
        hints = {method: CacheHint(ttl_ms=60_000) for method in (*_METHODS, "resources/read")}
        super().__init__("counting", cache_hints=hints)
        self.counts: Counter[str] = Counter()
        self.release = asyncio.Event()
        self.tool(annotations=READ_ONLY)(self.search)
        self.tool(annotations=READ_ONLY)(self.wait)
        self.resource("text://river")(self.river)
        self.resource("text://{city}/river")(self.river_of)
        self.prompt()(self.ask)

    def search(self, query: str) -> str:
        """Search for a text."""
        self.counts["search"] += 1
        return f"result {self.counts['search']} for {query}"

    async def wait(self, result: str = "found") -> types.CallToolResult:
        """Return a result when it is released. The result is an error if its text is so."""
        self.counts["wait"] += 1
        await self.release.wait()
        return types.CallToolResult(
            content=[types.TextContent(text=f"{result} {self.counts['wait']}")],
            structured_content={"a": [1]},
            is_error=result == "error",
        )

    def river(self) -> str:
        self.counts["read"] += 1
        return "Danube"

    def river_of(self, city: str) -> str:
        return f"The river of {city}"

    def ask(self, city: str) -> str:
        return f"Which river runs through {city}?"

    async def list_tools(self) -> list[types.Tool]:
        self.counts["list"] += 1
        return await super().list_tools()
