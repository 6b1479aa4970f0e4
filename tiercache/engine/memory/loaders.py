"""Loaders: which arguments a caller's loader gets, and where it runs."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import FunctionType
from typing import Any, Final, TypeAlias, TypeGuard

from ...errors import UsageError
from ...log import CacheLog
from .awaitable_loader import AwaitableLoader

__all__ = [
    "LoaderCalls",
    "RunPlain",
    "accepts_arguments",
    "awaitable_loader",
    "check_loader",
    "requires_argument",
    "takes_argument",
]

# Seconds for which a plain loader may block the event loop without a warning. The debug mode of asyncio has this limit.
_LONGEST_BLOCK: Final = 0.1

# Flags of a code object that takes ``*args`` or ``**kwargs``.
_VARIADIC: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_LAMBDA: Final = "<lambda>"

# Calls a plain function outside of the event loop, and returns its value or raises its exception.
RunPlain: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


def check_loader(loader: object) -> None:
    """Refuse a loader that is not callable.

    Raises:
        UsageError: ``loader`` is not callable.
    """
    if not callable(loader):
        raise UsageError(f"loader must be a function, async or plain, not {type(loader).__name__}")


def awaitable_loader(loader: object) -> AwaitableLoader:
    """Return the loader that awaits ``loader``, which is not callable.

    Raises:
        UsageError: ``loader`` is not awaitable. A plain value is refused: it exists before the lookup, so that a hit
            would save nothing, and a value by mistake, as in ``get_or_load(key, fetch())``, would stay unnoticed.
    """
    if not inspect.isawaitable(loader):
        raise UsageError(
            "loader must be a function, async or plain, or an awaitable, "
            f"not {type(loader).__name__}: a value that you have already is stored by set or store"
        )
    return AwaitableLoader(loader)


def requires_argument(loader: Callable[..., Any]) -> bool:
    """Return whether ``loader`` has a required positional parameter.

    Raises:
        UsageError: ``loader`` requires more than one argument, or a keyword argument, so that the cache cannot call it.
    """
    if _is_plain_function(loader):
        code = loader.__code__
        required_count = code.co_argcount - len(loader.__defaults__ or ())
        if required_count <= 1 and not code.co_kwonlyargcount:
            return required_count == 1
    return bool(_required(_parameters(loader)))


def takes_argument(loader: Callable[..., Any]) -> bool:
    """Return whether the loader of a key gets the key, or the params, as its argument.

    There are four cases:

    1. It has one required positional parameter: the loader gets the argument.
    2. It has positional parameters, all with defaults: refused, because the load would call it without the argument,
       and store its answer under another request. A lambda that binds values by defaults, and a ``partial`` with a
       bound argument, get none.
    3. It has ``*args``: it gets the argument.
    4. It has ``**kwargs`` and no positional parameter: refused, as in case 2. Otherwise it gets no argument.

    Raises:
        UsageError: As for ``requires_argument``, and in the cases 2 and 4.
    """
    if _is_plain_function(loader) and not loader.__code__.co_kwonlyargcount and not loader.__defaults__:
        code = loader.__code__
        if code.co_argcount == 1 or (not code.co_argcount and code.co_flags & inspect.CO_VARARGS):
            return True
        if not code.co_argcount and not code.co_flags & inspect.CO_VARKEYWORDS:
            return False
    parameters = _parameters(loader)
    if _required(parameters):
        return True
    if isinstance(loader, partial) and loader.args:
        return False
    optional = [p.name for p in parameters if p.kind in _POSITIONAL]
    if optional:
        if getattr(inspect.unwrap(loader), "__name__", None) == _LAMBDA:
            return False
        raise UsageError(
            f"loader must require its argument: {', '.join(optional)} has a default, so the loader would be called "
            "without the request. Remove the default, or bind values by functools.partial or a lambda"
        )
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise UsageError("loader must take its argument by position, or no argument: it takes keyword arguments alone")
    return False


def accepts_arguments(loader: Callable[..., Any]) -> bool:
    """Return whether ``loader`` has a parameter, required or not; True if its signature is unknown."""
    if _is_plain_function(loader):
        code = loader.__code__
        return bool(code.co_argcount or code.co_kwonlyargcount or code.co_flags & _VARIADIC)
    try:
        return bool(inspect.signature(loader).parameters)
    except (TypeError, ValueError):
        return True


def _parameters(loader: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(loader).parameters.values())
    except (TypeError, ValueError):
        return []  # Some functions written in C have no signature.


def _required(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1 or any(p.kind not in _POSITIONAL for p in required):
        names = ", ".join(p.name for p in required)
        raise UsageError(f"loader must take no argument or one, not the required ones: {names}")
    return required


def _is_plain_function(loader: object) -> TypeGuard[FunctionType]:
    """Return whether the code object of ``loader`` shows all parameters; it is 20 times as fast as ``signature``."""
    return type(loader) is FunctionType and not loader.__dict__


class LoaderCalls:
    """Calls the loaders of one tier: async loaders on the event loop, plain loaders there or in a thread.

    Args:
        tier: The name of the tier in the warning.
        in_threads: Whether plain loaders run in a thread.
        run_plain: Calls every plain loader; None: plain loaders run on the event loop, or as ``in_threads`` says.
    """

    def __init__(self, tier: str, log: CacheLog, *, in_threads: bool, run_plain: RunPlain | None = None) -> None:
        self._tier = tier
        self._log = log
        self._run_plain = _in_worker if run_plain is None and in_threads else run_plain

    async def call(self, loader: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``loader`` and return its value, awaited if it is awaitable.

        A thread has a copy of the caller's context variables. Cancelling the call cannot stop the thread: the loader
        runs to its end there, and its value is dropped. A thread of its own loop awaits nothing: an awaitable that a
        plain loader returns is awaited on the event loop.
        """
        if self._run_plain is not None and not _is_async(loader):
            value = await self._run_plain(partial(_without_stop_iteration, loader, *args, **kwargs))
        else:
            began = time.monotonic()
            value = loader(*args, **kwargs)
            seconds = time.monotonic() - began
            if seconds > _LONGEST_BLOCK:
                self._warn(loader, seconds)
        return await value if inspect.isawaitable(value) else value

    def _warn(self, loader: Callable[..., Any], seconds: float) -> None:
        function = loader.func if isinstance(loader, partial) else loader
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self._log.warn_once(
            f"the loader {name} of the tier {self._tier} has blocked the event loop for %.1f s: make it async, or run "
            "plain loaders in threads with TierOptions(threads=True)",
            seconds,
        )


async def _in_worker(function: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(function)


def _is_async(loader: Callable[..., Any]) -> bool:
    """Return whether a call of ``loader`` makes a coroutine, and so cannot block."""
    return inspect.iscoroutinefunction(loader) or inspect.iscoroutinefunction(getattr(loader, "__call__", None))  # noqa: B004


def _without_stop_iteration(loader: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call ``loader`` in a thread. A future refuses StopIteration, which a coroutine turns into RuntimeError."""
    try:
        return loader(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("the loader raised StopIteration") from error
