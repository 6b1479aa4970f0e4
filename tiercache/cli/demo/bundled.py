"""The bundled texts: requests and answers written for the demo, read from the package's ``data`` folder."""

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

_PACKAGE = __name__.rpartition(".")[0]


@cache
def bundled(name: str) -> Any:
    """Return ``data/<name>.json`` decoded. The object is shared by all callers: read, never change."""
    return msgspec.json.decode(files(_PACKAGE).joinpath("data", f"{name}.json").read_bytes())
