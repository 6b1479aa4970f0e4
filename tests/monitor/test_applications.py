"""Two applications with the default name: a warning says that they read each other's values."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import valkey

from tests.support import MakeCache
from tiercache.monitor.applications import DEFAULT_NAME, new_member, program_digest

ALIVE = f"{DEFAULT_NAME}:__tc:alive"
LATER = time.time() + 3600
# Opens a cache, says so, and stays open until its input ends.
PROGRAM = """
import asyncio, sys
from tiercache import AgentCache

async def main():
    url, *name = sys.argv[1:]
    async with AgentCache.from_url(url, **({"name": name[0]} if name else {})):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def about_names(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in (record.getMessage() for record in caplog.records) if "another program" in text]


@pytest.mark.parametrize(
    ("member", "expiry", "is_warned"),
    [
        ("0123abcd-0123456789abcdef", LATER, True),
        ("0123abcd-0123456789abcdef", 1.0, False),
        ("0123456789abcdef", LATER, False),
        ("-0123456789abcdef", LATER, False),
        ("", LATER, False),
    ],
    ids=["another program", "expired", "an older version", "a shell", "this program"],
)
async def test_default_name_is_warned_about_if_another_program_is_alive(
    make_cache: MakeCache,
    plain: valkey.Valkey,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    member: str,
    expiry: float,
    is_warned: bool,
) -> None:
    # A process of pytest-xdist has no program of its own.
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__="app.py", __spec__=None))
    plain.zadd(ALIVE, {member or new_member(): expiry})
    await make_cache().open()
    assert len(about_names(caplog)) == is_warned


async def test_default_name_is_no_warning_for_a_name_of_its_own(
    make_cache: MakeCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain.zadd("test:__tc:alive", {"0123abcd-0123456789abcdef": LATER})
    await make_cache(name="test").open()
    assert not about_names(caplog)


def warned(url: str, first: Path, second: Path, *name: str) -> bool:
    """Run two programs at once; return whether the second one warns about the first."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    commands = [[sys.executable, str(path), url, *name] for path in (first, second)]
    with subprocess.Popen(commands[0], text=True, **pipes) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "open\n"
        other = subprocess.run(commands[1], input="", capture_output=True, text=True, timeout=50, check=True)
        _, errors = running.communicate("")
    assert "another program" not in errors
    return "another program uses the default name" in other.stderr


def test_default_name_of_two_programs_is_warned_about(url: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    for path in (one, two):
        path.write_text(PROGRAM)
    assert warned(url, one, two)
    assert not warned(url, one, one)
    assert not warned(url, one, two, "agents")


def test_program_is_known_by_its_module_or_file_and_by_its_folder() -> None:
    file = SimpleNamespace(__file__="/srv/app.py", __spec__=None)
    module = SimpleNamespace(__file__="/lib/uvicorn/__main__.py", __spec__=SimpleNamespace(name="uvicorn.__main__"))
    digests = [program_digest(main, folder) for main in (file, module) for folder in ("/a", "/b")]
    assert len(set(digests)) == 4
    assert all(len(digest) == 8 for digest in digests)
    assert program_digest(SimpleNamespace(__spec__=None), "/a") == ""
