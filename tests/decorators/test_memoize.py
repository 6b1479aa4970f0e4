"""``cache.memoize``: which calls share a value, the options, the methods of a decorated function, faults."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support import MakeCache, Pair, until
from tiercache import MISS, AgentCache, ResilienceOptions, UsageError


class Calls:
    """Counts calls, and makes a value of each."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, *call: Any) -> dict[str, Any]:
        self.seen.append(call)
        return {"number": len(self.seen)}


@pytest.fixture
def calls() -> Calls:
    return Calls()


async def test_calls_of_every_spelling_share_a_value(cache: AgentCache, calls: Calls) -> None:
    @cache.memoize
    async def search(text: str, limit: int = 10, *more: int, exact: bool = False, **named: int) -> dict[str, Any]:
        return calls(text, limit, more, exact, named)

    first = await search("a")
    for call in (search("a", 10), search(text="a"), search("a", limit=10, exact=False), search(limit=10, text="a")):
        assert await call == first
    assert calls.seen == [("a", 10, (), False, {})]
    others = [search("b"), search("a", 11), search("a", 10, 1), search("a", exact=True), search("a", named=1)]
    assert len({value["number"] for value in await asyncio.gather(*others)}) == len(others)


async def test_arguments_of_other_types_never_share_a_value(cache: AgentCache, calls: Calls) -> None:
    @cache.memoize
    async def search(value: Any) -> dict[str, Any]:
        return calls(value)

    values = [1, True, 1.0, "1", (1,), [1], b"1", None, {1: 2}, {"1": 2}, {1}, frozenset({1})]
    for _ in range(2):
        found = [(await search(value))["number"] for value in values]
        assert found == list(range(1, len(values) + 1))


PROGRAM = """
import asyncio, sys
from tiercache import AgentCache

async def main():
    async with AgentCache.from_url(sys.argv[1], name="test") as cache:
        @cache.memoize(name="search")
        async def search(value):
            return sys.argv[2]

        values = [1, True, 1.0, "1", (1,), [1], {"a", "b", "c", 1, (1, "x")}, {"k": {"x", "y", "z"}}]
        print(*[(await search.result(value)).source for value in values])
        print(*[search.key(value) for value in values])

asyncio.run(main())
"""


async def test_arguments_have_the_same_key_in_processes_with_other_hash_seeds(url: str) -> None:
    outputs = []
    for seed in ("0", "1", "2"):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, url, seed),
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=asyncio.subprocess.PIPE,
        )
        outputs.append((await child.communicate())[0].decode().splitlines())
        assert child.returncode == 0
    assert [sources.split() for sources, _ in outputs] == [["loader"] * 8, ["l2"] * 8, ["l2"] * 8]
    (keys,) = {keys for _, keys in outputs}
    assert len(set(keys.split())) == 8


async def test_value_reaches_other_processes_and_is_read_from_valkey(make_cache: MakeCache, calls: Calls) -> None:
    results = []
    for number in range(2):
        cache = make_cache(name="test")

        async def search(text: str) -> dict[str, Any]:
            return calls(text)

        decorated = cache.memoize(ttl=60)(search)
        results.append(await decorated.result("a"))
        await cache.flush_writes()
        assert decorated.metrics().misses == 1 - number
        assert decorated.metrics().l2_hits == number
    assert [result.source for result in results] == ["loader", "l2"]
    assert results[0].value == results[1].value == {"number": 1}
    assert 0 < results[1].ttl <= 60


async def test_equal_calls_at_the_same_time_call_the_function_once(cache: AgentCache, calls: Calls) -> None:
    gate = asyncio.Event()

    @cache.memoize
    async def search(text: str) -> dict[str, Any]:
        await gate.wait()
        return calls(text)

    tasks = [asyncio.create_task(search("a")) for _ in range(10)]
    await until(lambda: cache.local_stats().tiers["memo"].loads == 1)
    gate.set()
    values = await asyncio.gather(*tasks)
    assert all(value == {"number": 1} for value in values)
    values[0]["number"] = 5
    assert await search("a") == {"number": 1}
    assert search.metrics().misses == 10
    assert search.metrics().coalesced == 9


