"""The embedded server: private, with its data in ``data_dir``, and always ended with its owner."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import valkey

from tests.child_processes import python_with_default_signals, wait_until
from tests.requests import HELLO, Loader
from tests.seams import embedded_server, hide_embedded_extra, run_dir_of
from tiercache import AgentCache, L2UnavailableError, UsageError
from tiercache.embedded import EmbeddedValkey
from tiercache.version import install_command


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def pid_of(url: str) -> int:
    with valkey.Valkey.from_url(url) as client:
        return int(client.info("server")["process_id"])


async def test_embedded_server_serves_a_cache_and_ends_with_it() -> None:
    async with AgentCache.embedded(name="mine", default_ttl=60) as cache:
        assert (await cache.llm.get_or_load(HELLO, Loader())).source == "loader"
        await cache.flush_writes()
        cache.clear_l1()
        assert (await cache.llm.get_or_load(HELLO, Loader())).source == "l2"
        server = embedded_server(cache)
        pid, run_dir = pid_of(server.url), run_dir_of(server)
        assert run_dir.stat().st_mode & 0o777 == 0o700
    assert not is_running(pid)
    assert not run_dir.exists()


async def test_embedded_server_keeps_entries_and_lifetimes_in_data_dir(tmp_path: Path) -> None:
    for expected in ("loader", "l2"):
        async with AgentCache.embedded(tmp_path / "data", default_ttl=1000) as cache:
            result = await cache.llm.get_or_load(HELLO, Loader())
            assert result.source == expected
            assert result.ttl is not None
            assert 900 < result.ttl <= 1000


def test_embedded_server_refuses_a_data_dir_in_use(tmp_path: Path) -> None:
    first, second = EmbeddedValkey(tmp_path), EmbeddedValkey(tmp_path)
    first.start()
    with pytest.raises(UsageError, match="in use"):
        second.start()
    first.stop()
    second.start()
    second.stop()


def test_embedded_server_names_a_data_dir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"data_dir .*file"):
        EmbeddedValkey(tmp_path / "file").start()


def test_embedded_server_shows_its_log_if_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    server = EmbeddedValkey(tmp_path)
    with pytest.raises(L2UnavailableError, match=r"(?s)end of its log:\n.*append-only dir"):
        server.start()
    assert not run_dir_of(server).exists()


def test_embedded_server_ignores_a_second_start_and_stop() -> None:
    server = EmbeddedValkey()
    server.stop()
    server.start()
    pid = pid_of(server.url)
    server.start()
    assert pid_of(server.url) == pid
    server.stop()
    server.stop()
    assert not is_running(pid)
    server.start()
    assert pid_of(server.url) != pid
    server.stop()


OWNER = """
import asyncio, sys, time
import valkey
from tests.seams import embedded_server, run_dir_of
from tiercache import AgentCache
cache = AgentCache.embedded()
async def main():
    await cache.llm.store({"model": "m", "messages": []}, "x")
asyncio.run(main())
server = embedded_server(cache)
with valkey.Valkey.from_url(server.url) as client:
    print(client.info("server")["process_id"], run_dir_of(server), flush=True)
if sys.argv[1] == "wait":
    time.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("end", [None, signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_embedded_server_ends_with_its_owner(end: signal.Signals | None) -> None:
    command = python_with_default_signals("-c", OWNER, "go on" if end is None else "wait")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid_and_folder = process.stdout.readline().decode().split()
        pid, run_dir = int(pid_and_folder[0]), Path(pid_and_folder[1])
        if end is not None:
            assert is_running(pid)
            process.send_signal(end)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode == 0) == (end is None), errors
    wait_until(lambda: not is_running(pid) and not run_dir.exists(), "the server and its folder are gone", deadline=20)


def test_embedded_server_names_a_temporary_directory_with_a_path_too_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))
    with pytest.raises(UsageError, match=r"temporary directory.*too long"):
        EmbeddedValkey().start()


def test_embedded_server_survives_stop_in_a_forked_child() -> None:
    server = EmbeddedValkey()
    server.start()
    pid = os.fork()
    if not pid:
        server.stop()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert is_running(pid_of(server.url))
    server.stop()


def test_embedded_server_made_before_a_fork_starts_in_each_process() -> None:
    server = EmbeddedValkey()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            server.start()
            server.stop()
            code = 0
        finally:
            os._exit(code)
    server.start()
    assert os.waitpid(pid, 0)[1] == 0
    assert pid_of(server.url)
    server.stop()


def test_embedded_server_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_embedded_extra(monkeypatch)
    with pytest.raises(UsageError, match=re.escape(install_command("embedded"))):
        AgentCache.embedded()
