"""Connection settings: from a URL or from the caller's client, checked without connecting."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, urlsplit

from valkey.asyncio import Valkey
from valkey.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from valkey.asyncio.connection import Connection as ValkeyConnection
from valkey.asyncio.connection import ConnectionPool as ValkeyConnectionPool
from valkey.exceptions import ValkeyError

from ...engine.level2.writes import Command
from ...errors import UsageError
from ...version import __version__
from .logins import Logins
from .roles import ASK_ROLE

__all__ = ["Client", "Settings", "client_from_url"]

Client: TypeAlias = Valkey

_SCHEMES: Final = ("valkey", "valkeys", "redis", "rediss", "unix")
_LOOKS_LIKE: Final = (
    "a URL looks like valkey://user:password@host:6379/0, valkeys://host:6379 (TLS) or unix:///path/to.sock?db=0"
)
_DEFAULT_MAX_CONNECTIONS: Final = 32
# The classes whose transport a ``MultiplexedConnection`` may take over. With a subclass, the takeover would bypass
# the additions of the subclass.
_PLAIN_SOCKETS: Final = (ValkeyConnection, SSLConnection, UnixDomainSocketConnection)
# The error of valkey-py for an option in a URL whose value cannot be converted.
_NAMED_OPTION: Final = re.compile(r"Invalid value for `(\w+)` in connection URL")
# The part of a refusal that repeats the arguments of the command.
_ARGUMENTS: Final = re.compile(r",? with args beginning with:.*", re.DOTALL)
# The options of valkey-py's connections: names that an error may show.
_KNOWN_OPTIONS: Final = frozenset(
    name for kind in (*_PLAIN_SOCKETS, AbstractConnection) for name in signature(kind.__init__).parameters
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Options for connections. Holds no connection, so that every event loop and every process can open its own.

    Attributes:
        connection_class: valkey-py's class for this kind of socket.
        kwargs: The arguments of ``connection_class``.
        max_connections: Upper bound on the connections of a ``PlainPool``, where each exchange has a connection to
            itself; further exchanges wait.
        multiplexes: Whether exchanges may share a connection.
        logins: The attempts to log in, over all connections that are made with these settings.
        label: The name that the server shows for each connection, or None for no name.
    """

    connection_class: type[AbstractConnection]
    kwargs: dict[str, Any] = field(repr=False)
    max_connections: int
    multiplexes: bool = True
    logins: Logins = field(default_factory=Logins, repr=False, compare=False)
    label: str | None = None

    @classmethod
    def from_client(cls, client: object, *, multiplexes: bool = True, logins: Logins | None = None) -> Settings:
        """Return the settings of a ``valkey.asyncio.Valkey``. The client's own connections are not used.

        Raises:
            UsageError: ``client`` is of another class, or its settings cannot be used to open further connections.
        """
        if not isinstance(client, Valkey):
            raise UsageError(
                f"client must be a valkey.asyncio.Valkey or None, not {type(client).__module__}.{type(client).__name__}"
            )
        pool = client.connection_pool
        if type(pool) not in (ValkeyConnectionPool, BlockingConnectionPool):
            raise UsageError(f"client has a {type(pool).__name__}, which this version does not support yet")
        kwargs = dict(pool.connection_kwargs)
        # Bytes in and bytes out, even if the client decodes replies; no client-side cache of valkey-py below this one;
        # RESP2, where pings on a subscription are answered in order with its messages. valkey-py's timeout for each
        # socket operation is off: the one deadline that each exchange has here costs half as much.
        kwargs.update(decode_responses=False, encoding="utf-8", encoding_errors="strict", socket_timeout=None)
        kwargs.update(protocol=2, cache_enabled=False, client_cache=None)
        # ``introduction`` names the connection: valkey-py would wait for the answer, and fail if the user may not.
        label = kwargs.pop("client_name", None)
        kwargs.update(lib_name=None, lib_version=None)
        reason = _unusable(pool.connection_class, kwargs)
        if reason is not None:
            raise UsageError(f"{reason}; {_LOOKS_LIKE}")
        limited = pool.max_connections < 2**31
        max_connections = pool.max_connections if limited else _DEFAULT_MAX_CONNECTIONS
        return cls(pool.connection_class, kwargs, max_connections, multiplexes, logins or Logins(), label)

    @property
    def is_multiplexed(self) -> bool:
        """Whether ``MultiplexedConnection`` takes over the connections."""
        return self.multiplexes and self.connection_class in _PLAIN_SOCKETS

    @property
    def db(self) -> int:
        """The number of the database."""
        return int(self.kwargs.get("db") or 0)

    def named(self, name: str) -> Settings:
        """Return these settings for the cache ``name``. A client name that the caller has chosen stays."""
        return self if self.label else replace(self, label=f"tiercache:{name}")

    @property
    def introduction(self) -> list[Command]:
        """The commands that every connection sends in front of its first exchange; the last one asks for the role.

        Refusals of them do not matter.
        """
        naming: list[Command] = [("CLIENT", "SETNAME", self.label)] if self.label else []
        library = ("CLIENT", "SETINFO", "LIB-NAME", "tiercache")
        return [*naming, library, ("CLIENT", "SETINFO", "LIB-VER", __version__), ASK_ROLE]

    def without_secrets(self, error: BaseException) -> BaseException:
        """Return ``error``, from making a connection, or a copy without chained errors if it shows credentials.

        A server that does not know AUTH repeats the arguments of the command in its refusal.
        """
        text = str(error)
        shown = _ARGUMENTS.sub("", text)
        for secret in (self.kwargs.get("password"), self.kwargs.get("username")):
            shown = shown.replace(str(secret), "***") if secret else shown
        if shown == text or not isinstance(error, ValkeyError):
            return error
        return type(error)(shown)

    def connection(self) -> AbstractConnection:
        """Return a new connection of valkey-py, not connected yet, outside any pool."""
        return self.connection_class(**self.kwargs)


