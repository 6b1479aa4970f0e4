"""A scripted local HTTP server that speaks the APIs of model providers, for tests, examples and demonstrations.

    with ProviderServer(Script(part_count=3)) as server:
        client = AsyncOpenAI(base_url=server.openai_url, api_key="k")
        ...
        assert server.call_count == 1

``python -m tests.providers`` runs it by itself, for the examples of the docs.
"""

from tests.providers.script import Gate, Script, ToolCall
from tests.providers.server import ProviderServer, Served

__all__ = ["Gate", "ProviderServer", "Script", "Served", "ToolCall"]
