"""The servers of single tiers: which tiers have a Valkey of their own, by ``AgentCache.clients``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import UsageError
from .stores.valkey.settings import Client, Settings, client_from_url
from .text import TIER_NAME, shown

__all__ = ["TierServers"]


class TierServers:
    """The servers that are not the main one, and the tiers that each of them keeps.

    Tiers that have the same client, or equal URLs, share a server.

    Args:
        given: The option ``clients`` of ``AgentCache``.
        state_alone: Whether only the session tier gets its server: the cache keeps no copies.

    Attributes:
        clients: A client for each server.
        numbers: By tier the number of its server, from 1.

    Raises:
        UsageError: ``given`` is wrong; the message names the tier.
    """

    def __init__(self, given: Mapping[str, Client | str] | None, *, state_alone: bool) -> None:
        self.clients: list[Client] = []
        self.numbers: dict[str, int] = {}
        if given is not None and not isinstance(given, Mapping):
            raise UsageError(f"clients must be a mapping from tiers to clients or URLs, not {type(given).__name__}")
        known: dict[Any, int] = {}
        for tier, client in (given or {}).items():
            if not isinstance(tier, str) or not TIER_NAME.fullmatch(tier):
                raise UsageError(f"clients must have names of tiers, 1 to 128 of A-Z a-z 0-9 _ -, not {shown(tier)}")
            used = _client(tier, client)
            if state_alone and tier != "session":
                continue
            same = client if isinstance(client, str) else id(client)
            if same not in known:
                self.clients.append(used)
                known[same] = len(self.clients)
            self.numbers[str.__str__(tier)] = known[same]


def _client(tier: str, client: Client | str | None) -> Client:
    if client is None:
        raise UsageError(
            f"clients[{tier!r}] must be a client or a URL, not None: a tier that is left out is on the main server"
        )
    try:
        used = client_from_url(client) if isinstance(client, str) else client
        Settings.from_client(used)
    except UsageError as error:
        raise UsageError(f"clients[{tier!r}]: {error}") from None
    return used
