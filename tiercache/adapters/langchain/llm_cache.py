"""The cache of model answers behind LangChain's set_llm_cache, and ``cache`` of a chat model.

An answer is an entry of the llm tier:

- the key is made of the whole prompt, of the whole text by which LangChain describes the model and the call, and of the
  schemas of the classes in that text;
- ``response`` is the text of the answer, which other readers of the tier show;
- each content block is ``{"type": "langchain", "generation": ...}``, in LangChain's own JSON;
- the tag ``langchain.llm`` is the way in which ``clear`` finds the entries of this adapter, and no others.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, Final

from ...agent_cache import AgentCache
from ...errors import TierCacheError
from ...sync.scoped import ScopedFace
from ...tiers.llm.result import LlmResponse, LlmResult
from ...ttl import Ttl, check_ttl
from ..caches import UNAVAILABLE, check_cache, log_of
from ..extras import missing_extra
from .prompts import without_costs
from .schemas import schemas_of
from .serialization import from_json, to_json

try:
    from langchain_core.caches import BaseCache
    from langchain_core.outputs import Generation
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["TierCacheLLMCache"]

_TAG: Final = "langchain.llm"
# The model of an answer whose request names none.
_NO_MODEL: Final = "langchain"
_LONGEST_MODEL: Final = 128
# Between the model and the options of the call, in a text of LangChain's.
_SEPARATOR: Final = "---["
# Objects that the texts of LangChain describe by their address, or not at all.
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]{4}")
_NO_JSON: Final = '"type": "not_implemented"'


class TierCacheLLMCache(BaseCache):
    """A cache of model answers for LangChain: whole messages, with tool calls, usage and parts of any kind.

    The sync methods use ``cache.sync``. While Valkey is unavailable, every lookup is a miss that L1 does not have, and
    an answer reaches its caller in any case: only ``clear`` and ``aclear`` raise an error of Valkey.

    Args:
        cache: The cache. Several adapters on one cache share their answers.
        ttl: Lifetime of the answers: seconds, a string such as ``"90s"``, a timedelta, or ``NO_EXPIRY``. None takes
            that of the llm tier, then the cache's.

    Raises:
        UsageError: An argument is wrong. A lookup raises it if the cache is closed, or has no such face.
    """

    def __init__(self, cache: AgentCache, *, ttl: Ttl | None = None) -> None:
        self._cache = check_cache(cache)
        if ttl is not None:
            check_ttl(ttl)
        self._ttl = ttl

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        """Return the generations that are stored for a prompt and a model, or None."""
        params = self._params(prompt, llm_string)
        if params is None:
            return None
        try:
            return _generations(self._cache.sync.llm.check(params))
        except UNAVAILABLE as error:
            self._warn(error)
            return None

    async def alookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        """Return the generations that are stored for a prompt and a model, or None."""
        params = self._params(prompt, llm_string)
        if params is None:
            return None
        try:
            return _generations(await self._cache.llm.check(params))
        except UNAVAILABLE as error:
            self._warn(error)
            return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store the generations of a prompt and a model. Raises nothing: the caller has paid for them."""
        params, answer = self._params(prompt, llm_string), self._answer(return_val)
        if params is None or answer is None:
            return
        try:
            face = self._cache._sync_face
            llm = face.parts.llm
            ScopedFace(face, llm._rules.scopes).run(partial(llm._keep, params, answer, self._ttl, (_TAG,)))
        except TierCacheError as error:
            self._warn(error)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store the generations of a prompt and a model. Raises nothing: the caller has paid for them."""
        params, answer = self._params(prompt, llm_string), self._answer(return_val)
        if params is None or answer is None:
            return
        try:
            await self._cache.llm._keep(params, answer, self._ttl, (_TAG,))
        except TierCacheError as error:
            self._warn(error)

    def clear(self, **kwargs: Any) -> None:
        """Remove every answer that an adapter of this class has stored. Errors as for ``AgentCache.invalidate_tag``."""
        self._cache.sync.invalidate_tag(_TAG)

    async def aclear(self, **kwargs: Any) -> None:
        """Remove every answer that an adapter of this class has stored. Errors as for ``AgentCache.invalidate_tag``."""
        await self._cache.invalidate_tag(_TAG)

    def _params(self, prompt: str, llm_string: str) -> dict[str, Any] | None:
        """Return the request for the llm tier, or None if the texts do not tell it apart from every other request."""
        schemas = None if _NO_JSON in prompt or _ADDRESS.search(llm_string) else schemas_of(llm_string)
        if schemas is None:
            log_of(self._cache).warn_once(
                "LangChain describes a request by the name or the address of an object: its answer is not cached"
            )
            return None
        model, digest = _described(llm_string)
        params = {"model": model, "messages": [{"role": "user", "content": without_costs(prompt)}], "langchain": digest}
        return {**params, "langchain_schemas": schemas} if schemas else params

    def _answer(self, generations: Sequence[Generation]) -> LlmResponse | None:
        """Return the answer for the llm tier, or None if there is none that would come back whole."""
        data = [to_json(generation) for generation in generations]
        if not data or None in data:
            log_of(self._cache).warn_once("an answer of LangChain cannot be written as JSON: it is not stored")
            return None
        return LlmResponse(
            "\n\n".join(generation.text for generation in generations),
            [{"type": "langchain", "generation": each} for each in data],
            _tokens(generations),
        )

    def _warn(self, error: TierCacheError) -> None:
        log_of(self._cache).warn_once("LangChain's cache of answers goes on without Valkey: %s", error)


def _generations(result: LlmResult) -> list[Generation] | None:
    """Return the generations of an entry, or None if there is no entry, or another program has written it."""
    blocks = [from_json(block.get("generation"), Generation) for block in result.content_blocks or ()]
    found = [generation for generation in blocks if generation is not None]
    return found if found and len(found) == len(blocks) else None


@lru_cache(maxsize=128)
def _described(llm_string: str) -> tuple[str, str]:
    """Return the model that the text of a model and a call names, and the hash of the whole text."""
    return _model_of(llm_string), sha256(llm_string.encode("utf-8", "surrogatepass")).hexdigest()


def _model_of(llm_string: str) -> str:
    """Return the model that answers: it decides on the price, and on the statistics of which model count the call."""
    head, _, tail = llm_string.partition(_SEPARATOR)
    fields: dict[str, Any] = {}
    try:
        fields |= json.loads(head)["kwargs"]
    except (ValueError, KeyError, TypeError):
        tail = llm_string[1:]
    # The options are no literals if one of them is a class.
    with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        fields |= dict(ast.literal_eval(f"[{tail}"))
    for name in ("model", "model_name"):
        model = fields.get(name)
        if isinstance(model, str) and 0 < len(model) <= _LONGEST_MODEL:
            return model
    return _NO_MODEL


def _tokens(generations: Sequence[Generation]) -> dict[str, int] | None:
    """Return the tokens that the generations have used together, or None if LangChain does not know them."""
    usages: list[tuple[int, int]] = []
    for generation in generations:
        usage = getattr(getattr(generation, "message", None), "usage_metadata", None)
        if usage:
            usages.append((usage.get("input_tokens") or 0, usage.get("output_tokens") or 0))
    # Each generation of one request has the usage of the whole request.
    inputs, outputs = max(usages, default=(0, 0))
    return {"input": inputs, "output": outputs} if usages else None
