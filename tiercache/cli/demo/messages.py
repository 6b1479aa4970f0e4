"""What passes between the processes of the demo: settings in the argument list, one JSON line after the other back.

A worker writes ``Progress`` lines, the last of them with its tally. The endpoint writes ``EndpointReady`` and, when its
standard input ends, ``EndpointDone``. Standard input carries ``GO`` and, by its end, the news that the parent is gone.
"""

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from .tally import Tally

GO = b"go\n"

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """The options of the demo.

    Attributes:
        agents: Concurrent agents in each worker.
        scale: Part of the modelled latency that is really waited, 0 to 1.
    """

    requests: int = 4000
    workers: int = 4
    agents: int = 32
    seed: int = 1
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What one worker has to know."""

    demo: DemoSettings
    number: int
    url: str
    endpoint_port: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A worker's counts so far. The first, with ``done=0``, says that it is ready to go."""

    done: int = 0
    hits: int = 0
    saved: float = 0.0
    tally: Tally | None = None


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What the endpoint has to know."""

    scale: float


@dataclass(frozen=True, slots=True)
class EndpointReady:
    """The endpoint listens."""

    port: int


@dataclass(frozen=True, slots=True)
class EndpointDone:
    """The endpoint's own count, to hold against what the workers say."""

    completions: int
    errors: int


def encode(message: object) -> str:
    """Return one line of JSON, without its newline."""
    return msgspec.json.encode(message).decode()


def decode(line: bytes | str, kind: type[M]) -> M:
    """Return the message of type ``kind`` in ``line``.

    Raises:
        msgspec.DecodeError: The line is not such a message.
    """
    return msgspec.json.decode(line, type=kind)


def send(message: object) -> None:
    """Write one line to standard output, at once."""
    sys.stdout.write(encode(message) + "\n")
    sys.stdout.flush()


def listen_to_parent(on_end: Callable[[], None]) -> threading.Event:
    """Return an event that is set when the parent says ``GO``; call ``on_end`` when it closes the pipe or is gone.

    The thread reads the file descriptor itself: a daemon thread inside ``sys.stdin`` would hold its lock when the
    interpreter ends.
    """
    go = threading.Event()

    def listen() -> None:
        while os.read(0, 64):
            go.set()
        on_end()

    threading.Thread(target=listen, name="parent", daemon=True).start()
    return go
