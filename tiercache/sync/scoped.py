"""Scopes on the sync face: a scope function runs in the thread of the caller, which has its thread-local variables."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..scopes import Components, KeyScopes
from .face import SyncFace

__all__ = ["ScopedFace"]

T = TypeVar("T")


class ScopedFace:
    """The sync face, for calls that make keys of one tier or of one decorated function.

    Args:
        scopes: The components of these keys.

    Attributes:
        face: The sync face itself, for calls that make no key.
    """

    __slots__ = ("_scopes", "face")

    def __init__(self, face: SyncFace, scopes: KeyScopes) -> None:
        self.face = face
        self._scopes = scopes

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await ``make()`` on the private loop, as ``SyncFace.run``. Raises the errors of a scope function too."""
        if not self._scopes.calls.is_used:
            return self.face.run(make)
        with self._scopes.given(self._found()):
            return self.face.run(make)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a plain function of the parts on the private loop, as ``SyncFace.call``. Errors as for ``run``."""

        async def call() -> T:
            return function(*args, **kwargs)

        return self.run(call)

    def _found(self) -> Components | Exception:
        try:
            return self._scopes.find()
        # The caller's function may raise any exception. The call raises it, unless the call needs no scope.
        except Exception as error:
            return error
