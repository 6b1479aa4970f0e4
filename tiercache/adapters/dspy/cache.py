"""The cache of DSPy: answers of models are entries of the llm tier, all other values are in a kv tier.

An answer has one content block, ``{"type": "dspy", "value": form}``. ``values`` describes the forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NoReturn

from ...agent_cache import AgentCache
from ...errors import TierCacheError, UsageError
from ...identity import KeepsIdentity
from ...indexes.names import tag_groups
from ...sync.scoped import ScopedFace
from ...text import check_text
from ...tiers.llm.result import LlmResponse
from ...ttl import Ttl, check_ttl
from ..caches import UNAVAILABLE, check_cache, log_of
from ..extras import missing_extra
from ..http.answer import Answer

try:
    from dspy.clients.cache import Cache

    from .answers import answer_of
    from .request import asks_model, is_explicit, key_of, model_of, state_in
    from .values import from_form, to_form
except ImportError as error:
    raise missing_extra("dspy", error) from error

__all__ = ["TierCacheDSPy"]

_TIER: Final = "dspy"
_TAG: Final = "dspy.values"


class TierCacheDSPy(KeepsIdentity, Cache):
    """A cache for ``dspy.cache``: the answers of models, embeddings and passages of a search, without pickle.

    All methods use ``cache.sync``: any thread may call them. While Valkey is unavailable, a lookup finds L1 alone, and
    a value that cannot be stored reaches its caller all the same. Each hit is an object of its own.

    Args:
        cache: The cache. Several objects on one cache share their values.
        ttl: Lifetime of the values: seconds, a string such as ``"30d"``, a timedelta, or ``NO_EXPIRY``. None takes that
            of the llm tier or of the kv tier, then the cache's.
        tags: Names by which the values can be invalidated together with other entries.
        scope: A text that is part of every key, such as the name of a tenant, or of an environment whose models have
            other addresses.
        store_when: Decides from an ``Answer`` whether to store it. None: if it is complete, and neither cut off nor
            refused.
        explicit_requests: Whether to cache calls with a request that the caller has made. Their keys do not have the
            address of the model: choose this if a model of one name has one address.

    Raises:
        UsageError: An argument is wrong. A lookup raises it if the cache is closed, or has no such face.
    """

    def __init__(
        self,
        cache: AgentCache,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        scope: str | None = None,
        store_when: Callable[[Answer], bool] | None = None,
        explicit_requests: bool = False,
    ) -> None:
        # The base class keeps nothing: it has the attributes that DSPy's users know.
        super().__init__(enable_disk_cache=False, enable_memory_cache=False, disk_cache_dir=None)
        self._cache = check_cache(cache)
        if ttl is not None:
            check_ttl(ttl)
        if scope is not None:
            check_text(scope, "scope")
        if store_when is not None and not callable(store_when):
            raise UsageError(f"store_when must be callable, not {type(store_when).__name__}")
        tag_groups(tags)
        self._ttl = ttl
        self._tags = (_TAG, *tags)
        self._scope = scope
        self._store_when = store_when or _is_complete
        self._explicit_requests = explicit_requests

    def cache_key(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> str:
        """Return the key of a request. A subclass may make another one.

        Raises:
            UsageError: An argument of the request has no form by which it can be recognised, such as a function.
        """
        return key_of(request, ignored_args_for_cache_key or (), self._scope)

    def get(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> Any:
        """Return the value of a request, or None. A hit has no usage, because no model has worked."""
        key = self._key(request, ignored_args_for_cache_key)
        if key is None:
            return None
        try:
            form = self._find(request, key)
        except UNAVAILABLE as error:
            self._go_on(error)
            return None
        value: Any = None if form is None else from_form(form)
        if hasattr(value, "usage"):
            value.usage = {}
            # The classes of LiteLLM may refuse an attribute that they do not declare.
            object.__setattr__(value, "cache_hit", True)
        return value

    def put(
        self,
        request: dict[str, Any],
        value: Any,
        ignored_args_for_cache_key: list[str] | None = None,
        enable_memory_cache: bool = True,
    ) -> None:
        """Store the value of a request. Raises nothing: the caller has paid for it.

        Args:
            enable_memory_cache: Has no effect: L1 is bounded.
        """
        key = None if value is None else self._key(request, ignored_args_for_cache_key)
        if key is None:
            return
        try:
            self._store(request, key, value)
        except TierCacheError as error:
            self._go_on(error)
        # The caller's own function has failed.
        except Exception as error:
            self._warn("store_when has failed, and the answer is not stored: %r", error)

    def clear(self) -> int:
        """Remove every value that an object of this class has stored; return how many there were.

        Errors as for ``AgentCache.invalidate_tag``.
        """
        return self._cache.sync.invalidate_tag(_TAG)

    def reset_memory_cache(self) -> None:
        """Clear L1, of every tier of the cache. Valkey keeps its entries."""
        self._cache.sync.clear_l1()

    def save_memory_cache(self, filepath: str) -> NoReturn:
        """Raise UsageError: a file of DSPy's cache is a pickle."""
        raise UsageError("tiercache writes no pickle: the values are in Valkey, where every process finds them")

    def load_memory_cache(self, filepath: str, allow_pickle: bool = False) -> NoReturn:
        """Raise UsageError: a file of DSPy's cache is a pickle, which can run any code."""
        raise UsageError("tiercache reads no pickle: the values are in Valkey, where every process finds them")

    def __contains__(self, key: object) -> bool:
        """Raise UsageError: a key does not tell its tier."""
        raise UsageError("a key does not tell where its value is: call get with the request")

    def _key(self, request: dict[str, Any], ignored: list[str] | None) -> str | None:
        """Return the key of a request, or None if it must not be cached."""
        if is_explicit(request) and not self._explicit_requests:
            self._warn(
                "a request of DSPy does not name the address of its model, and is not cached; see explicit_requests"
            )
            return None
        # A schema or a subclass of the caller's may raise any exception.
        try:
            if reason := state_in(request):
                self._warn(
                    "a call of DSPy is not cached, because its answer depends on more than the request: %s", reason
                )
                return None
            return self.cache_key(request, ignored)
        except Exception as error:
            self._warn("a call of DSPy is not cached: %s", error)
            return None

    def _find(self, request: dict[str, Any], key: str) -> Any:
        """Return the form of a value, or None."""
        if not asks_model(request):
            return self._cache.sync.tier(_TIER).get(key)
        blocks = self._cache.sync.llm.check(_params(request, key)).content_blocks
        return blocks[0].get("value") if blocks else None

    def _store(self, request: dict[str, Any], key: str, value: Any) -> None:
        answer = answer_of(value) if asks_model(request) else None
        if answer is not None and not self._store_when(answer):
            return
        form = to_form(value)
        if form is None:
            self._warn("a value of DSPy cannot be restored from JSON as it is, and is not stored: %s", type(value))
        elif answer is None:
            self._cache.sync.tier(_TIER).set(key, form, ttl=self._ttl, tags=self._tags)
        else:
            face = self._cache.sync._face
            kept = LlmResponse(answer.text, [{"type": _TIER, "value": form}], answer.tokens)
            llm = face.parts.llm
            scoped = ScopedFace(face, llm._rules.scopes)
            scoped.run(partial(llm._keep, _params(request, key), kept, self._ttl, self._tags))

    def _go_on(self, error: TierCacheError) -> None:
        self._warn("DSPy's cache goes on without Valkey: %s", error)

    def _warn(self, message: str, *args: object) -> None:
        log_of(self._cache).warn_once(message, *args)


def _is_complete(answer: Answer) -> bool:
    return answer.is_complete


def _params(request: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the request for the llm tier: the key tells it apart from every other request."""
    return {"model": model_of(request), "messages": [], "dspy": key}
