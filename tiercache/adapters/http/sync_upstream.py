"""The response to a request of a plain client, read by a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any, Final

from ...portal.call import in_thread
from ...tiers.llm.exchanges import Headers
from .transport import flavour

__all__ = ["SyncUpstream"]

# Chunks that the thread of a response may be ahead of the private loop.
_CHUNKS_AHEAD: Final = 16
# Seconds that the end of a response waits for its thread.
_END_SECONDS: Final = 1.0


class _NotedStream:
    """The stream of a response, which calls ``note`` before it closes."""

    def __init__(self, stream: Any, note: Callable[[], None]) -> None:
        self._stream = stream
        self._note = note

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._note()
        self._stream.close()


class SyncUpstream:
    """The response to a request of a plain client: an ``Upstream``, which a thread of its own reads.

    Args:
        module: The HTTP library.
        response: Its response, whose body is not read. Made on the private loop.
    """

    def __init__(self, module: ModuleType, response: Any) -> None:
        self._response = response
        # A closed response gives its connection back, which may serve another request from then on.
        self._gives_back = threading.Lock()
        self._is_given_back: bool = response.is_closed
        response.stream = flavour(_NotedStream, module.SyncByteStream)(response.stream, self._note_close)
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        self._is_stopped = False
        self._is_read = False
        self._reading: asyncio.Future[None] | None = None
        self.status: int = response.status_code
        self.headers: Headers = tuple(response.headers.multi_items())

    async def chunks(self) -> AsyncIterator[bytes]:
        self._reading = asyncio.ensure_future(in_thread(self._read))
        self._reading.add_done_callback(self._note_failure)
        while (chunk := await self._chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            self._room.release()
            yield chunk
        self._is_read = True

    def _read(self) -> None:
        """Read the body: the thread."""
        try:
            for chunk in self._response.iter_bytes():
                self._hand_over(chunk)
                self._room.acquire()
                if self._is_stopped:
                    return
            self._hand_over(None)
        # Any error of the library, or of the caller's hooks, goes to the reader of the chunks.
        except BaseException as error:
            self._hand_over(error)
        finally:
            self._response.close()

    def _note_failure(self, reading: asyncio.Future[None]) -> None:
        """End the chunks, and the response, if the thread could not be started."""
        if not reading.cancelled() and (error := reading.exception()) is not None:
            self._chunks.put_nowait(error)
            with suppress(Exception):
                self._response.close()

    def _note_close(self) -> None:
        with self._gives_back:
            self._is_given_back = True

    def _hand_over(self, chunk: bytes | BaseException | None) -> None:
        with suppress(RuntimeError):  # The loop is closed: no reader is left.
            self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

    async def aclose(self) -> None:
        self._is_stopped = True
        if self._reading is None:
            await in_thread(self._response.close)
            return
        if not self._is_read:
            self._wake()
            self._room.release()
        await asyncio.wait([self._reading], timeout=_END_SECONDS)

    def _wake(self) -> None:
        """End the read in which the thread waits for the provider: no other thread can close its connection."""
        # A connection of HTTP/2 carries other requests too. There the thread ends with the next chunk.
        stream = self._response.extensions.get("network_stream")
        if stream is None or self._response.http_version not in ("HTTP/1.0", "HTTP/1.1"):
            return
        connection = stream.get_extra_info("socket")
        if connection is None:
            return
        # The thread may be closing the response at this moment. A connection that is shut down before that is no use
        # to another request, and the library sees so.
        with self._gives_back, suppress(OSError):
            if not self._is_given_back:
                connection.shutdown(socket.SHUT_RDWR)
