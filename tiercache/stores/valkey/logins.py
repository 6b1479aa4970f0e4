"""Logins: the attempts of one cache to log in, over all of its connections.

::

                        the server refuses
    may try ────────────────────────────────────▶ waits ``pause`` seconds: every attempt fails without a connection
       ▲  ◀── one attempt at a time leads ──┐        │
       │                                    │        │ the pause is over
       └────── the leading attempt is accepted ◀─────┘

Several connections often end in the same moment, for example because the password was changed and the server ended the
connections of the user. Therefore the attempts of one moment wait for the first of them: if the server refuses the
first attempt, the others fail without asking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from valkey.exceptions import AuthenticationError, ResponseError, ValkeyError

from .errors import is_not_now

__all__ = ["Logins"]


class Logins:
    """The attempts to log in with one set of credentials.

    Args:
        pause: Seconds after a refusal in which no attempt is made.
        now: The monotonic clock, in seconds.
    """

    def __init__(self, pause: float = 1.0, now: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._now = now
        self._refusal: str | None = None
        self._try_again_at = 0.0
        # Done when the leading attempt has ended.
        self._leader: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Make one attempt in the body: open a connection and log in.

        Raises:
            valkey.exceptions.AuthenticationError: The server has refused an attempt less than ``pause`` seconds ago.
        """
        leader, loop = self._leader, asyncio.get_running_loop()
        self._check()
        # An attempt of another loop, which may be closed, or of the parent process never ends here.
        if leader is not None and not leader.done() and leader.get_loop() is loop:
            await asyncio.wait([leader])
            self._check()
            async with self._recorded():
                yield
            return
        own = self._leader = loop.create_future()
        try:
            async with self._recorded():
                yield
        finally:
            own.set_result(None)

    @asynccontextmanager
    async def _recorded(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:
            refusal = _refusal_in(error)
            if refusal is None:
                raise
            self.refused(refusal)
            if refusal is error:
                raise
            raise refusal from error
        self._refusal = None

    def refused(self, error: AuthenticationError) -> None:
        """Record that the server refused the credentials, or asked for credentials."""
        # An error of ``_check`` is no answer of the server, and starts no pause.
        if not isinstance(error, _NotTriedError):
            self._refusal = str(error)
            self._try_again_at = self._now() + self._pause

    def _check(self) -> None:
        if self._refusal is not None and self._now() < self._try_again_at:
            raise _NotTriedError(f"{self._refusal} (no new attempt before breaker_pause is over)")


def _refusal_in(error: BaseException) -> AuthenticationError | None:
    """Return the refusal of a login in ``error``, or None if the server did not refuse the login."""
    if isinstance(error, AuthenticationError):
        return error
    if isinstance(error, ResponseError):
        # A user that may not select the database, for example. The next attempt would be refused too.
        return None if is_not_now(error) else AuthenticationError(str(error))
    # On a Unix socket valkey-py authenticates while it connects, and wraps the error in a ConnectionError.
    return _refusal_in(error.__cause__) if isinstance(error.__cause__, ValkeyError) else None


class _NotTriedError(AuthenticationError):
    """The server refused the credentials a moment ago; this attempt was not made."""
