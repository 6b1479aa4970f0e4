"""The package works on systems that are no Unix; only the embedded server needs one."""

from __future__ import annotations

import subprocess
import sys
import textwrap

# The modules and attributes that Windows lacks. asyncio of this system needs some of them, and so is imported first.
_WITHOUT_UNIX = """
import asyncio, importlib, os, pkgutil, signal, socket, subprocess, sys
for module in ("fcntl", "pwd", "grp", "resource", "termios", "pty", "tty", "readline", "syslog"):
    sys.modules[module] = None
# The event loop needs a socket pair, which Windows has too.
pair_of_unix, family = socket.socketpair, socket.AF_UNIX
socket.socketpair = lambda *_: pair_of_unix(family)
for owner, names in (
    (os, ("fork", "register_at_fork", "killpg", "setsid", "getuid", "waitid")),
    (signal, ("SIGKILL", "SIGHUP", "SIGCONT", "SIGSTOP", "SIGUSR1", "SIGALRM", "alarm")),
    (socket, ("AF_UNIX",)),
):
    for name in names:
        delattr(owner, name)
"""


def run_without_unix(code: str) -> str:
    """Run ``code`` in a process whose standard library lacks all that only Unix systems have; return its output."""
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_UNIX + textwrap.dedent(code)], capture_output=True, text=True, timeout=50
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_module_can_be_imported_without_unix() -> None:
    code = """
    import tiercache
    names = [each.name for each in pkgutil.walk_packages(tiercache.__path__, "tiercache.")]
    for name in names:
        try:
            if not name.endswith("__main__"):
                importlib.import_module(name)
        except ImportError as error:
            # Not every environment of the tests has the frameworks.
            may_miss = name.startswith(("tiercache.adapters.", "tiercache.compat."))
            if not (may_miss and "this adapter needs an extra" in str(error)):
                raise
    print(len(names))
    """
    assert int(run_without_unix(code)) > 100


def test_cache_in_memory_works_without_unix() -> None:
    code = """
    from tiercache import AgentCache
    async def work():
        async with AgentCache.in_memory(name="agents") as cache:
            return (await cache.kv.get_or_load("k", lambda: "answer")).value
    print(asyncio.run(work()))
    """
    assert run_without_unix(code) == "answer\n"


def test_embedded_server_and_unix_sockets_are_refused_without_unix() -> None:
    code = """
    from tiercache import AgentCache, UsageError
    from tiercache.testing import ChaosProxy
    for make in (
        lambda: AgentCache.embedded(name="agents"),
        lambda: AgentCache.from_url("unix:///tmp/s", name="agents"),
        lambda: ChaosProxy("unix:///tmp/s"),
    ):
        try:
            make()
        except UsageError as error:
            print(error)
    """
    lines = run_without_unix(code).splitlines()
    assert len(lines) == 3
    assert "Unix system" in lines[0]
    assert "Unix socket" in lines[1]
    assert "Unix socket" in lines[2]