def client_from_url(url: str) -> Client:
    """Return a client, not connected, for the server that ``url`` names.

    Raises:
        UsageError: ``url`` cannot be parsed, or has an unknown scheme. Neither the message nor a chained exception
            shows a part of a password.
    """
    if not isinstance(url, str):
        raise UsageError(f"url must be a str, not {type(url).__name__}; {_LOOKS_LIKE}")
    client, reason = _parsed(url)
    # Raised here and not where the parsing failed: the context of an exception is part of its traceback, and the errors
    # of the parsers quote the texts that they cannot parse.
    if client is None:
        raise UsageError(f"{reason}; {_LOOKS_LIKE}")
    return client


def _parsed(url: str) -> tuple[Client | None, str]:
    """Return the client for ``url``, or None and the reason, without the values that ``url`` has."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a port that is not a number
        if parts.scheme not in _SCHEMES:
            return None, f"url must begin with one of {', '.join(_SCHEMES)} and '://'"
        if parts.scheme == "unix" and not hasattr(socket, "AF_UNIX"):
            return None, "url names a Unix socket, which this system does not have; use valkey://host:port"
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else {}
        if "cluster" in options:
            return None, "url asks for a cluster, which this version does not support yet"
        # A password with one of the characters / ? # that is not percent-encoded ends there, and the rest of the
        # password would name a database or an option.
        if parts.fragment or (parts.scheme != "unix" and "@" in parts.path):
            return None, "url has a character after its host that belongs to a password or a path: percent-encode it"
        client = Valkey(connection_pool=ValkeyConnectionPool.from_url(url))
    except (ValueError, TypeError, ValkeyError) as error:
        named = _NAMED_OPTION.search(str(error))
        return None, f"url cannot be parsed: {named[1]} has a wrong value" if named else "url cannot be parsed"
    return client, ""


def _unusable(connection_class: type[AbstractConnection], kwargs: dict[str, Any]) -> str | None:
    """Return the reason why ``kwargs`` make no connection, without their values; None if they make one."""
    try:
        connection_class(**kwargs)
    except (TypeError, ValueError, ValkeyError) as error:
        # Only the names of known options: an unknown name in a URL may be a part of a password.
        known = [name for name in kwargs if name in _KNOWN_OPTIONS and _is_culprit(connection_class, kwargs, name)]
        if known:
            return f"the connection has a wrong value for {known[0]}"
        if isinstance(error, TypeError):
            return "the connection has an option that valkey-py does not know"
        return "the connection has an option with a wrong value"
    return None


def _is_culprit(connection_class: type[AbstractConnection], kwargs: dict[str, Any], name: str) -> bool:
    """Return whether a connection could be made without the option ``name``."""
    try:
        connection_class(**{key: value for key, value in kwargs.items() if key != name})
    except (TypeError, ValueError, ValkeyError):
        return False
    return True
