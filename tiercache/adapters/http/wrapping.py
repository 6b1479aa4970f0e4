"""The methods of a cache for wrapped clients: a base of ``AgentCache``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol, TypeVar

from ...engine.call import Mode
from ...errors import UsageError
from ...log import CacheLog
from ...portal.call import run_plain
from ...scopes import Scope
from ...tiers.llm.exchanges import Exchanges
from ...ttl import Ttl
from .answer import Answer
from .async_transport import async_transport
from .calls import CallOptions, ClientCalls, Outcome
from .clients import wrapped_client
from .exchange_handler import ExchangeHandler
from .sync_transport import PrivateLoop, sync_transport

__all__ = ["WrapsClients"]

C = TypeVar("C")


class PlainFace(PrivateLoop, Protocol):
    """The face of a cache for plain code."""

    @property
    def exchanges(self) -> Exchanges:
        """The exchanges of the face, which it uses on its private loop."""
        ...


class WrapsClients:
    """A cache that answers the calls of wrapped clients.

    Args:
        exchanges: The exchanges of the async face.
        plain: The face for plain code.
    """

    def __init__(self, exchanges: Exchanges, plain: PlainFace, log: CacheLog) -> None:
        self._client_calls = ClientCalls(exchanges.scopes.calls)
        self.__exchanges = exchanges
        self.__plain = plain
        self.__log = log

    def wrap(
        self,
        client: C,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        scope: Scope | None = None,
        mode: Mode = "use",
        stateful: bool = False,
        store_when: Callable[[Answer], bool] | None = None,
    ) -> C:
        """Return a copy of ``client`` that answers requests to model APIs from the cache, streams included.

        The copy has the same type, and sends all other requests as they are, through ``client``. Closing the copy
        closes ``client``. Answers are llm entries: they have the options, the statistics and the groups of that tier.

        Args:
            client: A client of the OpenAI or Anthropic SDK, asynchronous or plain, Azure included, or an
                ``AsyncClient`` or ``Client`` of httpx or httpx2. Plain clients work on the loop of ``sync``.
            ttl: Lifetime of the answers; None takes the llm tier's.
            tags: Names by which the answers can be invalidated.
            scope: A name that keeps the answers apart from those of other scopes, such as a tenant; or a function that
                returns the name of the present call. None takes the llm tier's.
            mode: As for ``LlmTier.get_or_load``. "only_cached" answers HTTP 504 where the cache has no answer.
            stateful: Whether to cache answers that depend on state at the provider, too: stored conversations, and the
                provider's own tools.
            store_when: Decides from an ``Answer`` whether to store it. None: if it is complete, and neither cut off
                nor refused.

        A call with a wrong ``x-tiercache`` header or on a closed cache is answered with HTTP 400. So is a call that
        opens the cache if Valkey refuses its credentials. With ``require_l2`` a call that opens the cache while Valkey
        is unavailable fails like a lost connection. No other failure of Valkey fails a call.

        Raises:
            UsageError: ``client`` is of another kind, or an option is wrong.
        """
        if store_when is not None and not callable(store_when):
            raise UsageError(f"store_when must be callable, not {type(store_when).__name__}")
        scope = self.__exchanges.scopes.own if scope is None else scope
        given = self._client_calls, CallOptions(mode, ttl, tags, scope, stateful), store_when, self.__log

        def new_transport(module: ModuleType, inner: Any) -> Any:
            if isinstance(inner, module.AsyncClient):
                handler = ExchangeHandler(self.__exchanges, *given)
                return async_transport(module, handler, inner)
            handler = ExchangeHandler(self.__plain.exchanges, *given, run_plain=run_plain)
            return sync_transport(module, handler, inner, self.__plain)

        return wrapped_client(client, new_transport)

    def calls(
        self,
        *,
        mode: Mode | None = None,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        scope: Scope | None = None,
        stateful: bool | None = None,
    ) -> AbstractContextManager[None]:
        """Return a context whose options count for every call of a wrapped client within it, through any framework.

        ``scope`` counts for every call of the llm, tool and kv tiers too, and of the functions and clients that keep
        their values there, on both faces. Of nested contexts the innermost counts; the tags of all of them add up. The
        arguments are those of ``wrap``.
        """
        return self._client_calls.calls(mode=mode, ttl=ttl, tags=tags, scope=scope, stateful=stateful)

    def watch(self) -> AbstractContextManager[list[Outcome]]:
        """Return a context that yields a list: every call of a wrapped client within it adds its ``Outcome``."""
        return self._client_calls.watch()
