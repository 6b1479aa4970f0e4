"""The llm tier: answers of language models, by the request's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, overload

from ...engine.call import Loaded, LoadFunction, Mode
from ...engine.engine import Engine
from ...engine.entries.entry import Group
from ...engine.entries.policy import Codec, TierPolicy, UndecodableError, UnreadableHereError
from ...engine.memory.load_limits import check_loader, takes_argument
from ...engine.operations.around_change import Invalidating, Target
from ...engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, ArgumentBatchLoader, BatchFunction
from ...engine.operations.explain import Explanation
from ...engine.operations.invalidate import GroupEntries
from ...errors import UsageError
from ...indexes.names import index_of
from ...pricing.prices import PriceTable
from ...ttl import Ttl, check_ttl
from ..keys.key import LlmKey, groups_of_model, is_unchanged
from ..tier import Tier
from .entry import LlmEntry, encode, joined_text
from .key import LlmKeyLookup, LlmKeys
from .result import LlmResponse, LlmResult, check_blocks, check_tokens

__all__ = ["LlmLoader", "LlmTier", "groups_of_model", "model_of"]

P = TypeVar("P", bound=Mapping[str, Any])

_Answer: TypeAlias = str | LlmResponse
_PlainLoader: TypeAlias = Callable[[], _Answer | Awaitable[_Answer]]
LlmLoader: TypeAlias = _PlainLoader | Callable[[P], _Answer | Awaitable[_Answer]]


class LlmTier(Tier[LlmKey, LlmResult]):
    """``cache.llm``. Requests are mappings with ``model`` and ``messages``, as chat-completions APIs take them.

    Where a method takes ``params``, it also takes their key, made by ``key``.

    Every method raises UsageError for a bad argument, having stored nothing, and on a closed cache;
    WrongLoopError from another event loop.
    """

    tier = "llm"
    result = LlmResult

    def __init__(self, engine: Engine, policy: TierPolicy, keys: LlmKeys, prices: PriceTable, name: str) -> None:
        super().__init__(engine, policy, name, f"{name}:llm:")
        self._keys = keys
        self._lookup = LlmKeyLookup(keys, policy, engine.l1)
        self._prepared = self._lookup.of
        self._prices = prices

    def key(self, params: Mapping[str, Any]) -> LlmKey:
        """Return the key of ``params`` as they are now, which later changes of theirs do not touch.

        For callers that ask the same thing over and over: passed in the place of ``params`` it costs nothing to find,
        however long they are.
        """
        return self._prepared(params)

    async def check(self, params: Mapping[str, Any] | LlmKey) -> LlmResult:
        """Return what the cache has for ``params``, without loading.

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, marked ``degraded``.
        """
        key = self._prepared(params)
        return self._hit("check", key) or self._result(key, await self._find("check", key))

    @overload
    async def get_or_load(
        self,
        params: LlmKey,
        loader: _PlainLoader,
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> LlmResult: ...

    @overload
    async def get_or_load(
        self,
        params: P,
        loader: LlmLoader[P],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> LlmResult: ...

    async def get_or_load(
        self,
        params: Any,
        loader: LlmLoader[Any],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
    ) -> LlmResult:
        """Return the answer to ``params``, calling ``loader`` at most once at a time, among all processes.

        Args:
            params: The request. Keys that the cache does not know take part in the key as they are.
            loader: Called with ``params`` if it has a required positional parameter, otherwise with nothing; async
                or plain (a plain one runs on the event loop: wrap what blocks in ``asyncio.to_thread``). Returns
                the text or an LlmResponse. Or what ``batch_loader`` returned. With a key in the place of ``params`` a
                loader must take nothing.
            ttl: Lifetime of what is loaded; None takes the tier's, then the cache's.
            tags: Names by which what is loaded can be invalidated together with other entries.
            mode: "use" the cache; "reloaded": load anew, store, and let callers who come meanwhile share it;
                "bypass": load, look up and store nothing; "only_cached": look up, load nothing;
                "store_only": load for this caller alone, and store.

        Returns:
            As soon as the loader has. What it returned is written to Valkey in the background, in order.

        Raises:
            L2CommandError: Valkey refused the read. An unreachable Valkey is a miss, not an error.
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.

        What the loader raises reaches every waiter unchanged, and stores nothing. Cancelling one caller leaves the
        others waiting; with the last one gone the load goes on to be stored, unless ``TierOptions.on_abandon`` is
        "cancel". A change of the key while it is loaded (``store``, ``invalidate``, ...) wins: the answer is handed
        to those who wait for it and stored nowhere.
        """
        key = self._prepared(params)
        check_loader(loader)
        if ttl is not None or tags or mode != "use":
            self._check_options(ttl, tags, mode)
        if mode == "use" and (hit := self._hit("get_or_load", key)) is not None:
            return hit
        if params is key and takes_argument(loader):
            raise UsageError("loader must take no argument: a key made by llm.key has no params to call it with")
        return await self._load_through(key, loader, params, ttl, tags, mode)

    def _loading(self, prepared: LlmKey, params: Any, loader: LlmLoader[Any]) -> LoadFunction:
        # Apart from get_or_load: what a closure holds costs those too who load nothing.
        async def load() -> Loaded:
            answer: Any = loader(params) if takes_argument(loader) else loader()  # type: ignore[call-arg]
            if inspect.isawaitable(answer):
                answer = await answer
            loaded = self._loaded_answer(prepared.model, answer)
            return loaded if self._is_still(prepared, params) else loaded._replace(store=False)

        return load

    def batch_loader(
        self, fn: BatchFunction[Mapping[str, Any]], *, window: float = BATCH_WINDOW, max_size: int = BATCH_SIZE
    ) -> ArgumentBatchLoader:
        """Return a loader that answers calls of ``get_or_load`` together, as ``ToolTier.batch_loader`` does.

        ``fn`` is called with a list of params, and returns a list of texts or LlmResponses.
        """
        return ArgumentBatchLoader(self._engine, fn, window=window, max_size=max_size)

    async def store(
        self,
        params: Mapping[str, Any] | LlmKey,
        response: str,
        *,
        ttl: Ttl | None = None,
        tokens: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store an answer and return its key, once Valkey has acknowledged it. Wins over loads under way.

        With ``WriteOptions(mode="behind")`` it returns once the write is queued, and a failure is counted, not raised.

        Args:
            tokens: Token counts, ``{"input": 12, "output": 34}``; with the model's price they give the cost.
            tags: As for ``get_or_load``.

        Raises:
            L2UnavailableError: The write may or may not have happened.
            L2CommandError: Valkey refused it.
        """
        if not isinstance(response, str):
            raise UsageError(f"response must be a str, not {type(response).__name__}")
        return await self._store_answer("store", params, response, None, tokens, ttl, tags)

    async def store_multipart(
        self,
        params: Mapping[str, Any] | LlmKey,
        blocks: Sequence[Mapping[str, Any]],
        *,
        ttl: Ttl | None = None,
        tokens: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store an answer made of content blocks; its ``response`` is the text of the text blocks, joined.

        Arguments, result and errors as for ``store``.
        """
        check_blocks(blocks)
        return await self._store_answer("store_multipart", params, joined_text(blocks), blocks, tokens, ttl, tags)

    async def _store_answer(
        self,
        method: str,
        params: Mapping[str, Any] | LlmKey,
        response: str,
        blocks: Sequence[Mapping[str, Any]] | None,
        tokens: Mapping[str, Any] | None,
        ttl: Ttl | None,
        tags: Sequence[str],
    ) -> str:
        if tokens is not None:
            check_tokens(tokens)
        key = self._prepared(params)
        if ttl is not None:
            check_ttl(ttl)
        loaded = Loaded(*self._encoded(key.model, response, blocks, tokens))
        return await self._store(method, key, loaded, ttl, tags, "response" if blocks is None else "blocks")

    async def invalidate(self, params: Mapping[str, Any] | LlmKey) -> bool:
        """Remove the answer to ``params``; return whether there was one.

        Once it returns, no read that this process starts returns the older answer, and no load that had begun
        stores one.

        Raises:
            L2UnavailableError: It is gone from this process, and may or may not be gone from Valkey.
            L2CommandError: Valkey refused the delete.
        """
        return await self._remove("invalidate", self._key_of(params))

    def invalidates(
        self, params: Mapping[str, Any] | LlmKey | Callable[..., Mapping[str, Any] | LlmKey]
    ) -> Invalidating:
        """Return what stands around a change of what an answer is made from, as ``async with`` or as a decorator.

        The answer is removed before and after; in between this process stores none. Promise and errors as for
        ``invalidate``.

        Args:
            params: As for ``invalidate``; for a decorator also a function of the call's arguments that returns them.
        """

        return self._around_change(params, lambda at: Target((self._key_of(at),), lambda: self.invalidate(at)))

    async def explain(self, params: Mapping[str, Any] | LlmKey) -> Explanation:
        """Return where the answer to ``params`` is, and how ``check`` would be answered. Counts and changes nothing.

        Raises:
            L2CommandError: Valkey refused the read.
        """
        return await self._explain(self._prepared(params))

    async def invalidate_by_model(self, model: str, *, sweep: bool = False) -> int:
        """Remove every answer of ``model``; return how many there were. Errors as for ``invalidate``.

        Costs what it removes. Where the index may not be complete, also a look at every llm entry in Valkey.

        Args:
            sweep: Look in any case: for entries of software that writes without being registered.
        """
        if not isinstance(model, str):
            raise UsageError(f"model must be a str, not {type(model).__name__}")

        def belongs(data: bytes) -> bool:
            try:
                return model_of(self._policy.codec, data) == model
            except UnreadableHereError:
                return True  # It may be: whoever can read it must not find it.

        with self._engine.operation("llm.invalidate_by_model", model=model) as operation:
            # Where requests for several models may share an entry, any of them may be bringing this model's.
            overtakes = self._policy.group if self._policy.groups_of else None
            group = Group("model", model)
            entries = GroupEntries(group, self._prefix, belongs, overtakes, index_of(self._name, group))
            count = await self._invalidations.group(entries, sweep=sweep)
            operation.set("deleted_count", count)
        return count

    def _key_of(self, params: Any) -> str:
        """Return the key in Valkey, also of params that no answer can be stored for."""
        return self._prepared(params).key if type(params) is LlmKey else self._keys.key(params)

    def _is_still(self, prepared: LlmKey, params: Mapping[str, Any] | LlmKey) -> bool:
        """Return whether ``params`` are still those of ``prepared``: an answer to others must not be stored there."""
        warning = "The params of a request were changed while it was loaded: its answer is not stored"
        return is_unchanged(prepared.key, lambda: self._prepared(params).key, self._engine.log.warn_once, warning)

    def _loaded_answer(self, model: str, answer: object) -> Loaded:
        if isinstance(answer, str):
            answer = LlmResponse(answer)
        elif not isinstance(answer, LlmResponse):
            raise UsageError(f"the loader must return a str or an LlmResponse, not {type(answer).__name__}")
        response, blocks = answer.response, answer.content_blocks
        if response is None:
            response = joined_text(blocks or ())
        entry, data = self._encoded(model, response, blocks, answer.tokens)
        return Loaded(entry, data, answer.ttl, answer.store and self._is_wanted(answer))

    def _encoded(
        self,
        model: str,
        response: str,
        blocks: Sequence[Mapping[str, Any]] | None,
        tokens: Mapping[str, Any] | None,
    ) -> tuple[LlmEntry, bytes]:
        return encode(
            response=response,
            model=model,
            stored_at_ms=int(self._engine.wall() * 1000),
            tokens=tokens,
            cost=self._prices.cost(model, tokens) if tokens else None,
            content_blocks=blocks,
        )


def model_of(codec: Codec, data: bytes) -> str | None:
    """Return the model of an entry as it lies in Valkey, None for what is no entry.

    Raises:
        UnreadableHereError: It may be one that others can read.
    """
    try:
        entry: Any = codec.decode(data)
        return str(entry.model)
    except UnreadableHereError:
        raise
    except UndecodableError:
        return None
