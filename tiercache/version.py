"""The installed distribution, ``tiercache-agents``: its version, and the command that installs its extras."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

__all__ = ["__version__", "extra_command", "install_command"]

_NAME: Final = "tiercache-agents"


def install_command(extras: str) -> str:
    """Return the command that installs tiercache with ``extras``, from the place it was installed from."""
    return extra_command(extras, _origin())


def extra_command(extras: str, origin: str | None) -> str:
    """Return the command that installs tiercache with ``extras``.

    Args:
        extras: Names of extras, as in ``"embedded,cli"``.
        origin: The text of direct_url.json of the installed distribution (PEP 610). None: it came from an index.
    """
    named = f"{_NAME}[{extras}]"
    if origin is None:
        return f'python -m pip install "{named}"'
    found: dict[str, Any] = json.loads(origin)
    url: str = found["url"]
    if found.get("dir_info", {}).get("editable"):
        return f'python -m pip install -e "{url2pathname(urlsplit(url).path)}[{extras}]"'
    if "vcs_info" in found:
        url = f"{found['vcs_info']['vcs']}+{url}@{found['vcs_info']['commit_id']}"
    return f'python -m pip install "{named} @ {url}"'


def _origin() -> str | None:
    """Return the text of direct_url.json of this installation, or of one like it for a tree of sources."""
    try:
        return distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        return json.dumps({"url": Path(__file__).parents[1].as_uri(), "dir_info": {}})


def _installed_version() -> str:
    try:
        return distribution(_NAME).version
    except PackageNotFoundError:
        return "0"  # A source tree that is not installed.


__version__: Final = _installed_version()