async def test_decorated_function_keeps_its_name_and_signature(cache: AgentCache) -> None:
    async def search(text: str, limit: int = 10) -> str:
        """Search for a text."""
        return text

    decorated = cache.memoize(search)
    assert (decorated.__name__, decorated.__doc__, decorated.__wrapped__) == ("search", "Search for a text.", search)  # type: ignore[attr-defined]
    assert inspect.signature(decorated) == inspect.signature(search)
    assert "test_memoize" in repr(decorated)


async def test_decorated_methods_and_generators_keep_their_names_and_signatures(memory: AgentCache) -> None:
    async def find(self: object, text: str, limit: int = 10) -> str:
        """Find a text."""
        return text

    async def items(text: str) -> AsyncIterator[str]:
        """Yield a text."""
        yield text

    def plain_items(text: str) -> Iterator[str]:
        """Yield a plain text."""
        yield text

    def plain(text: str) -> str:
        """Return a plain text."""
        return text

    sync = memory.sync
    for decorated, function in [
        (memory.memoize(find), find),
        (memory.memoize(items), items),
        (sync.memoize(plain_items), plain_items),
        (sync.memoize(plain), plain),
    ]:
        kept: Any = decorated
        assert (kept.__name__, kept.__doc__, kept.__wrapped__) == (function.__name__, function.__doc__, function)
        assert inspect.signature(kept) == inspect.signature(function)

    class Index:
        of_instance = memory.memoize(find)
        of_class = classmethod(memory.memoize(find))
        static = staticmethod(memory.memoize(items))

    for method in (Index().of_instance, Index.of_class):
        named: Any = method
        assert (named.__name__, named.__doc__, named.__wrapped__) == ("find", "Find a text.", find)
    assert inspect.signature(Index.static) == inspect.signature(items)


async def test_signature_of_a_method_has_no_instance(memory: AgentCache) -> None:
    async def find(self: object, text: str, limit: int = 10) -> str:
        return text

    async def items(self: object, text: str, limit: int = 10) -> AsyncIterator[str]:
        yield text

    async def many(self: object, texts: list[str], limit: int = 10) -> list[str]:
        return texts

    def plain(self: object, text: str, limit: int = 10) -> str:
        return text

    def plain_items(self: object, text: str, limit: int = 10) -> Iterator[str]:
        yield text

    def plain_many(self: object, texts: list[str], limit: int = 10) -> list[str]:
        return texts

    sync, tools = memory.sync, memory.tool
    for function, decorated in (
        (find, memory.memoize(find)),
        (find, tools.cached(find)),
        (items, memory.memoize(items)),
        (many, memory.memoize_many(many)),
        (plain, sync.memoize(plain)),
        (plain_items, sync.memoize(plain_items)),
        (plain_many, sync.memoize_many(plain_many)),
    ):
        of_class = type("Index", (), {"method": decorated, "of_class": classmethod(decorated)})  # type: ignore[arg-type]
        instance: Any = of_class()
        expected = str(inspect.signature(function)).replace("self: 'object', ", "")
        for method in (instance.method, of_class.of_class):  # type: ignore[attr-defined]
            assert str(inspect.signature(method)) == expected
        assert inspect.signature(of_class.method) == inspect.signature(function)  # type: ignore[attr-defined]
    assert "function" in inspect.signature(type(memory.memoize(find))).parameters


# The key


async def test_key_has_the_function_its_version_and_the_arguments(cache: AgentCache) -> None:
    async def search(text: str) -> str:
        return text

    module = search.__module__
    qualified = search.__qualname__
    key = cache.memoize(search).key("a")
    assert key.startswith(f"test:__tc:kv:memo:{module}.{qualified}:1:")
    assert len(key.rpartition(":")[2]) == 64
    keys = {
        cache.memoize(**options)(search).key("a")
        for options in ({}, {"version": 2}, {"version": "b"}, {"name": "other"}, {"tier": "search"}, {"key": "{text}"})
    }
    assert len(keys) == 6
    assert cache.memoize(name="s", key="t:{text}")(search).key("a:b") == "test:__tc:kv:memo:s:1:t:a%3Ab"
    assert cache.memoize(name="s:t", key=str.upper)(search).key("a") == "test:__tc:kv:memo:s%3At:1:A"


