"""Requests of DSPy: the key of a request, and the model that it asks.

DSPy hands a dict to its cache: the arguments of a call, and the name of the function that is called.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from enum import Enum
from hashlib import sha256
from typing import Any, Final

from ...errors import UsageError
from ..extras import missing_extra
from ..http.apis.chat import Chat
from ..http.apis.responses import Responses

try:
    from pydantic import BaseModel
except ImportError as error:
    raise missing_extra("dspy", error) from error

__all__ = ["asks_model", "is_explicit", "key_of", "model_of", "state_in"]

_FUNCTION: Final = "_fn_identifier"
# Functions that ask a model, and the functions with an explicit request among them.
_MODELS: Final = ("dspy.clients.lm.", "dspy.clients.lm15.")
_EXPLICIT: Final = "dspy.clients.lm15."
# The async function beside each plain one: both return the same answer.
_TWINS: Final = (
    ("lm.alitellm_", "lm.litellm_"),
    ("_cached_acompute_", "_cached_compute_"),
    (".complete.async", ".complete"),
)
# The address of a model. DSPy leaves it out of its keys, so that a local model would answer for the one of a provider.
_ADDRESS: Final = ("api_base", "base_url")
# Credentials, and the time to wait: they change no answer.
_NO_PART: Final = frozenset({"api_key", "azure_ad_token", "azure_ad_token_provider", "timeout"})
# The price table and the statistics know the models of these providers by their own names.
_PROVIDERS: Final = ("openai/", "anthropic/")


def asks_model(request: Mapping[str, Any]) -> bool:
    """Return whether the request asks a model for an answer, and not for embeddings or a search."""
    return str(request.get(_FUNCTION, "")).startswith(_MODELS)


def is_explicit(request: Mapping[str, Any]) -> bool:
    """Return whether the caller has made the request itself. DSPy then leaves the address of the model out."""
    return str(request.get(_FUNCTION, "")).startswith(_EXPLICIT)


def model_of(request: Mapping[str, Any]) -> str:
    """Return the model of a request, by which its answer is counted and priced."""
    model = _full_model(request) or "dspy"
    for provider in _PROVIDERS:
        model = model.removeprefix(provider) or model
    return model


def _full_model(request: Mapping[str, Any]) -> str | None:
    inner = request.get("request")
    # An embedder passes its model as the first argument without a name.
    model = (inner if isinstance(inner, Mapping) else request).get("model") or request.get("positional_arg_0")
    return model if isinstance(model, str) and model else None


def state_in(request: Mapping[str, Any]) -> str | None:
    """Return the part of a request whose answer depends on more than the request, or None."""
    function = str(request.get(_FUNCTION, ""))
    inner = request.get("request")
    if isinstance(inner, Mapping):
        tools = inner.get("tools") or ()
        return None if all(tool.get("type") == "function" for tool in tools) else "a tool of the provider"
    api = Responses() if function.endswith("_responses_completion") else Chat()
    return api.state_in(request) if asks_model(request) else None


def key_of(request: Mapping[str, Any], ignored: Collection[str], scope: str | None) -> str:
    """Return a text that two requests share only if nothing that changes the answer tells them apart.

    Args:
        ignored: Arguments of the request that DSPy or the caller leaves out. The address of a model stays.

    Raises:
        UsageError: An argument has no form by which it can be recognised, such as a function.
    """
    left_out = _NO_PART.union(ignored).difference(_ADDRESS)
    arguments = {name: _form(request[name], name) for name in sorted(request) if name not in left_out}
    arguments[_FUNCTION] = _plain_twin(str(arguments.get(_FUNCTION, "")))
    text = json.dumps([scope, _environment(request), arguments])
    return sha256(text.encode()).hexdigest()


def _plain_twin(function: str) -> str:
    for twin, plain in _TWINS:
        function = function.replace(twin, plain)
    return function


def _environment(request: Mapping[str, Any]) -> list[str | None]:
    """Return the address that the environment gives to the model, if the request has none."""
    model = _full_model(request)
    if model is None or any(request.get(name) for name in _ADDRESS):
        return []
    provider = model.partition("/")[0].upper() if "/" in model else "OPENAI"
    return [os.environ.get(f"{provider}_{name}") for name in ("API_BASE", "BASE_URL")]


def _form(value: Any, place: str) -> Any:
    """Return the JSON by which an argument is recognised. The order of fields counts: a model sees it."""
    if value is None or isinstance(value, bool | float) or type(value) is int:
        return value
    if isinstance(value, Enum):
        return {"enum": f"{type(value).__qualname__}.{value.name}"}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list | tuple):
        return [_form(item, place) for item in value]
    if isinstance(value, Mapping):
        # Pairs: an object of JSON cannot take the place of one of the forms below.
        return {"fields": [[_field(name, place), _form(item, place)] for name, item in value.items()]}
    if isinstance(value, BaseModel):
        return {"object": type(value).__qualname__, "value": _form(value.model_dump(mode="json"), place)}
    if isinstance(value, type) and issubclass(value, BaseModel):
        return {"class": value.__qualname__, "schema": _form(value.model_json_schema(), place)}
    raise UsageError(f"argument {place!r} has an object of type {type(value).__name__}, which cannot be part of a key")


def _field(name: object, place: str) -> str:
    if not isinstance(name, str):
        raise UsageError(f"argument {place!r} has a field whose name is of type {type(name).__name__}, and not a str")
    return str.__str__(name)
