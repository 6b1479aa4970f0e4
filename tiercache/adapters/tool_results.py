"""Results of tools in the tool tier, for frameworks whose tools return objects: the stored form, and one call.

A result is stored as ``{field: form}`` with the name of the framework as the field. ``form`` is ``{"json": value}`` for
plain JSON, or ``{"node": node}``. A node is a pair of a kind and its content:

    ["json", value]    ["list", [node, ...]]    ["dict", {key: node, ...}]
    [<name of a class>, <JSON of the object>]    [<name of a record>, {field: node, ...}]
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from ..agent_cache import AgentCache
from ..errors import UsageError
from ..tiers.keys.exact_json import has_exact_types
from .caches import UNAVAILABLE, log_of

__all__ = ["ObjectAdapter", "ResultForms", "is_plain_json", "tool_result"]

_JSON: Final = "json"
_NODE: Final = "node"
_LIST: Final = "list"
_DICT: Final = "dict"


class ObjectAdapter(Protocol):
    """Converts objects of one class, as pydantic's ``TypeAdapter`` does."""

    def dump_json(self, value: Any, /) -> bytes:
        """Return the JSON of an object."""
        ...

    def validate_json(self, data: bytes, /) -> Any:
        """Return the object that JSON describes."""
        ...


class ResultForms:
    """Converts the results of a framework's tools to their stored form and back.

    Args:
        field: The name of the framework.
        classes: The classes whose objects are restored, each with its adapter.
        records: The dataclasses whose fields may hold any result.

    Attributes:
        field: The name of the framework.
    """

    def __init__(
        self, field: str, classes: Mapping[type[Any], ObjectAdapter], records: tuple[type[Any], ...] = ()
    ) -> None:
        self.field = field
        self._adapters = {_name(kind): (kind, adapter) for kind, adapter in classes.items()}
        self._records = {_name(kind): kind for kind in records}

    def to_json(self, result: Any) -> dict[str, Any] | None:
        """Return the value to store, or None if it would not restore an equal result."""
        # An object in the result may raise any exception.
        try:
            form = self._form(result)
            restored = self._restored(form)
            # Equality may ignore a field. The form has every field that the object writes.
            is_same = restored == result and self._form(restored) == form
        except Exception:
            return None
        return {self.field: form} if is_same else None

    def from_json(self, value: object) -> tuple[Any] | None:
        """Return the result that ``to_json`` has written, as a tuple of one, or None for any other value."""
        # Any program can write the entry, and another version of the framework may have other fields.
        try:
            return (self._restored(value[self.field]),)  # type: ignore[index]
        except Exception:
            return None

    def _form(self, result: Any) -> dict[str, Any]:
        if is_plain_json(result):
            return {_JSON: result}
        return {_NODE: self._node(result)}

    def _restored(self, form: Any) -> Any:
        if _JSON in form:
            return form[_JSON]
        return self._object(form[_NODE])

    def _node(self, value: Any) -> list[Any]:
        kind = type(value)
        if kind is list:
            return [_LIST, [self._node(item) for item in value]]
        if kind is dict:
            if not all(type(key) is str for key in value):
                raise TypeError("a key of a dict is no text")
            return [_DICT, {key: self._node(item) for key, item in value.items()}]
        name = _name(kind)
        if name in self._adapters and self._adapters[name][0] is kind:
            return [name, json.loads(self._adapters[name][1].dump_json(value))]
        if self._records.get(name) is kind:
            return [name, {field: self._node(getattr(value, field)) for field in _fields(kind)}]
        if not is_plain_json(value):
            raise TypeError(f"no form for a {name}")
        return [_JSON, value]

    def _object(self, node: Any) -> Any:
        name, content = node
        if name == _JSON:
            return content
        if name == _LIST:
            return [self._object(item) for item in content]
        if name == _DICT:
            return {key: self._object(item) for key, item in content.items()}
        if name in self._records:
            return self._records[name](**{key: self._object(item) for key, item in content.items()})
        kind, adapter = self._adapters[name]
        value = adapter.validate_json(json.dumps(content).encode())
        if type(value) is not kind:
            raise TypeError(f"the JSON of a {name} makes a {type(value).__name__}")
        return value


async def tool_result(
    cache: AgentCache,
    call: tuple[str, Any],
    run: Callable[[], Awaitable[Any]],
    forms: ResultForms,
    *,
    own_errors: tuple[type[Exception], ...] = (),
    **options: Any,
) -> Any:
    """Return the result of a tool call: of its own run, of an equal call at the same time, or from the cache.

    While Valkey is unavailable, the tool runs. It also runs, and one warning is logged, if the cache is closed, has no
    such face, or belongs to another event loop: a framework may turn an error into an answer for the model. A result
    that ``forms`` does not restore is not stored: each call then runs the tool itself.

    Args:
        cache: The cache.
        call: The name of the tool, and the arguments that make the key.
        run: Runs the tool.
        forms: Converts the result.
        own_errors: Exceptions that belong to the call that has raised them. An equal call runs the tool itself.
        options: ``ttl`` and ``tags`` of ``ToolTier.get_or_load``.

    Raises:
        TimeoutError: As for ``ToolTier.get_or_load``.

    Other exceptions of the run reach each call that waits for it.
    """
    own, tier = _OwnRun(run, forms), cache.tool
    others: tuple[type[Exception], ...] = (_NotStoredError, *own_errors, *UNAVAILABLE)
    try:
        found = own.found((await tier.get_or_load(*call, own.load, **options)).value)
        if found is None:  # Another program has written the entry.
            found = own.found((await tier.get_or_load(*call, own.load, mode="refresh", **options)).value)
    except others:
        if own.result is None and own.has_begun:
            raise
        found = own.result
    except UsageError as error:
        if own.has_begun:
            raise
        log_of(cache).warn_once("a tool runs without the cache: %s", error)
        found = None
    return await run() if found is None else found[0]


class _NotStoredError(Exception):
    """A tool has run, and its result is not stored. Every call that waited for the run gets this error."""


class _OwnRun:
    """The run of a tool that one call makes, if no other call makes it.

    Attributes:
        has_begun: Whether this call has begun its run.
        result: The result of the run, as a tuple of one, or None before its end.
    """

    def __init__(self, run: Callable[[], Awaitable[Any]], forms: ResultForms) -> None:
        self._run = run
        self._forms = forms
        self.has_begun = False
        self.result: tuple[Any] | None = None

    async def load(self) -> dict[str, Any]:
        """Run the tool; return the value to store."""
        self.has_begun = True
        result = await self._run()
        self.result = (result,)
        value = self._forms.to_json(result)
        if value is None:
            raise _NotStoredError("the result of the tool is not stored")
        return value

    def found(self, value: object) -> tuple[Any] | None:
        """Return the result of the call, or None if ``value``, which the cache has returned, is no result."""
        return self._forms.from_json(value) if self.result is None else self.result


def is_plain_json(value: Any) -> bool:
    """Return whether JSON restores ``value`` as it is: a tuple would be a list, and other keys would be text."""
    return has_exact_types(value) and json.loads(json.dumps(value)) == value


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _fields(kind: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]
