"""The server behind the proxy: its URL, its address, and the URL that clients use instead."""

from __future__ import annotations

import socket
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from ...errors import UsageError

__all__ = ["Target"]


class Target:
    """A Valkey without TLS, on TCP or on a Unix socket.

    Args:
        url: ``valkey://host:port``, ``redis://host:port`` or ``unix:///path``.

    Raises:
        UsageError: ``url`` has another form.
    """

    def __init__(self, url: str) -> None:
        parts = _split(url)
        if parts is not None and parts.scheme in ("valkeys", "rediss"):
            raise UsageError(f"target: the proxy cannot read TLS; give it a plain port instead of {parts.scheme}")
        if parts is None or not (_is_tcp(parts) or (parts.scheme == "unix" and parts.path)):
            raise UsageError("target must be a URL like valkey://host:port, redis://host:port or unix:///path")
        if parts.scheme == "unix" and not hasattr(socket, "AF_UNIX"):
            raise UsageError("target: this system has no Unix sockets; use a URL like valkey://host:port")
        self._parts = parts

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of the server's socket. A host name resolves to IPv4."""
        if self._parts.scheme == "unix":
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in (self._parts.hostname or "") else socket.AF_INET

    @property
    def address(self) -> str | tuple[str, int]:
        """The address to connect to, for a socket of ``family``."""
        if self._parts.scheme == "unix":
            return unquote(self._parts.path)
        return self._parts.hostname or "", self._parts.port or 6379

    def url_through(self, port: int) -> str:
        """Return the URL of the same server through a proxy on ``port`` of 127.0.0.1.

        Credentials, db number and options stay.
        """
        credentials, at, _ = self._parts.netloc.rpartition("@")
        options = dict(parse_qsl(self._parts.query))
        path = "" if self._parts.scheme == "unix" else self._parts.path.strip("/")
        db = options.pop("db", path or "0")
        query = f"?{urlencode(options)}" if options else ""
        return f"valkey://{credentials}{at}127.0.0.1:{port}/{db}{query}"


def _split(url: str) -> SplitResult | None:
    """Return the parts of ``url``, or None if it cannot be split. The error of the parser may quote a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a port that is not a number
    except ValueError:
        return None
    return parts


def _is_tcp(parts: SplitResult) -> bool:
    return parts.scheme in ("valkey", "redis") and parts.hostname is not None and parts.port != 0
