"""The server: listens in a thread of its own, follows scripts, and keeps a record of every request."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote

from tests.providers.answering import Answering, DiedError
from tests.providers.apis.api import Api, Reply, RequestError, as_json, token
from tests.providers.apis.routes import api_of, listed_models
from tests.providers.connection import Connection, HungUpError, RequestHead
from tests.providers.script import Script

__all__ = ["ProviderServer", "Served"]

Outcome: TypeAlias = Literal["open", "answered", "hung_up", "died"]
_DEADLINE: Final = 30.0


class Served:
    """One request, and how its answer went. The thread of the server changes it.

    Attributes:
        method: In capital letters.
        path: The path, without percent-encoding.
        query: The text after the question mark.
        headers: Names in small letters to values; several values of one name are joined by commas.
        body: The bytes of the body.
        number: The number of the call, from 1; 0 if no model answers the request.
        connection: The number of its connection, from 1.
        is_stream: Whether the answer is a stream.
        parts_sent_at: The time of each part sent so far, by ``time.monotonic``, which all processes of a machine share.
        is_ended: Whether the last event of a stream, or the whole body, is sent.
        is_eof_sent: Whether the end of the body is sent too.
        response_headers: The headers of the answer, once they are sent.
        outcome: "open", "answered", "hung_up" (by the client, before the last event) or "died" (as scripted).
    """

    def __init__(self, head: RequestHead, body: bytes, connection: int, notify: Callable[[], None]) -> None:
        self.method = head.method
        self.path = unquote(head.path)
        self.query = head.query
        self.headers: dict[str, str] = {}
        for name, value in head.headers:
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self.body = body
        self.connection = connection
        self.number = 0
        self.is_stream = False
        self.parts_sent_at: list[float] = []
        self.is_ended = False
        self.is_eof_sent = False
        self.response_headers: list[tuple[str, str]] = []
        self.outcome: Outcome = "open"
        self._notify = notify

    @property
    def params(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def parts_sent(self) -> int:
        """The number of parts sent so far."""
        return len(self.parts_sent_at)

    def head_sent(self, response_headers: list[tuple[str, str]]) -> None:
        """Record that the head is sent."""
        self.response_headers = response_headers
        self._notify()

    def part_sent(self) -> None:
        """Record that one more part is sent."""
        self.parts_sent_at.append(time.monotonic())
        self._notify()

    def ending_sent(self) -> None:
        """Record that the last event is sent."""
        self.is_ended = True
        self._notify()

    def finish(self, outcome: Outcome) -> None:
        """Record the outcome."""
        self.outcome = outcome
        self._notify()

    def __repr__(self) -> str:
        return f"<{self.method} {self.path} #{self.number} {self.outcome} after {self.parts_sent} parts>"


class ProviderServer:
    """A local HTTP/1.1 server that speaks the APIs of model providers, as scripts demand.

    Use it as a context manager, from plain code or from a coroutine. The server has its own thread and event loop, so
    that a test may block. Child processes reach it by ``url``.

    Args:
        script: The script of requests without a script of their own.
        choose: Called with each request of a model, in the thread of the server; returns its script, or None.
        port: The port on 127.0.0.1; 0 chooses a free one.

    A request takes the script that ``choose`` returns, else the next of ``enqueue``, else ``script``.
    The end of the context closes all connections, and fails if the server met an error of its own or leaves a task.
    """

    def __init__(
        self, script: Script | None = None, *, choose: Callable[[Served], Script | None] | None = None, port: int = 0
    ) -> None:
        self.script = script or Script()
        self.choose = choose
        self._queue: deque[Script] = deque()
        self._port = port
        self._requests: list[Served] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection_count = 0
        self._call_count = 0
        self._problems: list[BaseException] = []
        self._changed = threading.Condition()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="provider-server", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event

    # Addresses

    @property
    def url(self) -> str:
        """The address; the base URL of Anthropic and of Gemini."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """The base URL of OpenAI."""
        return f"{self.url}/v1"

    # Scripts

    def enqueue(self, *scripts: Script) -> None:
        """Add scripts for the next requests, each for one request."""
        self._queue.extend(scripts)

    # The record

    @property
    def requests(self) -> list[Served]:
        """Every request, in the order of arrival."""
        return list(self._requests)

    @property
    def calls(self) -> list[Served]:
        """The requests that a model answers, and for which a provider charges."""
        return [request for request in self.requests if request.number]

    @property
    def call_count(self) -> int:
        """The number of requests that a model answers."""
        return len(self.calls)

    @property
    def calls_by_path(self) -> Counter[str]:
        """The number of calls by path."""
        return Counter(call.path for call in self.calls)

    @property
    def hung_up(self) -> list[Served]:
        """The requests whose client closed the connection before the last event."""
        return [request for request in self.requests if request.outcome == "hung_up"]

    @property
    def open_requests(self) -> list[Served]:
        """The requests whose answer has not ended."""
        return [request for request in self.requests if request.outcome == "open"]

    @property
    def open_connection_count(self) -> int:
        """The number of connections, idle ones included."""
        return len(self._connections)

    @property
    def connection_count(self) -> int:
        """The number of connections since the start."""
        return self._connection_count

    def forget(self) -> None:
        """Empty the record of requests. Numbers of calls continue."""
        self._requests.clear()

    def wait_until(self, condition: Callable[[], object], seconds: float = _DEADLINE) -> None:
        """Block until ``condition`` holds; it is called again after every event of the server.

        Raises:
            AssertionError: ``condition`` does not hold within ``seconds``.
        """
        give_up_at = time.monotonic() + seconds
        with self._changed:
            while not condition():
                assert time.monotonic() < give_up_at, f"not within {seconds:g} s; {self.requests[-5:]}"
                # The condition may depend on more than the server.
                self._changed.wait(0.02)

    async def until(self, condition: Callable[[], object], seconds: float = _DEADLINE) -> None:
        """Wait until ``condition`` holds, like ``wait_until``, without blocking the event loop."""
        give_up_at = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up_at, f"not within {seconds:g} s; {self.requests[-5:]}"
            await asyncio.sleep(0.002)

    # The thread

    def __enter__(self) -> ProviderServer:
        self._thread.start()
        assert self._is_ready.wait(_DEADLINE), "the server does not start"
        if self._problems:
            raise self._problems[0]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_DEADLINE)
        assert not self._thread.is_alive(), "the server does not stop"
        if self._problems and kind is None:
            raise self._problems[0]

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve())
        except BaseException as problem:
            self._problems.append(problem)
        finally:
            self._is_ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self._note_problem(context))
        self._stopping = asyncio.Event()
        listener = await self._loop.create_server(self._accept, "127.0.0.1", self._port, backlog=1024)
        self._port = listener.sockets[0].getsockname()[1]
        self._is_ready.set()
        await self._stopping.wait()
        listener.close()
        for connection in list(self._connections):
            connection.reset()
        await asyncio.gather(*self._tasks)
        await self.until(lambda: not self._connections)  # The loop tells a connection of its end in a later step.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"the server leaves tasks: {left}"

    def _note_problem(self, context: dict[str, Any]) -> None:
        self._problems.append(context.get("exception") or RuntimeError(context["message"]))

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # One connection

    def _accept(self) -> Connection:
        self._connection_count += 1
        return Connection(self._connection_count, self._begin, self._end)

    def _begin(self, connection: Connection) -> None:
        self._connections.add(connection)
        task = self._loop.create_task(self._answer_all(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._notify()

    def _end(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._notify()

    async def _answer_all(self, connection: Connection) -> None:
        try:
            while True:
                head = await connection.read_head()
                request = Served(head, await connection.read_body(head), connection.number, self._notify)
                await self._answer(connection, request)
                if request.headers.get("connection", "").lower() == "close":
                    break
        except (HungUpError, DiedError):
            pass
        except Exception as problem:
            self._problems.append(problem)
        finally:
            connection.close()

    async def _answer(self, connection: Connection, request: Served) -> None:
        api = api_of(request.method, request.path, request.query)
        if api is not None:
            self._call_count += 1
            request.number = self._call_count
        self._requests.append(request)
        self._notify()
        try:
            if api is None:
                await self._answer_plainly(connection, request)
            else:
                await self._answer_by_model(connection, request, api)
        except HungUpError:
            # Many clients close the connection at the terminal event, before the end of the body.
            request.finish("answered" if request.is_ended else "hung_up")
            raise
        except DiedError:
            request.finish("died")
            raise
        request.is_eof_sent = True
        request.finish("answered")

    async def _answer_plainly(self, connection: Connection, request: Served) -> None:
        """Answer a request for which no model is needed."""
        status, body = 200, listed_models()
        if (request.method, request.path) != ("GET", "/v1/models"):
            status, body = 404, {"error": {"message": f"Unknown request URL: {request.method} {request.path}."}}
        headers = [("x-request-id", token("req_", 32))]
        data = b"" if request.method == "HEAD" else as_json(body)
        await Answering(connection, Script(status=status), request).send_whole(data, headers)

    async def _answer_by_model(self, connection: Connection, request: Served, api: Api) -> None:
        script = self._script_of(request)
        try:
            params = _params(request.body)
            model = api.model_of(request.path, params)
        except RequestError as error:
            script = Script(status=400, message=str(error))
            params, model = {}, ""
        answering = Answering(connection, script, request)
        if script.status != 200:
            headers = api.headers(None)
            if script.retry_after is not None:
                headers.append(("retry-after", script.retry_after))
            await answering.send_whole(as_json(api.error(script.status, script.message)), headers)
            return
        reply = Reply(request.number, script, params, model)
        request.is_stream = api.wants_stream(request.path, params)
        if request.is_stream:
            await answering.send_stream(api, reply, api.headers(reply))
        else:
            await answering.send_whole(as_json(api.whole(reply)), api.headers(reply))

    def _script_of(self, request: Served) -> Script:
        chosen = self.choose(request) if self.choose is not None else None
        if chosen is None and self._queue:
            chosen = self._queue.popleft()
        return chosen or self.script


def _params(body: bytes) -> Mapping[str, Any]:
    try:
        params = json.loads(body)
    except ValueError as error:
        raise RequestError(f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(params, dict):
        raise RequestError("The JSON body of your request must be an object.")
    return params
