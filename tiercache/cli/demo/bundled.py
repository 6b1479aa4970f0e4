"""The bundled texts of the requests and answers, read from the package's ``data`` folder."""

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

_PACKAGE = __name__.rpartition(".")[0]


@cache
def bundled(name: str) -> Any:
    """Return the decoded ``data/<name>.json``. All callers share the object and must not change it."""
    return msgspec.json.decode(files(_PACKAGE).joinpath("data", f"{name}.json").read_bytes())
