"""From request parameters to the key ``{name}:llm:{sha256 hex}``.

Hashed is the canonical JSON of ``model``, ``messages``, ``temperature`` and ``top_p`` (1 where not given), of the
parameters below under their names on the wire, and of every other parameter under its own name; a parameter that is
None counts as absent, except an explicit ``temperature`` or ``top_p``. Without other parameters the key is the one that
betterdb-agent-cache computes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from hashlib import sha256
from typing import Any, Final

from ...engine.entries.policy import TierPolicy
from ...engine.memory.l1 import L1
from ...errors import UsageError
from ..keys.canonical_json import agreed_json, agrees_on, canonical_json
from ..keys.fingerprint import fingerprint, is_still, may_remember, said_by, to_keep
from ..keys.key import PREPARED_BYTES, LlmKey, check_owner
from ..keys.known_keys import Aliases
from .entry import shared_model

__all__ = ["LlmKeys", "PreparedLlmKeys", "last_user_turn"]

_WIRE_NAMES: Final = {
    "tool_choice": "toolChoice",
    "response_format": "responseFormat",
    "reasoning_effort": "reasoningEffort",
    "prompt_cache_key": "promptCacheKey",
}
# A parameter under one of these names would be taken for another one; the last is kept for tenants.
_RESERVED: Final = frozenset(_WIRE_NAMES.values()) | {"__tc_scope"}


class LlmKeys:
    """Makes the keys of one cache's llm tier.

    Attributes:
        reduces: Whether a key is made of less than the whole request.
    """

    def __init__(
        self,
        prefix: str,
        *,
        ignore: tuple[str, ...] = (),
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        self._prefix = prefix
        self._ignore = frozenset(ignore)
        self._transform = transform
        self.reduces = bool(ignore) or transform is not None

    def key(self, params: Mapping[str, Any]) -> str:
        """Return the Valkey key of a request.

        Raises:
            UsageError: ``params`` is no mapping, lacks ``model`` (a str) or ``messages``, is not JSON, or has a
                parameter under a reserved name.
        """
        return self.key_of_reduced(self.reduced(params) if self.reduces else params)

    def key_of_reduced(self, params: Mapping[str, Any]) -> str:
        """As ``key``, of what ``reduced`` returned."""
        return self._prefix + sha256(canonical_json(_hashed(params), "params")).hexdigest()

    def key_of_plain(self, params: Mapping[str, Any]) -> str | None:
        """As ``key_of_reduced``, of what json and orjson agree on; None where orjson refuses it."""
        data = agreed_json(_hashed(params))
        return None if data is None else self._prefix + sha256(data).hexdigest()

    def reduced(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what of ``params`` makes the key, as the tier's ``ignore`` and ``key`` say. Errors as for ``key``."""
        _check_mapping(params, "params")
        params = {name: value for name, value in params.items() if name not in self._ignore}
        if self._transform is not None:
            params = self._transform(params)
            _check_mapping(params, "what TierOptions.key returned")
        return params


