"""Mapping of errors: the one place where errors of valkey-py become errors of tiercache."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Final

from valkey import exceptions as valkey_errors

from ...errors import (
    L2CommandError,
    L2LoginError,
    L2NotNowError,
    L2ReplicaError,
    L2SilentError,
    L2UnavailableError,
    TierCacheError,
)
from .roles import ReplicaError

__all__ = ["OpeningTimeoutError", "checked", "is_not_now", "map_error", "map_errors"]

# Error replies of a server that cannot carry the command out now: it is starting, failing over, running a long script,
# out of client slots, cannot save to its disk (MISCONF), or has too few replicas (NOREPLICAS). A transaction has the
# code behind "because of:", and a script on an older server behind a dash.
_NOT_NOW: Final = re.compile(
    r"(?:^|because of: -?|^ERR .*-)"
    r"(?:LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|READONLY|NOREPLICAS|MISCONF|BUSY|max number of clients)\b"
)


class OpeningTimeoutError(TimeoutError):
    """A connection was not open within its deadline, which is longer than that of an exchange."""


def map_error(error: Exception, action: str) -> TierCacheError | None:
    """Return the tiercache error for ``error``, or None if ``error`` is a defect of this package.

    Args:
        action: The attempted action, for the message.
    """
    # Tested before ConnectionError, their base class: otherwise wrong credentials would look like an outage.
    if isinstance(error, valkey_errors.AuthenticationError | valkey_errors.AuthorizationError):
        return L2LoginError(f"Valkey refused the credentials or the database ({action}): {error}")
    if isinstance(error, valkey_errors.DataError):
        return None
    if isinstance(error, ReplicaError):
        return L2ReplicaError(f"Valkey cannot be used ({action}): {error}")
    if isinstance(error, OpeningTimeoutError):
        return L2SilentError(f"Valkey did not answer in time while a connection was opened ({action})")
    if isinstance(error, TimeoutError | valkey_errors.TimeoutError):
        return L2UnavailableError(f"Valkey did not answer in time ({action})")
    if isinstance(error, OSError | valkey_errors.ConnectionError | valkey_errors.InvalidResponse):
        return L2UnavailableError(f"Valkey cannot be reached ({action}): {error}")
    if isinstance(error, valkey_errors.ResponseError):
        if isinstance(error, valkey_errors.ReadOnlyError):
            return L2ReplicaError(f"Valkey cannot be used ({action}): {error}")
        if is_not_now(error):
            return L2NotNowError(f"Valkey cannot carry out {action} now: {error}")
        return L2CommandError(f"Valkey refused {action}: {error}")
    return None


def is_not_now(reply: object) -> bool:
    """Return whether ``reply`` is the error of a server that may carry the same command out later."""
    # valkey-py takes the code READONLY out of the text.
    return isinstance(reply, valkey_errors.ReadOnlyError) or (
        isinstance(reply, valkey_errors.ResponseError) and _NOT_NOW.search(str(reply)) is not None
    )


def checked(reply: Any, action: str) -> Any:
    """Return ``reply``, the reply to ``action``; raise the mapped error if the reply is a refusal."""
    if isinstance(reply, valkey_errors.ResponseError):
        raise map_error(reply, action) or reply
    return reply


class map_errors:  # noqa: N801 - reads as a statement: ``with map_errors("GET"):``
    """Context manager that raises the tiercache error for an error of valkey-py. See ``map_error``."""

    __slots__ = ("_action",)

    def __init__(self, action: str) -> None:
        self._action = action

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            mapped = map_error(error, self._action)
            if mapped is not None:
                raise mapped from error
