"""The target of a request: its URL without credentials, and the parts of the URL that tell one API from another."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, unquote_plus

__all__ = ["CREDENTIALS", "Target", "path_of", "target_of"]

# Parameters of the query that are credentials.
CREDENTIALS: Final = frozenset({"key", "access_token"})


class Target(NamedTuple):
    """The target of a request.

    Attributes:
        url: The URL as the caller gave it, without credentials and without the fragment, which no client sends.
        path: Its path, as the caller gave it.
        query: The names and values in its query, decoded, without credentials.
    """

    url: str
    path: str
    query: tuple[tuple[str, str], ...]

    def segment_before(self, end: str) -> str:
        """Return the decoded last segment of the path up to ``end``: ``m`` of ``/models/m:generateContent``."""
        return unquote(self.path.rpartition("/")[2].partition(end)[0])

    def segment_after(self, name: str) -> str:
        """Return the decoded segment of the path after the segment ``name``, or an empty str."""
        return unquote(self.path.partition(f"/{name}/")[2].partition("/")[0])


def path_of(url: str) -> str:
    """Return the path of ``url``, as the caller gave it."""
    return _split(url)[2]


def target_of(url: str) -> Target:
    """Return the target that ``url`` names.

    Credentials are the user and password before the host, and the parameters ``key`` and ``access_token``, in any
    encoding. Every other part stays byte for byte.
    """
    scheme, authority, path, query = _split(url)
    authority = authority.rpartition("@")[2]
    kept: list[str] = []
    pairs: list[tuple[str, str]] = []
    for part in query.split("&") if query is not None else ():
        name, _, value = part.partition("=")
        if (name := unquote_plus(name)) not in CREDENTIALS:
            kept.append(part)
            pairs.append((name, unquote_plus(value)))
    whole = f"{scheme}{authority}{path}"
    if kept:
        whole = f"{whole}?{'&'.join(kept)}"
    return Target(whole, path, tuple(pairs))


def _split(url: str) -> tuple[str, str, str, str | None]:
    """Return the scheme with ``://``, the authority, the path, and the query of ``url``, or None if it has none.

    A parser that follows the standard would normalise the parts: it drops tabs, for one. A key needs them as they are.
    """
    url = url.partition("#")[0]
    before, mark, query = url.partition("?")
    scheme, separator, rest = before.partition("://")
    if not separator:
        scheme, rest = "", before
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}", authority, f"{slash}{path}", query if mark else None
