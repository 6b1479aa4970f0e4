"""The llm tier: answers of language models, by the parameters of the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from ...agents.run_scopes import tags_in_run
from ...engine.call import Loaded, LoadFunction, Mode
from ...engine.engine import Engine
from ...engine.entries.entry import Group
from ...engine.entries.rules import TierRules, UnreadableHereError
from ...engine.memory.loaders import requires_argument, takes_argument
from ...engine.operations.around_change import Invalidating, Target
from ...engine.operations.batch_loader import BATCH_SIZE, BATCH_WINDOW, ArgumentBatchLoader, BatchFunction
from ...engine.operations.explain import Explanation
from ...engine.operations.invalidate import GroupEntries
from ...errors import UsageError
from ...indexes.names import index_of
from ...pricing.prices import PriceTable
from ...text import check_size
from ...ttl import Ttl
from ..keys.key import LlmKey
from ..values.unstorable import own_copy
from ..values.wire import MOST_DOLLARS
from .codec import LlmCodec
from .entry import LlmEntry, encode, joined_text
from .inspected import InspectedTier
from .key import LlmKeys
from .loader import LlmAnswer, LlmLoader, PlainLlmLoader
from .result import LlmResponse, LlmResult, check_blocks, check_tokens, has_counts

__all__ = ["LlmLoader", "LlmTier"]

P = TypeVar("P", bound=Mapping[str, Any])


class LlmTier(InspectedTier):
    """``cache.llm``: answers of language models, by the parameters of the request.

    ``params`` are a mapping with ``model`` and ``messages``, as chat-completions APIs take them. Every method that
    takes ``params`` also takes their key, made by ``key``.

    Every method raises UsageError for a wrong argument, and has then stored nothing. Every async method also raises
    UsageError on a closed cache, and WrongLoopError from another event loop.
    """

    tier = "llm"
    result = LlmResult

    def __init__(self, engine: Engine, rules: TierRules, keys: LlmKeys, prices: PriceTable, name: str) -> None:
        super().__init__(engine, rules, keys, name)
        self._prices = prices

    def key(self, params: Mapping[str, Any]) -> LlmKey:
        """Return the key of ``params`` as they are now. Later changes of ``params`` have no effect.

        For callers that send the same request many times: with the key instead of ``params``, a lookup costs the same
        at any length of the request.
        """
        return self._lookup.of(params)

    async def check(self, params: Mapping[str, Any] | LlmKey) -> LlmResult:
        """Look up the answer to ``params``, without loading.

        Returns:
            The answer, or a miss. Does not wait for a load in progress. A miss while Valkey is unavailable, or
            refuses the read, is marked ``degraded``.
        """
        key = self._lookup.of(params)
        return self._hit("check", key) or self._result(key, await self._find("check", key))

    @overload
    async def get_or_load(
        self,
        params: LlmKey,
        loader: PlainLlmLoader,
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
        per_run: bool = False,
    ) -> LlmResult: ...

    @overload
    async def get_or_load(
        self,
        params: Mapping[str, Any] | LlmKey,
        loader: Awaitable[LlmAnswer],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
        per_run: bool = False,
    ) -> LlmResult: ...

    async def get_or_load(
        self,
        params: Any,
        loader: LlmLoader[Any] | Awaitable[LlmAnswer],
        *,
        ttl: Ttl | None = None,
        tags: Sequence[str] = (),
        mode: Mode = "use",
        per_run: bool = False,
    ) -> LlmResult:
        """Return the answer to ``params``; on a miss, load it at most once at a time among all processes.

        Args:
            params: The request, or its key. Parameters that the cache does not know take part in the key as they are.
            loader: Called with ``params`` if it has a required positional parameter, otherwise without arguments; async
                or plain. A plain loader runs on the event loop: wrap blocking code in ``asyncio.to_thread``. Returns
                the text or an LlmResponse. May be a loader made by ``batch_loader``, or an awaitable, as for
                ``KvTier.get_or_load``. If ``params`` is a key, the loader must take no argument.
            ttl: Lifetime of a loaded answer: seconds, a string such as ``"90s"``, a timedelta, or ``NO_EXPIRY``. None
                takes the tier's, then the cache's. ``LlmResponse.ttl`` wins over both.
            tags: Names by which a loaded answer can be invalidated together with other entries.
            mode: "use": return the cached answer, or load and store one. "refresh": load in any case and store;
                callers that find nothing in L1 during the load share it. "bypass": load in the caller's own task, look
                up nothing, store nothing. "only_cached": look up, load nothing. "store_only": load for this caller
                alone, and store.
            per_run: Whether the entry belongs to the present run of ``AgentCache.agent`` alone, and ends with it.

        Returns:
            The answer, as soon as the loader has returned. The cache writes a loaded answer to Valkey in the
            background, in order. A miss only with mode "only_cached".

        Raises:
            TimeoutError: The load took longer than ``ResilienceOptions.load_timeout``.

        An exception of the loader reaches every waiter unchanged, and nothing is stored. Cancelling one caller leaves
        the others waiting; when the last caller has gone, the load goes on and its answer is stored, unless
        ``TierOptions.on_abandon`` is "cancel". A change of the key during the load (``store``, ``invalidate``, ...)
        wins: the waiters get the loaded answer, and neither level stores it.
        """
        if per_run:
            key, tags = self._run_key(params), tags_in_run(tags, self._engine.log)
        else:
            key = self._lookup.of(params)
        hit = self._hit_for_load(key, loader, ttl, tags, mode)
        if hit is not None:
            return hit
        if params is key and callable(loader) and requires_argument(loader):
            raise UsageError("loader must take no argument: a key made by llm.key has no params to call it with")
        return await self._load(key, loader, params, ttl, tags, mode)

    def _load_function(self, key: LlmKey, params: Any, loader: Callable[..., Any]) -> LoadFunction:
        arguments = (params,) if takes_argument(loader) and params is not key else ()

        async def load() -> Loaded:
            answer: Any = await self._loaders.call(loader, *arguments)
            loaded = self._loaded_answer(key.model, answer)
            return loaded if self._is_unchanged(key, params) else loaded._replace(store=False)

        return load

    async def _keep(self, params: Mapping[str, Any], answer: LlmResponse, ttl: Ttl | None, tags: Sequence[str]) -> None:
        """Store an answer that the caller has, as a load in mode "store_only" does.

        The answer waits for no slot of ``ResilienceOptions.max_loads``: nothing is loaded. An error of Valkey is no
        error of the call.
        """
        key = self._lookup.of(params)

        async def load() -> Loaded:
            return self._loaded_answer(key.model, answer)

        with self._engine.operation("llm.get_or_load", key) as operation:
            await self._opened()
            call = self._make_call(key, ttl, tags)._replace(is_batched=True)
            operation.found(await self._loads.get_or_load(call, load, "store_only"))

    def batch_loader(
        self, fn: BatchFunction[P, LlmAnswer], *, window: float = BATCH_WINDOW, max_size: int = BATCH_SIZE
    ) -> ArgumentBatchLoader[P, LlmAnswer]:
        """Return a loader that collects loads and answers them by one call of ``fn``, as ``ToolTier.batch_loader``.

        Args:
            fn: Called with a list of params; async or plain. Returns a list of texts or LlmResponses, of the same
                length and order.
            window: Seconds, 0 to a day, that the first load waits for others.
            max_size: Most loads in one call of ``fn``.
        """
        return ArgumentBatchLoader(
            self._engine, self._loaders, fn, window=window, max_size=max_size, scopes=self._rules.scopes
        )

    async def store(
        self,
        params: Mapping[str, Any] | LlmKey,
        response: str,
        *,
        ttl: Ttl | None = None,
        tokens: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store an answer; return its key once Valkey has acknowledged the write. Wins over loads in progress.

        With ``WriteOptions(mode="behind")`` the call returns once the write is queued. A write that then fails is
        counted as ``write_errors``, and not raised.

        Args:
            params: The request, or its key.
            response: The text of the answer.
            ttl: Lifetime: seconds, a string such as ``"90s"``, a timedelta, or ``NO_EXPIRY``. None takes the tier's,
                then the cache's.
            tokens: Token counts, ``{"input": 12, "output": 34}``. With the price of the model they give the cost.
            tags: Names by which the answer can be invalidated together with other entries.

        Raises:
            L2UnavailableError: The write may or may not have happened; L1 no longer has the key.
            L2CommandError: Valkey refused the write.

        Cancelling the call does not take back a queued write.
        """
        if not isinstance(response, str):
            raise UsageError(f"response must be a str, not {type(response).__name__}")
        key = self._lookup.of(params)
        loaded = self._given_answer(key.model, response, None, tokens)
        return await self._store("store", key, loaded, ttl, tags, "response")

    async def store_multipart(
        self,
        params: Mapping[str, Any] | LlmKey,
        blocks: Sequence[Mapping[str, Any]],
        *,
        ttl: Ttl | None = None,
        tokens: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> str:
        """Store an answer made of content blocks; its ``response`` is the joined text of the text blocks.

        Args:
            blocks: JSON mappings such as ``{"type": "text", "text": "Hi"}``.

        The other arguments, the result, the errors and cancellation are those of ``store``.
        """
        check_blocks(blocks)
        key = self._lookup.of(params)
        loaded = self._given_answer(key.model, joined_text(blocks), blocks, tokens)
        return await self._store("store_multipart", key, loaded, ttl, tags, "blocks")

    async def invalidate(self, params: Mapping[str, Any] | LlmKey | str) -> bool:
        """Remove the answer to ``params`` from both levels; return whether either level had it.

        Args:
            params: The request, its key, or the text of its key, as ``LlmResult.key`` and ``Outcome.key`` give it.

        After the call has returned, no read that this process starts returns the older answer, and no load that began
        before the call stores an answer.

        Raises:
            L2UnavailableError: The answer is gone from this process, and may or may not be gone from Valkey. This
                process repeats the removal until Valkey acknowledges it.
            L2CommandError: Valkey refused the delete.

        Cancelling the call does not take back a removal that has begun.
        """
        return await self._remove("invalidate", self._full_key(params))

    def invalidates(
        self, params: Mapping[str, Any] | LlmKey | str | Callable[..., Mapping[str, Any] | LlmKey | str]
    ) -> Invalidating:
        """Return a guard for a change of the source of an answer: ``async with``, or a decorator.

        The guard removes the answer before the change and again after it. During the change this process stores no
        answer to ``params``. Promise and errors as for ``invalidate``.

        Args:
            params: As for ``invalidate``. For a decorator also a function of the call's arguments that returns such
                params.
        """

        def target(request: Any) -> Target:
            key = self._full_key(request)
            return Target((key,), lambda: self.invalidate(key))

        return self._around_change(params, target)

    async def explain(self, params: Mapping[str, Any] | LlmKey | str) -> Explanation:
        """Return where the answer to ``params`` is, and how a lookup would be answered. Counts and changes nothing.

        Args:
            params: The request, its key, or the text of its key, as ``LlmResult.key`` and ``Outcome.key`` give it. A
                text has no model, so a pending ``invalidate_by_model`` is not seen for it.

        Raises:
            L2CommandError: Valkey refused the read.
        """
        key = self._lookup.of_text(params) if isinstance(params, str) else self._lookup.of(params)
        return await self._explain(key)

    async def invalidate_by_model(self, model: str, *, sweep: bool = False) -> int:
        """Remove every answer of ``model`` from both levels; return how many. Errors and cancellation as for ``clear``.

        The cost grows with the number of answers to remove. Where the index of the model may be incomplete, the call
        also looks at every llm entry in Valkey.

        Args:
            model: The name of the model.
            sweep: Whether to look at every llm entry in any case. Such a look finds the entries of software that
                writes without registering itself.
        """
        if not isinstance(model, str):
            raise UsageError(f"model must be a str, not {type(model).__name__}")
        check_size(model, "model")

        codec = self._rules.codec
        assert isinstance(codec, LlmCodec)

        def belongs(data: bytes) -> bool:
            try:
                return codec.model_of(data) == model
            except UnreadableHereError:
                return True  # Perhaps an answer of the model: a process that can decode it must not find it.

        group = Group("model", model)
        # If requests for several models can share an entry, a load for any model may bring an answer of this model.
        overtakes = self._rules.group if self._rules.groups_of else None
        entries = GroupEntries(group, (self._prefix,), belongs, overtakes, index_of(self._name, group))
        return await self._remove_group("invalidate_by_model", entries, sweep=sweep, model=model)

    def _given_answer(
        self,
        model: str,
        response: str,
        blocks: Sequence[Mapping[str, Any]] | None,
        tokens: Mapping[str, Any] | None,
    ) -> Loaded:
        """Return the answer that a caller gave to a store method; raise UsageError if ``tokens`` are wrong."""
        if tokens is not None:
            check_tokens(tokens)
        return Loaded(*self._encode(model, response, blocks, tokens))

    def _loaded_answer(self, model: str, answer: object) -> Loaded:
        """Return the answer that a loader returned."""
        if isinstance(answer, str):
            answer = LlmResponse(answer)
        elif not isinstance(answer, LlmResponse):
            raise UsageError(f"the loader must return a str or an LlmResponse, not {type(answer).__name__}")
        response, blocks = answer.response, answer.content_blocks
        if response is None:
            response = joined_text(blocks or ())
        store = answer.store and self._may_store(answer)
        try:
            if blocks is not None:
                check_blocks(blocks)
            return self._given_answer(model, response, blocks, answer.tokens)._replace(ttl=answer.ttl, store=store)
        # An object of the loader's own may raise any exception. The engine counts the answer as ``unstorable``.
        except Exception as error:
            return Loaded(self._unstorable(model, response, answer), b"", answer.ttl, store, error)

    def _unstorable(self, model: str, response: str, answer: LlmResponse) -> LlmEntry:
        """Return the entry of an answer that no store takes, for the callers that wait for it."""
        tokens, blocks = answer.tokens, answer.content_blocks
        cost = self._prices.cost(model, tokens) if tokens is not None and has_counts(tokens) else None
        blocks = None if blocks is None else own_copy(list(blocks))
        return LlmEntry(str.__str__(response), model, self._engine.wall() * 1000, cost, own_copy(tokens), blocks)

    def _encode(
        self,
        model: str,
        response: str,
        blocks: Sequence[Mapping[str, Any]] | None,
        tokens: Mapping[str, Any] | None,
    ) -> tuple[LlmEntry, bytes]:
        """Return the entry of an answer and its bytes; raise UsageError if a part is not JSON."""
        return encode(
            response=response,
            model=model,
            stored_at_ms=int(self._engine.wall() * 1000),
            tokens=tokens,
            cost=self._cost(model, tokens) if tokens else None,
            content_blocks=blocks,
        )

    def _cost(self, model: str, tokens: Mapping[str, Any]) -> float | None:
        """Return the dollars that an answer cost, or None if they are not known, or are more than an entry may have."""
        cost = self._prices.cost(model, tokens)
        return cost if cost is not None and cost <= MOST_DOLLARS else None
