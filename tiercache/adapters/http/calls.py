"""The options of calls through wrapped clients, and the outcomes of these calls.

Options come from four places; the first that gives an option wins:

1. the request header ``x-tiercache: refresh; ttl=60; tag=a; tag=b; scope=t1; stateful``, which is never sent on;
2. ``cache.calls(...)`` around the call, the innermost first;
3. ``cache.wrap(...)``;
4. the options of the llm tier.

Tags of several places add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from ...engine.call import MODES, Mode, check_mode
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...scopes import CallScopes, Scope, check_scope, scope_now
from ...text import shown
from ...ttl import Ttl, check_ttl

__all__ = ["CONTROL", "CallOptions", "ClientCalls", "Outcome"]

# The request header that has options, and the response header that says whether the answer was cached.
CONTROL: Final = "x-tiercache"

_Source: TypeAlias = Literal["l1", "l2", "stale", "loader", "follower", "miss", "bypass", "refused"]


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How calls use the cache. None leaves an option to the next place.

    Args:
        mode: As for ``LlmTier.get_or_load``.
        ttl: Lifetime of the answers that are stored.
        tags: Names by which the answers can be invalidated.
        scope: A name that keeps the answers apart from those of other scopes, or a function that returns the name.
        stateful: Whether to cache answers that depend on state at the provider, too.

    Raises:
        UsageError: An option is wrong. The message names it.
    """

    mode: Mode | None = None
    ttl: Ttl | None = None
    tags: Sequence[str] = ()
    scope: Scope | None = None
    stateful: bool | None = None

    def __post_init__(self) -> None:
        if self.mode is not None:
            check_mode(self.mode)
        if self.ttl is not None:
            check_ttl(self.ttl)
        if self.tags:
            object.__setattr__(self, "tags", tuple([tag.value for tag in tag_groups(self.tags)]))
        if self.scope is not None:
            check_scope(self.scope)
        if self.stateful is not None and not isinstance(self.stateful, bool):
            raise UsageError(f"stateful must be True or False, not {shown(self.stateful)}")

    def over(self, outer: CallOptions) -> CallOptions:
        """Return these options, completed by the options of the next place."""
        return CallOptions(
            self.mode or outer.mode,
            outer.ttl if self.ttl is None else self.ttl,
            (*outer.tags, *(tag for tag in self.tags if tag not in outer.tags)),
            outer.scope if self.scope is None else self.scope,
            outer.stateful if self.stateful is None else self.stateful,
        )

    def scope_now(self) -> str | None:
        """Return the scope of a call that is made now, or None for no scope.

        Raises:
            UsageError: The scope function returned no name, or raised: a call without its scope must not share its
                answer.
        """
        if not callable(self.scope):
            return self.scope
        try:
            return scope_now(self.scope)
        except UsageError:
            raise
        # The caller's function may raise any exception, such as the LookupError of a context variable without value.
        except Exception as error:
            raise UsageError(f"scope must return a name, and raised {error!r}") from error


def control_options(header: str) -> CallOptions:
    """Return the options in a request header.

    Raises:
        UsageError: The header has an unknown option, an option twice, or a wrong value.
    """
    tags, options = list[str](), dict[str, Any]()
    for part in header.split(";"):
        name, equals, value = (text.strip() for text in part.partition("="))
        if equals and name == "tag":
            tags.append(value)
            continue
        field, given = _option(name, value if equals else None)
        if field in options:
            raise UsageError(f"the header {CONTROL} has the option {field} twice")
        options[field] = given
    return CallOptions(**options, tags=tuple(tags))


def _option(name: str, value: str | None) -> tuple[str, Any]:
    """Return the field of ``CallOptions`` and its value for ``name`` or ``name=value`` in a request header."""
    match name, value:
        case "stateful", None:
            return "stateful", True
        case str(), None if name in MODES:
            return "mode", name
        case "ttl", str():
            return "ttl", _ttl(value)
        case "scope", str():
            return "scope", value
    known = ", ".join((*sorted(MODES), "stateful", "ttl=", "tag=", "scope="))
    raise UsageError(f"the header {CONTROL} has an unknown option: {shown(name)} (the options are {known})")


def _ttl(value: str) -> Ttl:
    try:
        return float(value)
    except ValueError:
        return value


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call through a wrapped client was answered.

    Attributes:
        source: "l1", "l2" or "stale": from the cache. "loader": by this call's own request. "follower": by the request
            of another call, which was in flight. "miss": not at all, with mode "only_cached". "bypass": by a request
            past the cache, for ``reason``. "refused": with HTTP 400, for ``reason``.
        key: The key in Valkey, or None if the call has no key.
        reason: Why the call bypassed the cache or was refused, or None.
        age: Seconds since the answer was stored, or None if it was not cached.
    """

    source: _Source
    key: str | None = None
    reason: str | None = None
    age: float | None = None

    @property
    def hit(self) -> bool:
        """Whether the answer came from the cache."""
        return self.source in ("l1", "l2", "stale")


class ClientCalls:
    """The calls through all wrapped clients of one cache.

    Args:
        scopes: The scopes of the blocks, which the calls of the tiers have too.
    """

    def __init__(self, scopes: CallScopes) -> None:
        self._scopes = scopes

    def options(self, own: CallOptions, header: str | None) -> CallOptions:
        """Return the options of a call that is made now.

        Args:
            own: The options of the wrapped client.
            header: The value of the request header ``x-tiercache``, or None.

        Raises:
            UsageError: The header is wrong.
        """
        options = own
        for calls, around in _OPTIONS.get():
            if calls is self:
                options = around.over(options)
        return options if header is None else control_options(header).over(options)

    def calls(
        self,
        *,
        mode: Mode | None = None,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        scope: Scope | None = None,
        stateful: bool | None = None,
    ) -> AbstractContextManager[None]:
        """Return a block as ``WrapsClients.calls`` does."""
        return self._block(CallOptions(mode, ttl, tags, scope, stateful))

    @contextmanager
    def _block(self, options: CallOptions) -> Iterator[None]:
        """Give ``options`` to every call within the block, in this task and the tasks that the block starts."""
        token = _OPTIONS.set((*_OPTIONS.get(), (self, options)))
        try:
            with nullcontext() if options.scope is None else self._scopes.block(options.scope):
                yield
        finally:
            _OPTIONS.reset(token)

    @contextmanager
    def watch(self) -> Iterator[list[Outcome]]:
        """Yield a list, to which every call within the block adds its outcome."""
        seen: list[Outcome] = []
        token = _WATCHES.set((*_WATCHES.get(), (self, seen)))
        try:
            yield seen
        finally:
            _WATCHES.reset(token)

    def note(self, outcome: Outcome) -> Outcome:
        """Add ``outcome`` to the lists of ``watch``, and return it."""
        for calls, seen in _WATCHES.get():
            if calls is self:
                seen.append(outcome)
        return outcome


# For every cache, the outermost block first.
_OPTIONS: Final[ContextVar[tuple[tuple[ClientCalls, CallOptions], ...]]] = ContextVar("tiercache_calls", default=())
_WATCHES: Final[ContextVar[tuple[tuple[ClientCalls, list[Outcome]], ...]]] = ContextVar("tiercache_watch", default=())
