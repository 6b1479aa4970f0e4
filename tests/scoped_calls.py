"""Every way to ask a cache for a value, on both faces, for the tests of scopes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, TypeAlias

from tests.requests import HELLO
from tiercache import AgentCache

__all__ = ["DECORATED", "WAYS", "Asker", "Way"]

# Asks for the value; a miss loads the second argument. Returns the value.
Way: TypeAlias = Callable[["Asker", str], Awaitable[str]]


class Asker:
    """Asks one face of a cache.

    Args:
        options: The options of the decorators.
    """

    def __init__(self, cache: AgentCache, *, is_async: bool, **options: Any) -> None:
        self.face: Any = cache if is_async else cache.sync
        self._is_async = is_async
        self.loaded = ""
        self.llm_function = self.face.llm.cached(**options)(self._function(_answer))
        self.tool_function = self.face.tool.cached(**options)(self._function(_tool))
        self.function = self.face.memoize(**options)(self._function(_value))
        self.tool_items = self.face.tool.cached("items", **options)(self._generator())
        self.items = self.face.memoize(name="items", **options)(self._generator())
        self.many_function = self.face.memoize_many(**options)(self._function(_values))

    def _function(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that returns the value to load, async for the async face."""

        def function(*args: Any, **kwargs: Any) -> Any:
            return plain(self.loaded, *args, **kwargs)

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return plain(self.loaded, *args, **kwargs)

        chosen: Any = coroutine if self._is_async else function
        parameters = list(inspect.signature(plain, eval_str=True).parameters.values())[1:]
        returned = inspect.signature(plain, eval_str=True).return_annotation
        chosen.__signature__ = inspect.Signature(parameters, return_annotation=returned)
        chosen.__annotations__ = {"return": returned}
        chosen.__name__ = chosen.__qualname__ = plain.__name__
        return chosen  # type: ignore[no-any-return]

    def _generator(self) -> Callable[..., Any]:
        """Return a generator function that yields the value to load, async for the async face."""

        def generator(city: str) -> Iterator[str]:
            yield self.loaded

        async def async_generator(city: str) -> AsyncIterator[str]:
            yield self.loaded

        return async_generator if self._is_async else generator

    async def item(self, function: Callable[..., Any], loaded: str) -> str:
        """Return the item of a decorated generator, which yields ``loaded`` if it runs."""
        self.loaded = loaded
        if self._is_async:
            (item,) = [item async for item in function("Paris")]
        else:
            (item,) = await asyncio.to_thread(lambda: list(function("Paris")))
        return item  # type: ignore[no-any-return]

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result of a call, which a plain face makes in another thread."""
        if self._is_async:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result
        return await asyncio.to_thread(function, *args, **kwargs)

    async def decorated(self, function: Callable[..., Any], loaded: str, *args: Any, **kwargs: Any) -> Any:
        """Return the value of a decorated function, which returns ``loaded`` if it is called."""
        self.loaded = loaded
        return await self.run(function, *args, **kwargs)


def _answer(loaded: str, model: str, messages: list[Any]) -> str:
    return loaded


def _tool(loaded: str, city: str) -> str:
    return loaded


def _value(loaded: str, city: str) -> str:
    return loaded


def _values(loaded: str, cities: list[str]) -> list[str]:
    return [loaded for _ in cities]


async def _llm(asker: Asker, value: str) -> str:
    result = await asker.run(asker.face.llm.get_or_load, HELLO, lambda: value)
    return result.response  # type: ignore[no-any-return]


async def _llm_store(asker: Asker, value: str) -> str:
    found = await asker.run(asker.face.llm.check, {**HELLO, "n": 1})
    if not found.hit:
        await asker.run(asker.face.llm.store, {**HELLO, "n": 1}, value)
    return (await asker.run(asker.face.llm.check, {**HELLO, "n": 1})).response  # type: ignore[no-any-return]


async def _llm_multipart(asker: Asker, value: str) -> str:
    params = {**HELLO, "n": 2}
    if not (await asker.run(asker.face.llm.check, params)).hit:
        await asker.run(asker.face.llm.store_multipart, params, [{"type": "text", "text": value}])
    return (await asker.run(asker.face.llm.check, params)).response  # type: ignore[no-any-return]


async def _llm_key(asker: Asker, value: str) -> str:
    key = await asker.run(asker.face.llm.key, {**HELLO, "n": 3})
    return (await asker.run(asker.face.llm.get_or_load, key, lambda: value)).response  # type: ignore[no-any-return]


async def _tool_load(asker: Asker, value: str) -> str:
    result = await asker.run(asker.face.tool.get_or_load, "weather", {"city": "Paris"}, lambda city: value)
    return result.value  # type: ignore[no-any-return]


async def _tool_none(asker: Asker, value: str) -> str:
    result = await asker.run(asker.face.tool.get_or_load, "weather", None, lambda: value)
    return result.value  # type: ignore[no-any-return]


async def _tool_store(asker: Asker, value: str) -> str:
    if not (await asker.run(asker.face.tool.check, "stored", {})).hit:
        await asker.run(asker.face.tool.store, "stored", {}, value)
    return (await asker.run(asker.face.tool.check, "stored", {})).value  # type: ignore[no-any-return]


async def _tool_key(asker: Asker, value: str) -> str:
    key = await asker.run(asker.face.tool.key, "weather", {"city": "Rome"})
    return (await asker.run(asker.face.tool.get_or_load, key, lambda city: value)).value  # type: ignore[no-any-return]


async def _kv(asker: Asker, value: str) -> str:
    return (await asker.run(asker.face.kv.get_or_load, "k", lambda: value)).value  # type: ignore[no-any-return]


async def _kv_set(asker: Asker, value: str) -> str:
    if not await asker.run(asker.face.kv.exists, "set"):
        await asker.run(asker.face.kv.set, "set", value)
    return await asker.run(asker.face.kv.get, "set")  # type: ignore[no-any-return]


async def _kv_many(asker: Asker, value: str) -> str:
    values = await asker.run(asker.face.kv.get_or_load_many, ["a", "b"], lambda keys: dict.fromkeys(keys, value))
    assert values["a"] == values["b"]
    return values["a"]  # type: ignore[no-any-return]


async def _kv_set_many(asker: Asker, value: str) -> str:
    if not (await asker.run(asker.face.kv.get_many, ["c", "d"]))["c"]:
        await asker.run(asker.face.kv.set_many, {"c": value, "d": value})
    values = await asker.run(asker.face.kv.get_many, ["c", "d"])
    assert list(values) == ["c", "d"]
    return values["d"]  # type: ignore[no-any-return]


async def _named_kv(asker: Asker, value: str) -> str:
    tier = asker.face.tier("named")
    return (await asker.run(tier.get_or_load, "k:1", lambda key: f"{value}")).value  # type: ignore[no-any-return]


async def _llm_function(asker: Asker, value: str) -> str:
    params = {"model": "m", "messages": []}
    return await asker.decorated(asker.llm_function, value, **params)  # type: ignore[no-any-return]


async def _tool_function(asker: Asker, value: str) -> str:
    return await asker.decorated(asker.tool_function, value, "Paris")  # type: ignore[no-any-return]


async def _function(asker: Asker, value: str) -> str:
    return await asker.decorated(asker.function, value, "Paris")  # type: ignore[no-any-return]


async def _many_function(asker: Asker, value: str) -> str:
    first, second = await asker.decorated(asker.many_function, value, ["Paris", "Rome"])
    assert first == second
    return first  # type: ignore[no-any-return]


async def _items(asker: Asker, value: str) -> str:
    return await asker.item(asker.items, value)


async def _tool_items(asker: Asker, value: str) -> str:
    return await asker.item(asker.tool_items, value)


DECORATED: Final[dict[str, Way]] = {
    "llm.cached": _llm_function,
    "tool.cached": _tool_function,
    "memoize": _function,
    "memoize_many": _many_function,
    "items of a generator": _items,
    "items of a tool": _tool_items,
}
WAYS: Final[dict[str, Way]] = {
    "llm.get_or_load": _llm,
    "llm.store": _llm_store,
    "llm.store_multipart": _llm_multipart,
    "llm.key": _llm_key,
    "tool.get_or_load": _tool_load,
    "tool without args": _tool_none,
    "tool.store": _tool_store,
    "tool.key": _tool_key,
    "kv.get_or_load": _kv,
    "kv.set": _kv_set,
    "kv.get_or_load_many": _kv_many,
    "kv.set_many": _kv_set_many,
    "a named kv tier": _named_kv,
    **DECORATED,
}
