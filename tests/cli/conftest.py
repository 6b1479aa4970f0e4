"""Fixtures: a running endpoint, and demos in their own processes."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.child_processes import PROC
from tiercache.cli.demo.endpoint import Endpoint

from .running_demo import RunningDemo


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Return an endpoint that answers without delay."""
    server = Endpoint(scale=0.0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def start_demo() -> Iterator[Callable[..., RunningDemo]]:
    """Return a function that starts a demo with the given arguments; demos that still run after the test are ended.

    The folder for temporary files has a short name, because the path of a Unix socket has at most 107 bytes.
    """
    if not PROC.joinpath("self", "stat").exists():
        pytest.skip("the test finds the processes of the demo through /proc")
    demos: list[RunningDemo] = []
    with tempfile.TemporaryDirectory(prefix="tc") as folder:

        def start(*arguments: str) -> RunningDemo:
            demos.append(RunningDemo(Path(folder), *arguments))
            return demos[-1]

        yield start
        for demo in demos:
            if demo.process.poll() is None:
                demo.process.terminate()
                demo.process.communicate()
