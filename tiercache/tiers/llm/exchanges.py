"""The exchanges of the llm tier: answers as wrapped clients got them over HTTP, found, recorded and stored.

An exchange is an llm entry. So it has the rules, the counters, the groups, the indexes and the tags of the tier, and a
hit counts the tokens and dollars that it saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import msgspec

from ...engine.call import Loaded, Mode, check_mode
from ...engine.engine import Engine
from ...engine.entries.entry import Entry
from ...engine.entries.lookup import Lookup
from ...engine.entries.rules import TierRules, UndecodableError
from ...engine.operations.get_or_load import Loads
from ...errors import UsageError
from ...indexes.names import tag_groups
from ...options import CoherenceOptions
from ...pricing.prices import PriceTable
from ...scopes import KeyScopes
from ...streams.live import Sharing
from ...streams.recorded_load import Record, RecordedLoad
from ...ttl import Ttl, check_ttl
from ..keys.key import LlmKey
from ..tier import Tier
from ..values.wire import MOST_DOLLARS
from .codec import LlmCodec
from .entry import LlmEntry, encode
from .exchange import Exchange, encode_exchange, is_plain_header
from .result import LlmResponse, LlmResult, check_tokens

__all__ = ["ExchangeOptions", "Exchanges", "Head", "Headers"]

Headers: TypeAlias = tuple[tuple[str, str], ...]

_LOAD: Final = "llm.get_or_load"


class Head(NamedTuple):
    """The beginning of a response.

    Attributes:
        status: Its status.
        headers: All of its headers, without those of the connection and of the body's encoding.
        kept: The headers that callers get who did not make the request themselves.
    """

    status: int
    headers: Headers
    kept: Headers


@dataclass(frozen=True, slots=True)
class ExchangeOptions:
    """The options of one request.

    Args:
        is_stream: Whether the answer arrives in parts, and is shared with other processes while it arrives.
        mode: As for ``LlmTier.get_or_load``.
        ttl: Lifetime of the exchange; None takes the tier's.
        tags: Names by which the exchange can be invalidated.

    Raises:
        UsageError: An option is wrong.
    """

    is_stream: bool
    mode: Mode = "use"
    ttl: Ttl | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.ttl is not None:
            check_ttl(self.ttl)
        if self.tags:
            tag_groups(self.tags)


class _HeadForm:
    """The form of a head in the live stream of a recording: JSON ``[status, [[name, value], ...]]``."""

    _decoder: Final = msgspec.json.Decoder(tuple[int, Headers])

    def encode(self, head: Head) -> bytes:
        return msgspec.json.encode((head.status, head.kept))

    def decode(self, data: bytes) -> Head:
        try:
            status, headers = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UndecodableError(str(error)) from error
        if not 200 <= status <= 599 or not all(is_plain_header(name, value) for name, value in headers):
            raise UndecodableError("the head of a response has a status or a header that is not believed")
        return Head(status, headers, headers)


class Exchanges(Tier[LlmKey, LlmResult]):
    """The exchanges of one cache's llm tier.

    Args:
        rules: The rules of the llm tier.
        coherence: How processes wait for each other.
        streams_finish: Whether a stream is read to its end after its last reader has left.
    """

    tier = "llm"
    result = LlmResult

    def __init__(
        self,
        engine: Engine,
        rules: TierRules,
        prices: PriceTable,
        name: str,
        coherence: CoherenceOptions,
        *,
        streams_finish: bool,
    ) -> None:
        super().__init__(engine, rules, name, f"{name}:llm:")
        self._prices = prices
        codec = rules.codec
        assert isinstance(codec, LlmCodec)
        # An llm entry under the key of an exchange, which other software has written, is a miss and is replaced.
        self._whole_rules = replace(rules, codec=codec.exchanges_only())
        self._stream_rules = replace(self._whole_rules, finish_abandoned=streams_finish)
        self.max_bytes = math.inf if rules.max_value_bytes is None else rules.max_value_bytes
        sharing = Sharing(name, _HeadForm(), coherence.lease_ttl, coherence.stream_wait, self.max_bytes)
        self._wholes = Loads(engine, RecordedLoad)
        self._streams = Loads(engine, partial(RecordedLoad, sharing=sharing))

    def key(self, digest: str, model: str) -> LlmKey:
        """Return the key of a request.

        Args:
            digest: The hash of the request, in hex.
            model: The model that the request names.
        """
        return LlmKey(
            key=f"{self._prefix}{digest}", model=model, _rules=self._rules, _counters=self._rules.counters.of(model)
        )

    @property
    def scopes(self) -> KeyScopes:
        """The components of the keys of the llm tier."""
        return self._rules.scopes

    def hit(self, key: LlmKey, tags: Sequence[str] = ()) -> Entry | None:
        """Return the entry of an exchange if L1 has it, with all of ``tags``, or None. Counts the hit."""
        engine = self._engine
        if tags and not engine.knows_tags(key.key, tag_groups(tags)):
            return None
        entry = engine.hit(key.key, engine.now(), key._counters)
        if entry is None or self._is_foreign(key, entry):
            return None
        if engine.tracer is not None:
            engine.trace_hit(_LOAD, **key.attributes)
        return entry

    async def get_or_record(self, key: LlmKey, record: Record, options: ExchangeOptions) -> Lookup:
        """Return the exchange of ``key``, or the recording of the request that brings it. Counts the call.

        Returns:
            There are three cases:

            1. The lookup has an entry: the exchange, which was cached.
            2. The lookup has ``ongoing``: a share in a ``Recording`` with a ``Head``. The caller must leave it.
            3. Neither: a miss with mode "only_cached". With mode "bypass", or if waiting for the key could never end,
               the caller must make the request by itself.

        Raises:
            Exception: The exception of ``record`` before it has shown a recording.
        """
        loads, mode = self._streams if options.is_stream else self._wholes, options.mode
        with self._engine.operation(_LOAD, key) as operation:
            await self._opened()
            call = self._make_call(key, options.ttl, options.tags)
            call = call._replace(rules=self._stream_rules if options.is_stream else self._whole_rules)
            # A recorded load takes a Record as its function.
            lookup = await loads.get_or_load(call, record, mode)  # type: ignore[arg-type]
            if lookup.entry is not None and self._is_foreign(key, lookup.entry):
                lookup = await loads.get_or_load(call, record, mode)  # type: ignore[arg-type]
            operation.found(lookup)
        return lookup

    def _is_foreign(self, key: LlmKey, entry: Entry) -> bool:
        """Return whether L1 has an llm entry that is no exchange, from ``LlmTier.check`` with this key; drop it."""
        if type(entry.value) is Exchange:
            return False
        self._engine.l1.drop_entry(key.key, entry)
        return True

    def age(self, entry: Entry) -> float:
        """Return the seconds since ``entry`` was stored."""
        return max(0.0, self._engine.now() - entry.stored_at)

    def loaded(self, key: LlmKey, head: Head, body: bytes, answer: LlmResponse, *, priced_as: str) -> Loaded:
        """Return the load of an exchange.

        Args:
            answer: The text and the token counts of the answer, and whether to store it.
            priced_as: The model of the answer, whose price counts if the request's model has none.
        """
        tokens, text = answer.tokens or None, answer.response or ""
        store = answer.store and self._may_store(answer)
        try:
            if tokens is not None:
                check_tokens(tokens)
            entry, data = encode(
                response=text,
                model=key.model,
                stored_at_ms=int(self._engine.wall() * 1000),
                tokens=tokens,
                cost=None if tokens is None else self._cost((key.model, priced_as), tokens),
                content_blocks=None,
            )
            return Loaded(*encode_exchange(entry, data, status=head.status, headers=head.kept, body=body), store=store)
        # The engine counts the exchange as ``unstorable``. Its readers have it.
        except UsageError as error:
            return Loaded(self._nothing(key), b"", store=store, refusal=error)

    def unstored(self, key: LlmKey) -> Loaded:
        """Return the load of a response that is not stored: an error, or an answer that is not complete."""
        return Loaded(self._nothing(key), b"", store=False)

    def too_large(self, key: LlmKey) -> Loaded:
        """Return the load of an answer of more than ``max_bytes``, which is not stored. Counts it."""
        key._counters.too_large += 1
        text = "an answer of more than %d bytes is too large to be stored (counted as too_large)"
        self._engine.log.warn_once(text, self.max_bytes)
        # A refresh removes the older answer, as for every value that is too large.
        return Loaded(self._nothing(key), b"", is_too_large=True)

    def _cost(self, models: Sequence[str], tokens: Mapping[str, int]) -> float | None:
        """Return the dollars that an answer cost, by the first of ``models`` that has a price; None if unknown."""
        for model in models:
            cost = self._prices.cost(model, tokens)
            if cost is not None:
                return cost if cost <= MOST_DOLLARS else None
        return None

    def _nothing(self, key: LlmKey) -> LlmEntry:
        # No caller gets it: those that wait for the load have its recording.
        return LlmEntry("", key.model, self._engine.wall() * 1000)
