"""A model provider on 127.0.0.1 that speaks chat completions and counts its requests."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = ("text", "tools", "several", "refusal", "cut")
"""The kinds of answers: a text, a call of a tool, two choices, a refusal, a text that the token limit cut off."""
USAGE = {"prompt_tokens": 31, "completion_tokens": 12, "total_tokens": 43}
_COMMON = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "gpt-4o"}


class Model(ThreadingHTTPServer):
    """The provider. ``kind`` and ``latency`` may change between requests.

    Attributes:
        kind: One of `KINDS`.
        latency: Seconds that a request takes.
        arrived: Set when a request has arrived.
        gate: Requests wait until it is set.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kind = "text"
        self.latency = 0.0
        self.arrived = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._asked = 0
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def asked(self) -> int:
        """The number of requests so far."""
        return self._asked

    def count(self) -> int:
        """Count a request and return its number."""
        with self._lock:
            self._asked += 1
        self.arrived.set()
        return self._asked

    def close(self) -> None:
        """Stop, and release the port."""
        self.gate.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the errors of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        model = self.server
        assert isinstance(model, Model)
        params = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = model.count()
        time.sleep(model.latency)
        model.gate.wait()
        if params.get("stream"):
            self._reply("text/event-stream", _events(number, model.kind))
        else:
            choices = _choices(number, model.kind)
            body = {**_COMMON, "object": "chat.completion", "choices": choices, "usage": USAGE}
            self._reply("application/json", json.dumps(body).encode())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write no log."""

    def _reply(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _choices(number: int, kind: str) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": f"Answer {number}", "refusal": None}
    finish = "length" if kind == "cut" else "stop"
    if kind == "tools":
        function = {"name": "search", "arguments": json.dumps({"query": f"question {number}"})}
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        finish = "tool_calls"
    elif kind == "refusal":
        message |= {"content": None, "refusal": f"I will not answer {number}."}
    choices = [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
    if kind == "several":
        other = {"role": "assistant", "content": f"Another answer {number}", "refusal": None}
        choices.append({"index": 1, "message": other, "finish_reason": "stop", "logprobs": None})
    return choices


def _events(number: int, kind: str) -> bytes:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in ("Answer ", str(number), " in ", "parts.")]
    finish = "length" if kind == "cut" else "stop"
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    events = [{**_COMMON, "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"
