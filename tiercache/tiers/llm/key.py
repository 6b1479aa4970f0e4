"""The llm key: from request parameters to ``{name}:llm:{sha256 hex}``.

The hash is over the canonical JSON of a mapping with

1. ``model``, ``messages``, ``temperature`` and ``top_p``; the latter two are 1 if they are not given;
2. the parameters in ``_WIRE_NAMES`` under their names on the wire;
3. every other parameter under its own name.

The components of the key, such as the scope of a tenant, join the mapping under their reserved names.

A parameter that is None counts as absent, except an explicit ``temperature`` or ``top_p``. A parameter that an SDK
marks as not given (``absent``) counts as absent, also inside of dicts. For a request without parameters of the third
kind, betterdb-agent-cache computes the same key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Final

from ...engine.entries.counters import TierCounters
from ...engine.entries.rules import TierRules
from ...engine.memory.l1 import L1
from ...errors import UsageError
from ...scopes import COMPONENT_NAMES, Components
from ...text import check_size, shown
from ..keys.absent import without_absent
from ..keys.canonical_json import canonical_json
from ..keys.fingerprint import fingerprint_of_request
from ..keys.key import HANDLE_BYTES, LlmKey, check_owner
from ..keys.lookup import KeyLookup
from .entry import shared_model

__all__ = ["RESERVED_NAMES", "LlmKeyLookup", "LlmKeys", "last_user_turn"]

_WIRE_NAMES: Final = {
    "tool_choice": "toolChoice",
    "response_format": "responseFormat",
    "reasoning_effort": "reasoningEffort",
    "prompt_cache_key": "promptCacheKey",
}
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
# A parameter with one of these names would make the key of another parameter, or of another scope.
RESERVED_NAMES: Final = frozenset(_WIRE_NAMES.values()) | COMPONENT_NAMES


class LlmKeys:
    """Makes the keys of the requests to one cache's llm tier.

    Args:
        prefix: The first part of every key.
        ignore: Names of parameters that are left out of the key, from ``TierOptions.ignore``.
        transform: Returns the parameters that make the key, from ``TierOptions.key``.

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

    def check(self, key: str) -> str:
        """Return ``key``, the text of a key of this tier.

        Raises:
            UsageError: ``key`` is no such text.
        """
        if not key.startswith(self._prefix) or not _DIGEST.fullmatch(key, len(self._prefix)):
            raise UsageError(f"the text of a key must be {self._prefix!r} and 64 hex digits, not {shown(key)}")
        return str.__str__(key)

    def key(self, params: Mapping[str, Any], components: Components = ()) -> str:
        """Return the Valkey key of a request.

        Args:
            components: The components of the key.

        Raises:
            UsageError: ``params`` is not a mapping, lacks ``model`` (a str) or ``messages``, is not JSON, or has a
                parameter with a reserved name.
        """
        return self.key_of_reduced(self.reduced(params) if self.reduces else params, components)

    def key_of_reduced(self, params: Mapping[str, Any], components: Components = (), *, is_exact: bool = False) -> str:
        """Return the Valkey key of a request that ``reduced`` returned. Errors as for ``key``.

        Args:
            is_exact: Whether ``params`` are known to be exact JSON.
        """
        try:
            data = canonical_json(_hashed(params, components), "params", is_exact=is_exact, given=params)
        except UsageError:
            # Looked for only where JSON has refused the request: no other request pays for the search.
            given = without_absent(params)
            if given is params:
                raise
            data = canonical_json(_hashed(given, components), "params", given=given)
        return self._prefix + sha256(data).hexdigest()

    def reduced(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters that make the key, after the tier's ``ignore`` and ``key``. Errors as for ``key``."""
        _check_mapping(params, "params")
        params = {name: value for name, value in params.items() if name not in self._ignore}
        if self._transform is not None:
            params = self._transform(params)
            _check_mapping(params, "the result of TierOptions.key")
        return params


class LlmKeyLookup(KeyLookup[LlmKey]):
    """The keys of the requests to one cache's llm tier: known keys, and new ones that ``keys`` makes.

    Attributes:
        of: Returns the key of a request that is made now, or a key itself. Errors as for ``LlmKeys.key``, and those of
            a scope function.
        within: Returns the key of a request with the components of its second argument, or a key itself. Errors as for
            ``LlmKeys.key``.
    """

    def __init__(self, keys: LlmKeys, rules: TierRules, l1: L1) -> None:
        super().__init__(l1, fingerprint_of_request, lambda _: HANDLE_BYTES)
        self._keys = keys
        self._rules = rules
        self._calls = rules.scopes.calls
        self.of: Callable[[Any], LlmKey] = self._of_reduced if keys.reduces else self._of_whole
        self.within: Callable[[Any, Components], LlmKey] = self._reduced_within if keys.reduces else self._whole_within

    def _of_whole(self, params: Any) -> LlmKey:
        if type(params) is LlmKey:
            check_owner(params, self._rules)
            return params
        if self._calls.is_used:
            return self._whole_within(params, self._rules.scopes.components())
        fingerprint = fingerprint_of_request(params)
        return self.known.find(fingerprint) or self.make(params, fingerprint, self._make)

    def _whole_within(self, params: Any, components: Components) -> LlmKey:
        if type(params) is LlmKey:
            check_owner(params, self._rules)
            return params
        fingerprint = fingerprint_of_request(params)
        if not components:
            return self.known.find(fingerprint) or self.make(params, fingerprint, self._make)
        # Without the components, the key of an equal request of another scope would be found.
        known = self.known.find((components, fingerprint))
        return known or self.make(params, fingerprint, partial(self._make, components=components), components)

    def of_text(self, key: str) -> LlmKey:
        """Return the key with the text ``key``, for a look at the levels alone: its model is not known.

        Raises:
            UsageError: ``key`` is no text of a key of this tier.
        """
        return LlmKey(key=self._keys.check(key), model="", _rules=self._rules, _counters=TierCounters())

    def _make(self, params: Mapping[str, Any], is_exact: bool, components: Components = ()) -> LlmKey:
        key = self._keys.key_of_reduced(params, components, is_exact=is_exact)
        return self._handle(key, params.get("model"), components)

    def _of_reduced(self, params: Any) -> LlmKey:
        # A key has components of its own.
        has_components = type(params) is not LlmKey and self._calls.is_used
        return self._reduced_within(params, self._rules.scopes.components() if has_components else ())

    def _reduced_within(self, params: Any, components: Components) -> LlmKey:
        if type(params) is LlmKey:
            check_owner(params, self._rules)
            return params
        reduced = self._keys.reduced(params)
        # Requests for several models may share a key in Valkey. Each model has a handle of its own, with its counters.
        model = params.get("model")
        fingerprint = fingerprint_of_request(reduced) if type(model) is str else None
        place = (model, components) if components else model
        if fingerprint is not None and (found := self.known.find((place, fingerprint))) is not None:
            return found

        def make(params: Mapping[str, Any], is_exact: bool) -> LlmKey:
            return self._handle(self._keys.key_of_reduced(params, components, is_exact=is_exact), model, components)

        return self.make(reduced, fingerprint, make, place)

    def _handle(self, key: str, model: object, components: Components) -> LlmKey:
        if not isinstance(model, str):  # TierOptions.key has added a model to a request that has none.
            raise UsageError(f"params['model'] must be a str, not {type(model).__name__}")
        check_size(model, "params['model']")
        counters = self._rules.counters.of(model)
        # Plain text: the handle does not refer to an object of the caller's.
        model = shared_model(str.__str__(model))
        return LlmKey(key=key, model=model, _rules=self._rules, _counters=counters, _components=components)


def _check_mapping(params: object, name: str) -> None:
    if not isinstance(params, Mapping):
        raise UsageError(f"{name} must be a mapping with 'model' and 'messages', not {type(params).__name__}")


def _hashed(params: Mapping[str, Any], components: Components) -> dict[str, Any]:
    if type(params) is not dict:
        _check_mapping(params, "params")
    try:
        hashed = {"model": params["model"], "messages": params["messages"], "temperature": 1, "top_p": 1}
    except KeyError as error:
        raise UsageError(f"params must have {error.args[0]!r}") from error
    if type(hashed["model"]) is not str and not isinstance(hashed["model"], str):
        raise UsageError(f"params['model'] must be a str, not {type(hashed['model']).__name__}")
    check_size(hashed["model"], "params['model']")
    for name, value in params.items():
        if name == "temperature" or name == "top_p":
            hashed[name] = value
        elif value is None or name == "model" or name == "messages":
            continue
        elif name == "tools":
            hashed["tools"] = _sorted_tools(value)
        elif name in RESERVED_NAMES or not isinstance(name, str):
            raise UsageError(f"params has {shown(name)}, which is no parameter name: it is reserved, or not a str")
        else:
            hashed[_WIRE_NAMES.get(name, name)] = value
    hashed.update(components)
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
    """Return ``params`` with the last user message as the only one, for ``LlmOptions(key=last_user_turn)``.

    Two conversations that end in the same question then share one answer, also if their earlier messages differ.

    Raises:
        UsageError: The messages are not a list of mappings.
    """
    messages = params.get("messages")
    if not isinstance(messages, list | tuple) or not all(isinstance(message, Mapping) for message in messages):
        raise UsageError("params['messages'] must be a list of mappings, for its last user turn to be the key")
    users = [message for message in messages if message.get("role") == "user"]
    return {**params, "messages": users[-1:]}
