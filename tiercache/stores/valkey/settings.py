"""Connection settings: from a URL or from the caller's client, checked without connecting."""

from __future__ import annotations

from dataclasses import dataclass, field
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

from ...errors import UsageError

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


@dataclass(frozen=True, slots=True)
class Settings:
    """Options for connections. Holds no connection, so that every event loop and every process can open its own.

    Attributes:
        connection_class: valkey-py's class for this kind of socket.
        kwargs: The arguments of ``connection_class``.
        max_connections: Upper bound on the connections of a ``PlainPool``, where each exchange has a connection to
            itself; further exchanges wait.
        multiplexes: Whether exchanges may share a connection.
    """

    connection_class: type[AbstractConnection]
    kwargs: dict[str, Any] = field(repr=False)
    max_connections: int
    multiplexes: bool = True

    @classmethod
    def from_client(cls, client: object, *, multiplexes: bool = True) -> Settings:
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
        try:
            pool.connection_class(**kwargs)
        except (TypeError, ValueError, ValkeyError) as error:
            raise UsageError(f"the connection has an option that cannot be used ({error}); {_LOOKS_LIKE}") from error
        limited = pool.max_connections < 2**31
        return cls(
            pool.connection_class, kwargs, pool.max_connections if limited else _DEFAULT_MAX_CONNECTIONS, multiplexes
        )

    @property
    def is_multiplexed(self) -> bool:
        """Whether ``MultiplexedConnection`` takes over the connections."""
        return self.multiplexes and self.connection_class in _PLAIN_SOCKETS

    @property
    def db(self) -> int:
        """The number of the database."""
        return int(self.kwargs.get("db") or 0)

    def connection(self) -> AbstractConnection:
        """Return a new connection of valkey-py, not connected yet, outside any pool."""
        return self.connection_class(**self.kwargs)


def client_from_url(url: str) -> Client:
    """Return a client, not connected, for the server that ``url`` names.

    Raises:
        UsageError: ``url`` cannot be parsed, or has an unknown scheme. The message shows no password.
    """
    if not isinstance(url, str):
        raise UsageError(f"url must be a str, not {type(url).__name__}; {_LOOKS_LIKE}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a port that is not a number
        if parts.scheme not in _SCHEMES:
            raise UsageError(f"url must begin with one of {', '.join(_SCHEMES)} and '://'; {_LOOKS_LIKE}")
        if "cluster" in parse_qs(parts.query):
            raise UsageError("url asks for a cluster, which this version does not support yet")
        return Valkey(connection_pool=ValkeyConnectionPool.from_url(url))
    except UsageError:
        raise
    except (ValueError, TypeError):
        # Raised without its cause, whose message may quote a part of the password.
        raise UsageError(f"url cannot be parsed; {_LOOKS_LIKE}") from None
