"""A failure of Valkey: an error where a caller must know of it, and a log line where an answer is paid for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...adapters.caches import UNAVAILABLE, log_of
from ...agent_cache import AgentCache
from .errors import ValkeyCommandError

__all__ = ["keeps_going", "valkey_errors"]


@contextmanager
def valkey_errors(command: str) -> Iterator[None]:
    """Raise an error of Valkey, inside of the ``with`` block, as the ValkeyCommandError of ``command``."""
    try:
        yield
    except UNAVAILABLE as error:
        raise ValkeyCommandError(command, error) from error


@contextmanager
def keeps_going(cache: AgentCache) -> Iterator[None]:
    """Log an error of Valkey in the ``with`` block, once for the cache, and raise nothing."""
    try:
        yield
    except UNAVAILABLE as error:
        log_of(cache).warn_once("an answer is not stored; its caller has the answer: %s", error)
