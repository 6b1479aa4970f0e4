"""The endpoint: a program that speaks the OpenAI chat-completions wire format on 127.0.0.1, as slowly as a model.

The endpoint stands in for the model provider, in its own process. ``answers`` decides the text and the latency of each
answer. Wire format: https://platform.openai.com/docs/api-reference/chat, whole and streamed.
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .answers import Answer, answer
from .bundled import bundled
from .events import LAST_EVENT, chunks, event, usage_of
from .messages import EndpointDone, EndpointReady, EndpointSettings, decode, listen_to_parent, send

COMPLETIONS_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
MAX_BODY_BYTES = 4 * 1024 * 1024


class RequestError(Exception):
    """A bad request. Its answer is an error object of OpenAI's form."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def parse_request(body: bytes) -> dict[str, Any]:
    """Return the parameters of a chat completion.

    Raises:
        RequestError: The body is not JSON, or lacks a model or messages.
    """
    try:
        params = json.loads(body)
    except ValueError as error:
        raise RequestError(400, f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(params, dict):
        raise RequestError(400, "The JSON body of your request has to be an object.")
    model = params.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError(400, "you must provide a model parameter", param="model")
    if model not in bundled("models"):
        raise RequestError(404, f"The model `{model}` does not exist.", param="model", code="model_not_found")
    messages = params.get("messages")
    if not messages:
        message = "Missing required parameter: 'messages'."
        raise RequestError(400, message, param="messages", code="missing_required_parameter")
    if not isinstance(messages, list) or not all(isinstance(item, dict) and "role" in item for item in messages):
        message = "Invalid type for 'messages': expected an array of objects with a role."
        raise RequestError(400, message, param="messages", code="invalid_type")
    return params


def question_of(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that decide the answer: a stream has the text of the whole answer."""
    return {name: value for name, value in params.items() if name not in ("stream", "stream_options")}


def completion_object(params: dict[str, Any], reply: Answer, created: int) -> dict[str, Any]:
    """Return the chat.completion object for the answer ``reply``."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_call is not None:
        function = {"name": reply.tool_call.name, "arguments": json.dumps(reply.tool_call.arguments)}
        message["tool_calls"] = [{"id": reply.tool_call.id, "type": "function", "function": function}]
    reason = "stop" if reply.tool_call is None else "tool_calls"
    return {
        "id": f"chatcmpl-{reply.digest}",
        "object": "chat.completion",
        "created": created,
        "model": params["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": usage_of(reply),
        "system_fingerprint": "fp_tiercache_demo",
    }


class Endpoint(ThreadingHTTPServer):
    """The HTTP server, with the scale of its latencies and the counts of its requests."""

    daemon_threads = True
    request_queue_size = 512  # all agents connect at the same moment

    def __init__(self, scale: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scale = scale
        self.completions = 0
        self.errors = 0
        self._lock = threading.Lock()

    def count(self, *, failed: bool) -> None:
        """Count one request. Each connection's thread calls this method."""
        with self._lock:
            if failed:
                self.errors += 1
            else:
                self.completions += 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error of a client that hung up, for example a stopped worker; print every other error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Handles the requests of one kept-alive connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer a chat-completions request."""
        started = time.perf_counter()
        try:
            body = self._read_body()
            if self.path != COMPLETIONS_PATH:
                raise self._wrong_url()
            params = parse_request(body)
        except RequestError as error:
            self._reply_error(error)
            return
        reply = answer(question_of(params))
        self._endpoint.count(failed=False)
        if params.get("stream"):
            self._stream(params, reply, started)
            return
        self._wait_until(started, reply.latency)
        took_ms = str(round((time.perf_counter() - started) * 1000))
        self._reply(200, completion_object(params, reply, int(time.time())), {"openai-processing-ms": took_ms})

    def _stream(self, params: dict[str, Any], reply: Answer, started: float) -> None:
        """Send the answer in parts: the first after ``first_latency``, the last after ``latency``, at an even pace."""
        every = list(chunks(params, reply, int(time.time())))
        pause = (reply.latency - reply.first_latency) / (len(every) - 1)
        self._wait_until(started, reply.first_latency)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, chunk in enumerate(every):
            self._wait_until(started, reply.first_latency + number * pause)
            self._send_chunk(event(chunk))
        self._send_chunk(LAST_EVENT)
        self._send_chunk(b"")

    def _wait_until(self, started: float, latency: float) -> None:
        """Wait until ``latency`` has passed since ``started``, scaled."""
        time.sleep(max(0.0, latency * self._endpoint.scale - (time.perf_counter() - started)))

    def _send_chunk(self, data: bytes) -> None:
        """Send a chunk of a body of unknown length; the empty chunk is the end (RFC 9112, section 7.1)."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def do_GET(self) -> None:
        """Return the list of models, or an error for another URL."""
        if self.path == MODELS_PATH:
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "demo"} for name in bundled("models")]
            self._reply(200, {"object": "list", "data": models})
        else:
            self._reply_error(self._wrong_url())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that the HTTP parser refuses, in the form of every other error, and hang up."""
        self.close_connection = True
        self._reply_error(RequestError(code, message or explain or "Bad request."))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write no log, because standard error is for errors only."""

    @property
    def _endpoint(self) -> Endpoint:
        assert isinstance(self.server, Endpoint)
        return self.server

    def _wrong_url(self) -> RequestError:
        if self.path in (COMPLETIONS_PATH, MODELS_PATH):
            return RequestError(405, f"Not allowed to {self.command} on {self.path}.", code="method_not_supported")
        return RequestError(404, f"Unknown request URL: {self.command} {self.path}.", code="unknown_url")

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # the body stays unread, so the start of the next request is unknown
            raise RequestError(
                413 if length.isdecimal() else 411, f"A Content-Length of at most {MAX_BODY_BYTES} is needed."
            )
        return self.rfile.read(int(length))

    def _reply_error(self, error: RequestError) -> None:
        self._endpoint.count(failed=True)
        self._reply(error.status, error.body)

    def _reply(self, status: int, payload: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(payload, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Serve until standard input ends, then send the counts."""
    endpoint = Endpoint(decode(sys.argv[1], EndpointSettings).scale)

    def finish() -> None:
        try:
            send(EndpointDone(endpoint.completions, endpoint.errors))
        finally:
            os._exit(0)  # the threads of open connections may still be asleep

    listen_to_parent(finish)
    send(EndpointReady(endpoint.server_address[1]))
    endpoint.serve_forever()
