"""The messages between the processes of the demo: settings in the argument list, replies as one JSON line each.

A worker writes ``Progress`` lines; the last line has the worker's tally. The endpoint writes ``EndpointReady`` and,
when its standard input ends, ``EndpointDone``. A child reads ``GO`` from its standard input; the end of the input means
that the parent is gone.
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
        scale: Fraction of the modelled latency that the endpoint really waits, 0 to 1.
        sdk: The version of OpenAI's SDK by which the agents stream; None: they load whole answers without an SDK.
    """

    requests: int = 4000
    workers: int = 4
    agents: int = 32
    seed: int = 1
    scale: float = 1.0
    sdk: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of one worker."""

    demo: DemoSettings
    number: int
    url: str
    endpoint_port: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The counts of a worker up to now. The first message, with ``done=0``, means that the worker is ready."""

    done: int = 0
    hits: int = 0
    saved: float = 0.0
    tally: Tally | None = None


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """The settings of the endpoint."""

    scale: float


@dataclass(frozen=True, slots=True)
class EndpointReady:
    """The endpoint listens on ``port``."""

    port: int


@dataclass(frozen=True, slots=True)
class EndpointDone:
    """The endpoint's own counts, for a comparison with the workers' counts."""

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
    """Write one line to standard output and flush it."""
    sys.stdout.write(encode(message) + "\n")
    sys.stdout.flush()


def listen_to_parent(on_end: Callable[[], None]) -> threading.Event:
    """Return an event that is set when the parent sends ``GO``; call ``on_end`` when the parent's pipe ends.

    The pipe ends when the parent closes the pipe, or when the parent itself ends. A daemon thread reads the file
    descriptor directly, because a thread inside ``sys.stdin`` would hold its lock when the interpreter ends.
    """
    go = threading.Event()

    def listen() -> None:
        while os.read(0, 64):
            go.set()
        on_end()

    threading.Thread(target=listen, name="parent", daemon=True).start()
    return go