class PreparedLlmKeys:
    """The keys of requests, worked out by ``keys`` where they are not known; as many as ``l1`` allows."""

    def __init__(self, keys: LlmKeys, policy: TierPolicy, l1: L1) -> None:
        self._keys = keys
        self._reduces = keys.reduces
        self._policy = policy
        self._aliases: Aliases[LlmKey] = Aliases(
            max_entries=2 * l1.max_entries, max_bytes=l1.max_bytes // 4, size_of=lambda _: PREPARED_BYTES
        )

    def of(self, params: Any) -> LlmKey:
        """Return the key of a request, or a key itself. Errors as for ``LlmKeys.key``."""
        if type(params) is LlmKey:
            check_owner(params, self._policy)
            return params
        if self._reduces:
            return self._of_reduced(params)
        mark = fingerprint(params)
        if mark is not None:
            prepared = self._aliases.get(mark)
            if prepared is not None:
                return prepared
        prepared, kept = self._worked_out(params, mark, params)
        if kept is not None:
            self._aliases.put(kept, prepared)
        return prepared

    def _of_reduced(self, params: Mapping[str, Any]) -> LlmKey:
        reduced = self._keys.reduced(params)
        # Requests for several models may share a key; each is counted with its own.
        model = params.get("model")
        mark = fingerprint(reduced) if type(model) is str else None
        if mark is not None and (prepared := self._aliases.get((model, mark))) is not None:
            return prepared
        prepared, kept = self._worked_out(reduced, mark, {"model": model})
        if kept is not None:
            self._aliases.put((model, kept), prepared)
        return prepared

    def _worked_out(
        self, reduced: Mapping[str, Any], mark: Hashable | None, asked: Mapping[str, Any]
    ) -> tuple[LlmKey, Hashable | None]:
        """Return the key of a request that is not known, and the mark to remember it by, None for not at all.

        Args:
            asked: Has the model that the caller asked for, or is ``reduced`` itself.
        """
        said = said_by(mark)
        plain = reduced if said is None and mark is not None and agrees_on(reduced) else said
        key = None if plain is None else self._keys.key_of_plain(plain)
        if plain is not None and key is not None:
            prepared = self._prepare(key, plain if asked is reduced else asked)
            return prepared, to_keep(mark) if plain is said or is_still(reduced, mark) else None
        prepared = self._prepare(self._keys.key_of_reduced(reduced), asked)
        return prepared, mark if mark is not None and may_remember(reduced, mark) else None

    def _prepare(self, key: str, asked: Mapping[str, Any]) -> LlmKey:
        model = asked.get("model")
        if not isinstance(model, str):  # TierOptions.key has made one up.
            raise UsageError(f"params['model'] must be a str, not {type(model).__name__}")
        counters = self._policy.counters.of(model)
        # Plain text: the caller's own object is not kept.
        model = shared_model(str.__str__(model))
        return LlmKey(key=key, model=model, _policy=self._policy, _counters=counters)


def _check_mapping(params: object, name: str) -> None:
    if not isinstance(params, Mapping):
        raise UsageError(f"{name} must be a mapping with 'model' and 'messages', not {type(params).__name__}")


def _hashed(params: Mapping[str, Any]) -> dict[str, Any]:
    if type(params) is not dict:
        _check_mapping(params, "params")
    try:
        hashed = {"model": params["model"], "messages": params["messages"], "temperature": 1, "top_p": 1}
    except KeyError as error:
        raise UsageError(f"params must have {error.args[0]!r}") from error
    if type(hashed["model"]) is not str and not isinstance(hashed["model"], str):
        raise UsageError(f"params['model'] must be a str, not {type(hashed['model']).__name__}")
    for name, value in params.items():
        if name == "temperature" or name == "top_p":
            hashed[name] = value
        elif value is None or name == "model" or name == "messages":
            continue
        elif name == "tools":
            hashed["tools"] = _sorted_tools(value)
        elif name in _RESERVED or not isinstance(name, str):
            raise UsageError(f"params has {name!r}, which is no parameter name that can be told apart in the key")
        else:
            hashed[_WIRE_NAMES.get(name, name)] = value
    return hashed


def _sorted_tools(tools: object) -> list[Any]:
    if not isinstance(tools, list | tuple):
        raise UsageError(f"params['tools'] must be a list, not {type(tools).__name__}")
    try:
        return sorted(tools, key=_tool_name)
    except (AttributeError, TypeError) as error:
        raise UsageError(f"params['tools'] must be a list of mappings whose names are str: {error}") from error


def _tool_name(tool: Any) -> str:
    return (tool.get("function") or {}).get("name") or tool.get("name") or ""


def last_user_turn(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``params`` with the last user message as the only one, for ``TierOptions(key=last_user_turn)``.

    Two conversations that end in the same question then share one answer, whatever was said before.

    Raises:
        UsageError: The messages are no list of mappings.
    """
    messages = params.get("messages")
    if not isinstance(messages, list | tuple) or not all(isinstance(message, Mapping) for message in messages):
        raise UsageError("params['messages'] must be a list of mappings, for its last user turn to be the key")
    users = [message for message in messages if message.get("role") == "user"]
    return {**params, "messages": users[-1:]}