async def test_long_names_and_texts_stand_in_the_key_as_hashes(cache: AgentCache) -> None:
    async def search(text: str) -> str:
        return text

    decorated = cache.memoize(name="é" * 200, key="{text}")(search)
    keys = {decorated.key(text) for text in ("a" * 1000, "a" * 1001, "a")}
    assert len(keys) == 3
    assert all(len(key.encode()) < 300 for key in keys)
    assert await decorated("a" * 1000) == "a" * 1000
    assert await decorated.is_cached("a" * 1000)


async def test_ignored_parameters_do_not_belong_to_the_key(cache: AgentCache, calls: Calls) -> None:
    @cache.memoize(ignore=["client", "named"])
    async def search(text: str, client: Any = None, **named: Any) -> dict[str, Any]:
        return calls(text)

    assert await search("a", object()) == await search("a", client=object(), trace=object()) == {"number": 1}


async def test_function_as_key_gets_the_arguments_of_each_call(cache: AgentCache, calls: Calls) -> None:
    user = "ada"

    @cache.memoize(key=lambda text, **_: f"{user}:{text}")
    async def search(text: str, client: Any = None) -> dict[str, Any]:
        return calls(text)

    assert await search("a", client=object()) == {"number": 1}
    assert await search("a") == {"number": 1}
    user = "bob"
    assert await search("a") == {"number": 2}
    wrong: Any = lambda text: None  # noqa: E731
    with pytest.raises(UsageError, match="the text that key returned"):
        await cache.memoize(key=wrong)(search.__wrapped__)("a")  # type: ignore[attr-defined]


async def test_two_functions_of_one_name_do_not_mix_their_parameters(cache: AgentCache, calls: Calls) -> None:
    @cache.memoize(name="search")
    async def by_text(text: str, user: str) -> dict[str, Any]:
        return calls(text, user)

    @cache.memoize(name="search")
    async def by_user(user: str, text: str) -> dict[str, Any]:
        return calls(text, user)

    assert await by_text("a", "b") == {"number": 1}
    assert await by_user("a", "b") == {"number": 2}
    assert by_user.key("b", "a") == by_text.key("a", "b")


# Options


async def test_when_leaves_calls_to_the_function(cache: AgentCache, calls: Calls) -> None:
    is_open = True

    @cache.memoize(when=lambda text, **_: is_open and text != "now")
    async def search(text: str, limit: int = 1) -> dict[str, Any]:
        return calls(text)

    assert [(await search("now", limit=1))["number"] for _ in range(2)] == [1, 2]
    assert not await search.is_cached("now")
    assert [(await search("a"))["number"] for _ in range(2)] == [3, 3]
    is_open = False
    assert (await search("a"))["number"] == 4
    is_open = True
    assert (search.metrics().skipped, search.metrics().misses, search.metrics().l1_hits) == (3, 1, 1)


async def test_value_that_store_when_refuses_reaches_all_waiters_and_is_not_stored(
    cache: AgentCache, calls: Calls
) -> None:
    gate = asyncio.Event()

    @cache.memoize(store_when=lambda value: value["number"] > 1)
    async def search(text: str) -> dict[str, Any]:
        await gate.wait()
        return calls(text)

    tasks = [asyncio.create_task(search("a")) for _ in range(3)]
    await until(lambda: cache.local_stats().tiers["memo"].loads == 1)
    gate.set()
    assert await asyncio.gather(*tasks) == [{"number": 1}] * 3
    assert [await search("a"), await search("a")] == [{"number": 2}] * 2


