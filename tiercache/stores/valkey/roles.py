"""Roles: whether a server is a primary. This process reads and writes on primaries alone.

A replica may have lost the link to its primary, and then still answers, with older values. A primary becomes a replica
without ending the connections of its clients, for example after a failover. Therefore each new connection asks for the
role in front of its first exchange, and the PINGs of the listener and of the probe ask again.
"""

from __future__ import annotations

from typing import Any, Final

from valkey.exceptions import ConnectionError as ValkeyConnectionError

from ...engine.level2.writes import Command

__all__ = ["ASK_ROLE", "ReplicaError", "check_role"]

ASK_ROLE: Final[Command] = ("ROLE",)
_PRIMARY: Final = (b"master", b"primary")


class ReplicaError(ValkeyConnectionError):
    """The server is no primary, so this process uses no connection to it."""


def check_role(reply: Any) -> None:
    """Raise ReplicaError if ``reply``, the reply to ROLE, names a server that is no primary.

    A server that refuses the command counts as a primary.
    """
    if isinstance(reply, list) and reply and reply[0] not in _PRIMARY:
        raise ReplicaError(f"the server is no primary: its role is {reply[0]!r}")
