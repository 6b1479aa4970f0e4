"""The workers' HTTP client for the endpoint: one kept-alive connection for each thread, and the parsing of replies."""

import asyncio
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...tiers.llm.result import LlmResponse


class EndpointClient:
    """Calls the endpoint on 127.0.0.1, with at most ``concurrency`` calls in flight."""

    def __init__(self, port: int, concurrency: int) -> None:
        self._port = port
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="endpoint")
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Wait for the calls in flight and close the connections."""
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()

    async def call_llm(self, params: dict[str, Any]) -> LlmResponse:
        """Call the model and return its answer with the token counts. This is the loader of the demo.

        Raises:
            OSError: The endpoint is unreachable.
            RuntimeError: The endpoint answered with an error.
        """
        loop = asyncio.get_running_loop()
        return read_completion(await loop.run_in_executor(self._pool, self._post, params))

    def _post(self, params: dict[str, Any]) -> dict[str, Any]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            self._connections.append(connection)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(params).encode(), headers)
        reply = connection.getresponse()
        body = json.loads(reply.read())
        if reply.status != 200:
            raise RuntimeError(f"The endpoint answered {reply.status}: {body['error']['message']}")
        return dict(body)


def read_completion(completion: dict[str, Any]) -> LlmResponse:
    """Return the part of a chat.completion object that the cache stores: text, tool calls as content blocks, tokens."""
    message, usage = completion["choices"][0]["message"], completion["usage"]
    blocks: list[dict[str, Any]] = [
        {
            "type": "tool_call",
            "id": call["id"],
            "name": call["function"]["name"],
            "args": json.loads(call["function"]["arguments"]),
        }
        for call in message.get("tool_calls", ())
    ]
    return LlmResponse(
        message["content"] or "",
        tokens={"input": usage["prompt_tokens"], "output": usage["completion_tokens"]},
        content_blocks=blocks or None,
    )