async def test_store_when_that_raises_stores_nothing_and_is_logged_once(
    cache: AgentCache, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    @cache.memoize(store_when=lambda value: value["missing"])
    async def search(text: str) -> dict[str, Any]:
        return calls(text)

    assert [(await search("a"))["number"] for _ in range(3)] == [1, 2, 3]
    assert caplog.text.count("store_when of") == 1


async def test_values_have_the_tags_of_their_calls(cache: AgentCache, calls: Calls) -> None:
    @cache.memoize(tags=["search", lambda text, user: f"user:{user}"])
    async def search(text: str, user: str) -> dict[str, Any]:
        return calls(text, user)

    await search("a", "ada"), await search("a", user="bob")
    assert await cache.invalidate_tag("user:ada") == 1
    assert not await search.is_cached("a", "ada")
    assert await search.is_cached("a", "bob")
    assert await cache.invalidate_tag("search") == 1


async def test_hit_gets_the_tags_that_its_entry_lacks(make_cache: MakeCache) -> None:
    async def search(text: str) -> str:
        return text

    first, second = (make_cache(name="test") for _ in range(2))
    assert await first.memoize(search)("a") == "a"
    await first.flush_writes()
    tagged = second.memoize(tags=["search"])(search)
    assert await tagged("a") == "a"
    assert await first.invalidate_tag("search") == 1


async def test_hit_gets_the_tags_that_an_entry_of_another_call_lacks(cache: AgentCache) -> None:
    reader = "ada"

    @cache.memoize(tags=[lambda text: f"reader:{reader}"])
    async def search(text: str) -> str:
        return text

    await search("a")
    reader = "bob"
    assert await search("a") == "a"
    assert await cache.invalidate_tag("reader:bob") == 1
    assert not await search.is_cached("a")


async def test_sources_are_asked_in_their_order_before_the_function(
    cache: AgentCache, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str) -> Any:
        raise ConnectionError("source")

    async def archive(text: str) -> Any:
        return {"archived": text} if text == "old" else MISS

    @cache.memoize(sources=[broken, archive])
    async def search(text: str) -> dict[str, Any]:
        return calls(text)

    assert await search("old") == await search("old") == {"archived": "old"}
    assert await search("a") == await search("a") == {"number": 1}
    assert caplog.text.count("a source of") == 1
    assert await search.is_cached("old")


# The methods of a decorated function


async def test_refresh_invalidate_set_and_clear(replicas: Pair, calls: Calls) -> None:
    async def load(text: str) -> dict[str, Any]:
        return calls(text)

    search, other = (cache.memoize(load) for cache in replicas)
    assert await search("a") == {"number": 1}
    await replicas[0].flush_writes()
    assert await other("a") == {"number": 1}
    assert await search.refresh("a") == {"number": 2}
    await replicas[0].flush_writes()
    await until(lambda: other_sees(other, {"number": 2}))
    await search.set({"number": 50}, "a")
    await until(lambda: other_sees(other, {"number": 50}))
    assert await search.invalidate("a")
    assert not await search.invalidate("a")
    await search("a"), await search("b")
    await replicas[0].flush_writes()
    assert await search.clear() == 2
    assert not await search.is_cached("a")
    assert not await other.is_cached("b")


async def test_refresh_of_a_call_returns_the_newer_value_while_the_older_call_still_runs(cache: AgentCache) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    started: list[str] = []

    @cache.memoize
    async def search(text: str) -> int:
        started.append(text)
        number = len(started)
        await gates[number - 1].wait()
        return number

    older = asyncio.create_task(search("a"))
    await until(lambda: len(started) == 1)
    gates[1].set()
    assert await search.refresh("a") == 2
    assert not older.done()
    gates[0].set()
    assert await older == 1
    assert await search("a") == 2
    await cache.flush_writes()
    cache.clear_l1()
    assert await search("a") == 2


async def other_sees(other: Any, value: Any) -> bool:
    return bool(await other("a") == value)


async def test_clear_leaves_other_functions(cache: AgentCache) -> None:
    async def search(text: str) -> str:
        return text

    one, other = cache.memoize(name="one")(search), cache.memoize(name="other")(search)
    newer = cache.memoize(name="one", version=2)(search)
    await one("a"), await other("a"), await newer("a")
    assert await one.clear() == 2
    assert await other.is_cached("a")
    assert not await newer.is_cached("a")


async def test_set_refuses_a_value_that_cannot_be_stored(cache: AgentCache) -> None:
    @cache.memoize
    async def search(text: str) -> Any:
        return text

    with pytest.raises(UsageError):
        await search.set(object(), "a")
    assert not await search.is_cached("a")


async def test_explain_says_where_the_value_of_a_call_is(cache: AgentCache) -> None:
    @cache.memoize
    async def search(text: str) -> str:
        return text

    assert (await search.explain("a")).source is None
    await search("a")
    await cache.flush_writes()
    explanation = await search.explain("a")
    assert (explanation.source, explanation.l2, explanation.key) == ("l1", "hit", search.key("a"))


async def test_value_that_cannot_be_stored_reaches_the_caller(cache: AgentCache) -> None:
    class Opaque:
        pass

    @cache.memoize
    async def search(text: str) -> Opaque:
        return Opaque()

    assert isinstance(await search("a"), Opaque)
    assert not await search.is_cached("a")


async def test_error_of_the_function_reaches_the_caller_and_is_counted(cache: AgentCache) -> None:
    @cache.memoize
    async def search(text: str) -> str:
        raise LookupError(text)

    for _ in range(2):
        with pytest.raises(LookupError, match="a"):
            await search("a")
    assert search.metrics().errors == 2


async def test_function_that_changes_its_arguments_stores_nothing(
    cache: AgentCache, caplog: pytest.LogCaptureFixture
) -> None:
    @cache.memoize
    async def total(items: list[int]) -> int:
        items.append(1)
        return sum(items)

    assert [await total([5]), await total([5])] == [6, 6]
    assert not await total.is_cached([5])
    assert not await total.is_cached([5, 1])
    assert caplog.text.count("were changed during the call") == 1


async def test_function_is_called_without_valkey(calls: Calls) -> None:
    async with AgentCache.from_url("valkey://127.0.0.1:1", resilience=ResilienceOptions(drain_timeout=0.5)) as cache:

        @cache.memoize(tags=["search"])
        async def search(text: str) -> dict[str, Any]:
            return calls(text)

        assert [await search("a"), await search("b")] == [{"number": 1}, {"number": 2}]
        assert await search.refresh("a") == {"number": 3}


# Methods


def searcher_of(cache: AgentCache, calls: Calls) -> Any:
    class Searcher:
        def __init__(self, user: str) -> None:
            self.user = user

        @cache.memoize
        async def shared(self, text: str) -> dict[str, Any]:
            return calls(self.user, text)

        @cache.memoize(instance_key=lambda self: self.user)
        async def own(self, text: str) -> dict[str, Any]:
            return calls(self.user, text)

        @cache.memoize(instance_key=lambda self: self.user, key="text:{text}")
        async def templated(self, text: str) -> dict[str, Any]:
            return calls(self.user, text)

        @classmethod
        @cache.memoize
        async def of_class(cls, text: str) -> dict[str, Any]:
            return calls(cls.__name__, text)

        @staticmethod
        @cache.memoize
        async def static(text: str) -> dict[str, Any]:
            return calls(text)

    return Searcher


async def test_instances_share_the_values_of_a_method(cache: AgentCache, calls: Calls) -> None:
    searcher = searcher_of(cache, calls)
    ada, bob = searcher("ada"), searcher("bob")
    assert await ada.shared("a") == await bob.shared("a") == await searcher.shared(bob, "a") == {"number": 1}
    assert ada.shared.key("a") == searcher.shared.key(bob, text="a")
    assert await ada.shared.invalidate("a")
    assert await bob.shared("a") == {"number": 2}


@pytest.mark.parametrize("method", ["own", "templated"])
async def test_instances_with_an_instance_key_have_values_of_their_own(
    cache: AgentCache, calls: Calls, method: str
) -> None:
    searcher = searcher_of(cache, calls)
    ada, bob = searcher("ada"), searcher("bob")
    for _ in range(2):
        assert [await getattr(each, method)("a") for each in (ada, bob)] == [{"number": 1}, {"number": 2}]
        assert await getattr(searcher, method)(bob, "a") == {"number": 2}
    assert await getattr(searcher("ada"), method)("a") == {"number": 1}
    assert await getattr(ada, method).is_cached("a")
    assert not await getattr(searcher("eve"), method).is_cached("a")
    bad = searcher("")
    with pytest.raises(UsageError, match="the text that instance_key returned"):
        await getattr(bad, method)("a")


async def test_method_may_name_its_instance_in_another_way(cache: AgentCache, calls: Calls) -> None:
    class Searcher:
        @cache.memoize
        async def search(this, text: str) -> dict[str, Any]:  # noqa: N805
            return calls(this, text)

    one = Searcher()
    assert await one.search("a") == await Searcher().search(text="a") == {"number": 1}
    assert calls.seen == [(one, "a")]


async def test_classmethods_and_staticmethods(cache: AgentCache, calls: Calls) -> None:
    searcher = searcher_of(cache, calls)
    assert await searcher.of_class("a") == await searcher("ada").of_class(text="a") == {"number": 1}
    assert await searcher.static("a") == await searcher("ada").static("a") == {"number": 2}
    assert calls.seen == [("Searcher", "a"), ("a",)]


# Wrong use


def plain_function(text: str) -> str:
    return text


async def async_function(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (plain_function, {}, r"is not async: cache\.sync\.memoize decorates plain functions"),
        (classmethod(async_function), {}, "@classmethod must stand above this decorator"),
        (5, {}, "only a function can be decorated, not 5"),
        (async_function, {"ttl": -1}, "ttl"),
        (async_function, {"tags": "a"}, "tags must be a sequence"),
        (async_function, {"tags": [""]}, "a tag must not be empty"),
        (async_function, {"ignore": "text"}, "ignore must be names"),
        (async_function, {"ignore": ["texts"]}, "ignore has 'texts', and the parameters are: text"),
        (async_function, {"key": "{texts}"}, "has 'texts'"),
        (async_function, {"key": "{text}", "ignore": ["text"]}, "the parameters of the key are: none"),
        (async_function, {"key": 5}, "key must be a template or a function"),
        (async_function, {"when": True}, "when must be a function"),
        (async_function, {"store_when": 5}, "store_when must be a function"),
        (async_function, {"sources": [5]}, "sources must be functions"),
        (async_function, {"instance_key": str}, "instance_key is for methods"),
        (async_function, {"version": ""}, "version must be"),
        (async_function, {"version": True}, "version must be"),
        (async_function, {"name": ""}, "name must not be empty"),
        (async_function, {"tier": "llm"}, "name must be 1 to 128"),
        (
            async_function,
            {"ttll": 5},
            "has no option 'ttll'; it has: cache_errors, early_refresh, ignore, instance_key, key",
        ),
    ],
)
async def test_wrong_decoration_is_refused(
    memory: AgentCache, function: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        memory.memoize(**options)(function)


async def test_function_without_a_name_of_its_own_needs_one(memory: AgentCache) -> None:
    searches = functools.partial(async_function), type("Search", (), {"__call__": async_function})()
    for function in searches:
        with pytest.raises(UsageError):
            memory.memoize(function)
    assert await memory.memoize(name="search")(functools.partial(async_function))("a") == "a"


async def test_wrong_call_is_the_error_of_the_function(memory: AgentCache) -> None:
    search = memory.memoize(async_function)
    with pytest.raises(TypeError, match="missing a required argument: 'text'"):
        await search()  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"the argument 'text' has a value of type builtins\.object"):
        await search(object())  # type: ignore[arg-type]
