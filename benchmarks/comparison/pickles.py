"""Notices each use of pickle."""

import contextlib
import pickle
import sys
from collections.abc import Iterator
from typing import Any

_NAMES = ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")


@contextlib.contextmanager
def pickled_by() -> Iterator[set[str]]:
    """Yield a set that receives the name of each module that pickles or unpickles before the exit."""
    modules: set[str] = set()
    originals = {name: getattr(pickle, name) for name in _NAMES}
    for name, original in originals.items():
        setattr(pickle, name, _noticing(original, modules))
    try:
        yield modules
    finally:
        for name, original in originals.items():
            setattr(pickle, name, original)


def _noticing(original: Any, modules: set[str]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        modules.add(sys._getframe(1).f_globals.get("__name__", "?"))
        return original(*args, **kwargs)

    return call
