"""``cache.wrap``: a cached copy of an SDK's client, or of the HTTP client beneath it.

No SDK is imported. An SDK's client is known by its HTTP client and by its method ``with_options``, an HTTP client by
the module of its class.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import MethodType, ModuleType
from typing import Any, Final, TypeAlias, TypeVar

from ...errors import UsageError

__all__ = ["wrapped_client"]

C = TypeVar("C")
NewTransport: TypeAlias = Callable[[ModuleType, Any], Any]

_LIBRARIES: Final = ("httpx", "httpx2")
_CLASSES: Final = ("Client", "AsyncClient")
_TAKES: Final = (
    "an OpenAI, AsyncOpenAI, Anthropic or AsyncAnthropic client (Azure included), or a Client or AsyncClient of httpx "
    "or httpx2 (for Gemini, the HTTP client of its HttpOptions)"
)


def wrapped_client(client: C, new_transport: NewTransport) -> C:
    """Return a copy of ``client`` that answers requests to model APIs from a cache.

    Args:
        new_transport: Called with the library and with the client of it that sends requests to the providers.

    Raises:
        UsageError: ``client`` is no client that can be wrapped.
    """
    if _library_of(client) is not None:
        return _as_subclass(_wrapped(client, new_transport), client)  # type: ignore[no-any-return]
    inner = getattr(client, "_client", None)
    with_options = getattr(client, "with_options", None)
    if isinstance(client, type) or _library_of(inner) is None or not callable(with_options):
        kind = f"the class {_name(client)}" if isinstance(client, type) else _name(type(client))
        raise UsageError(f"client must be {_TAKES}, not {kind}")
    try:
        return with_options(http_client=_wrapped(inner, new_transport))  # type: ignore[no-any-return]
    except TypeError as error:
        kind = _name(type(client))
        text = f"{kind} cannot be copied by its with_options: make it with http_client=cache.wrap(...)"
        raise UsageError(f"{text}: {error}") from error


def _wrapped(inner: Any, new_transport: NewTransport) -> Any:
    module = _library_of(inner)
    assert module is not None
    settings = {
        "headers": inner.headers,
        "params": inner.params,
        "cookies": inner.cookies,
        "timeout": inner.timeout,
        "base_url": inner.base_url,
        "default_encoding": getattr(inner, "_default_encoding", "utf-8"),
        # The original client applies its proxies and credentials, and follows redirects.
        "trust_env": False,
        "follow_redirects": False,
    }
    kind = module.AsyncClient if isinstance(inner, module.AsyncClient) else module.Client
    return kind(transport=new_transport(module, inner), **settings)


def _as_subclass(copy: Any, client: Any) -> Any:
    """Return ``copy``, a client of a library itself, as one of the class of ``client``, which may be a subclass.

    A ``send`` of the subclass is for requests to the provider, as event hooks are: the original client has it.
    """
    base: Any = type(copy)
    kind: Any = type(client)
    # The end of an object of such a class, such as an SDK's, would close the client, which the original still uses.
    if kind is base or hasattr(kind, "__del__"):
        return copy
    made = kind.__new__(kind)
    vars(made).update({**vars(client), **vars(copy), "send": MethodType(base.send, made)})
    return made


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _library_of(client: object) -> ModuleType | None:
    """Return ``httpx`` or ``httpx2``, whichever the class of ``client`` comes from, or None for another object."""
    for base in type(client).__mro__:
        root = base.__module__.partition(".")[0]
        if root in _LIBRARIES and base.__name__ in _CLASSES:
            return import_module(root)
    return None
