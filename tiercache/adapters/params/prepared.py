"""Prepared params: a request as parameters of the llm tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal
from uuid import uuid4

from ...errors import UsageError
from ...text import check_name
from ...tiers.keys.absent import is_absent
from ...tiers.llm.key import RESERVED_NAMES
from ..http.apis.api import Api
from ..http.request_key import KEY_HEADERS
from ..http.target import CREDENTIALS
from .fields import Fields, dicts_in
from .options import PrepareOptions
from .plain import KEPT, plain

__all__ = ["GivenRequest", "PreparedParams", "prepared_params", "read_request"]

# Arguments of the SDKs' methods that are no parameters of the request.
_OF_SDK: Final = ("extra_body", "extra_headers", "extra_query", "timeout")


class PreparedParams(dict[str, Any]):
    """The parameters of a request for ``cache.llm``: a dict, in the form of betterdb-agent-cache.

    The key ``tiercache``, in the dict itself, in a message or in a block, has the parts of the request for which that
    form has no place.

    Attributes:
        bypass: Why the answer depends on more than the request, or None. No two params with a reason share a key, so
            that no such answer is ever found again.
    """

    def __init__(self, params: Mapping[str, Any], bypass: str | None = None) -> None:
        super().__init__(params)
        self.bypass = bypass

    @property
    def mode(self) -> Literal["use", "bypass"]:
        """The mode for ``get_or_load``: ``"bypass"`` if ``bypass`` is a reason, or else ``"use"``."""
        return "use" if self.bypass is None else "bypass"


class GivenRequest:
    """A request to a model API, as the SDK sends it.

    Attributes:
        fields: The parameters that can change the answer.
        bypass: Why the answer depends on more than the request, or None.
        kept: Further parts of the request that choose the answer.
    """

    def __init__(self, fields: Fields, bypass: str | None, kept: dict[str, Any]) -> None:
        self.fields = fields
        self.bypass = bypass
        self.kept = kept


def read_request(params: object, api: Api, options: PrepareOptions, *, counted: tuple[str, ...] = ()) -> GivenRequest:
    """Return a request, as the wrapped clients read it.

    Args:
        params: The arguments of an SDK's method.
        counted: Parameters that are in the key, although the key of a wrapped client leaves them out.

    Raises:
        UsageError: ``params`` is no mapping, or is not JSON.
    """
    if not isinstance(params, Mapping):
        raise UsageError(f"params must be a mapping of parameters, not {type(params).__name__}")
    given = {name: value for name, value in params.items() if name not in _OF_SDK}
    body: dict[str, Any] = plain({**given, **_extra(params, "extra_body")}, "params")
    reduced = {**api.reduced(body), **{name: body[name] for name in counted if name in body}}
    bypass = None if options.stateful else api.state_in(body)
    headers = {name.lower(): value for name, value in _extra(params, "extra_headers").items() if isinstance(name, str)}
    kept = {
        "headers": {name: headers[name] for name in KEY_HEADERS if headers.get(name) is not None},
        "query": {n: value for n, value in _extra(params, "extra_query").items() if n not in CREDENTIALS},
    }
    return GivenRequest(Fields(reduced, "params"), bypass, plain({n: v for n, v in kept.items() if v}, "params"))


def _extra(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return one of the arguments by which a caller adds to a request."""
    value = params.get(name)
    if value is None or is_absent(value):
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"params.{name} must be a mapping, not {type(value).__name__}")
    return value


def prepared_params(request: GivenRequest, messages: list[dict[str, Any]], **renamed: Any) -> PreparedParams:
    """Return the params of a request: all parameters that are left go under their own names.

    Args:
        renamed: Parameters under the names that the llm tier has for them, or None. A parameter of the request that has
            such a name goes into ``KEPT``, as one with a reserved name does.

    Raises:
        UsageError: The request has no model, or its tools are no list of mappings.
    """
    fields, kept = request.fields, dict(request.kept)
    if fields.whole.get("model") is None:
        raise UsageError("params must have 'model'")
    model = check_name(fields.whole["model"], "params.model")
    fields.take("model", str)
    left = fields.rest()
    names = {*renamed, *RESERVED_NAMES, KEPT, "messages"}
    if (tools := left.get("tools")) is not None and not all(map(_has_name, dicts_in(tools, "params.tools"))):
        names.add("tools")
    if others := {name: left.pop(name) for name in names if name in left}:
        kept["params"] = others
    if request.bypass is not None:
        kept["bypass"] = {"reason": request.bypass, "call": uuid4().hex}
    params = {"model": model, "messages": messages, **left}
    params.update((name, value) for name, value in renamed.items() if value is not None)
    if kept:
        params[KEPT] = kept
    return PreparedParams(params, request.bypass)


def _has_name(tool: Mapping[str, Any]) -> bool:
    """Return whether the llm tier can sort a tool by its name."""
    function = tool.get("function") or {}
    return isinstance(function, dict) and isinstance(function.get("name") or tool.get("name") or "", str)
