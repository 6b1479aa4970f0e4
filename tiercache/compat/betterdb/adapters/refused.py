"""Names that an import refuses, because a cache under them would return the answers to other requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["refusal"]


def refusal(module: str, advice: str, *names: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module that refuses ``names``.

    Args:
        module: The name of the module.
        advice: The names of tiercache to use instead.
    """

    def get(name: str) -> Any:
        if name in names:
            raise ImportError(
                f"tiercache has no {name}, whose key leaves out parts of the request: {advice}", name=module
            )
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return get
