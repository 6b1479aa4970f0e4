"""Scopes: the names, such as those of tenants, that keep the entries of one owner apart from those of every other.

A scope comes from three places; the innermost that gives a scope wins:

1. ``cache.calls(scope=...)`` around the call, the innermost block first;
2. the option ``scope`` of a decorator, or of a wrapped client;
3. the option ``scope`` of the tier.

A key has *components*: pairs of a reserved name and a text. The components of a call without a scope are empty, and its
key has the bytes that it would have without this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeAlias

from .errors import UsageError
from .text import check_name, shown

__all__ = [
    "COMPONENT_NAMES",
    "RUN",
    "SCOPE",
    "CallScopes",
    "Components",
    "KeyScopes",
    "Scope",
    "check_scope",
    "scope_now",
]

# A scope, or a function that returns the scope of the present call.
Scope: TypeAlias = str | Callable[[], str]
# Pairs of a reserved name and a text, always in the same order. Empty for a call without a scope.
Components: TypeAlias = tuple[tuple[str, str], ...]

SCOPE: Final = "__tc_scope"
# The component of the entries of one run of an agent: its session id.
RUN: Final = "__tc_run"
# The reserved names: no parameter of a request may have one of them.
COMPONENT_NAMES: Final = frozenset({SCOPE, RUN})


def check_scope(scope: object, name: str = "scope") -> None:
    """Refuse a scope that is neither a name nor a function.

    Args:
        name: The name of the option in the error.

    Raises:
        UsageError: ``scope`` is another value, is empty, is not Unicode, or is longer than 512 bytes.
    """
    if not callable(scope):
        _checked(scope, name)


def scope_now(scope: Scope) -> str:
    """Return the name that ``scope`` is, or returns now.

    Raises:
        UsageError: The function returned no name: a call that has lost its owner must not share an entry.
        Exception: The function raised it.
    """
    return _checked(scope() if callable(scope) else scope, "scope")


def _checked(scope: object, name: str) -> str:
    if not isinstance(scope, str) or not scope:
        raise UsageError(f"{name} must be a name, or a function that returns a name, not {shown(scope)}")
    return check_name(scope, name)


class CallScopes:
    """The scopes that ``cache.calls`` gives to the calls within its blocks: one object for both faces of a cache.

    Attributes:
        is_used: Whether a call of this cache may have components. Becomes True once, before the first such call: until
            then a lookup costs one look at this attribute.
    """

    __slots__ = ("is_used",)

    def __init__(self) -> None:
        self.is_used = False

    @contextmanager
    def block(self, scope: Scope) -> Iterator[None]:
        """Give ``scope`` to every call within the block, in this task and the tasks that the block starts."""
        self.is_used = True
        token = _BLOCKS.set((*_BLOCKS.get(), (self, scope)))
        try:
            yield
        finally:
            _BLOCKS.reset(token)

    def scope(self) -> Scope | None:
        """Return the scope of the innermost block around this call, or None."""
        for calls, scope in reversed(_BLOCKS.get()):
            if calls is self:
                return scope
        return None


class KeyScopes:
    """The components of the keys of one tier, or of one decorated function.

    Args:
        calls: The scopes of blocks.
        own: The scope of the option of the tier or of the decorator, or None.
    """

    __slots__ = ("calls", "own")

    def __init__(self, calls: CallScopes, own: Scope | None = None) -> None:
        self.calls = calls
        self.own = own
        if own is not None:
            calls.is_used = True

    def of_function(self, own: Scope | None) -> KeyScopes:
        """Return the components for a decorated function with the option ``own``."""
        return self if own is None else KeyScopes(self.calls, own)

    def components(self) -> Components:
        """Return the components of a call that is made now. Errors as for ``scope_now``."""
        given = _GIVEN.get()
        if given is None or given[0] is not self:
            return self.find()
        if isinstance(given[1], Exception):
            raise given[1]
        return given[1]

    def find(self) -> Components:
        """Return the components, also where ``given`` has set some. Errors as for ``scope_now``."""
        scope = self.calls.scope()
        if scope is None:
            scope = self.own
        return () if scope is None else ((SCOPE, scope_now(scope)),)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags that every entry of a call made now has, because of its components."""
        return ()

    @contextmanager
    def given(self, components: Components | Exception) -> Iterator[None]:
        """Let ``components`` return these, or raise this, within the block."""
        token = _GIVEN.set((self, components))
        try:
            yield
        finally:
            _GIVEN.reset(token)


_Found: TypeAlias = Components | Exception

# For every cache, the outermost block first.
_BLOCKS: Final[ContextVar[tuple[tuple[CallScopes, Scope], ...]]] = ContextVar("tiercache_scopes", default=())
# The last value of ``KeyScopes.given``.
_GIVEN: Final[ContextVar[tuple[KeyScopes, _Found] | None]] = ContextVar("tiercache_components", default=None)
