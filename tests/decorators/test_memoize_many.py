"""``cache.memoize_many``: each value under its item, one call for the missing items, lists and dicts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import MakeCache, until
from tiercache import AgentCache, UsageError


@pytest.fixture
def asked() -> list[list[Any]]:
    """Return a list of the items of each call of a function."""
    return []


@pytest.fixture
def plain_cache(url: str) -> Iterator[AgentCache]:
    """Return a cache on the server whose async face is never used."""
    cache = AgentCache.from_url(url, name="test")
    yield cache
    cache.sync.close()


async def test_function_gets_each_missing_item_once_and_the_order_is_kept(
    cache: AgentCache, asked: list[list[Any]]
) -> None:
    @cache.memoize_many(ttl=60)
    async def embed(texts: list[str], model: str = "small") -> list[str]:
        asked.append(texts.copy())
        texts.clear()
        return [f"{text} {model}" for text in asked[-1]]

    assert await embed(["a", "a", "b"]) == ["a small", "a small", "b small"]
    assert await embed(("b", "c", "a")) == ["b small", "c small", "a small"]
    assert await embed(iter(["a"]), model="large") == ["a large"]
    assert await embed([]) == []
    assert asked == [["a", "b"], ["c"], ["a"]]
    assert embed.key("a") == embed.key("a", model="small") != embed.key("a", "large")


async def test_items_of_other_types_never_share_a_value(cache: AgentCache, asked: list[list[Any]]) -> None:
    @cache.memoize_many
    async def double(items: list[Any]) -> list[str]:
        asked.append(items)
        return [repr(item) for item in items]

    items = [1, True, 1.0, "1", (1,), [1]]
    for _ in range(2):
        assert await double(items) == [repr(item) for item in items]
    assert asked == [items]


async def test_function_that_returns_a_dict_gives_a_dict(cache: AgentCache, asked: list[list[Any]]) -> None:
    @cache.memoize_many
    async def users(ids: list[int]) -> dict[int, str]:
        asked.append(ids)
        return {number: f"user {number}" for number in reversed(ids)}

    assert await users([2, 1, 2]) == {2: "user 2", 1: "user 1"}
    assert list(await users([1, 3])) == [1, 3]
    assert asked == [[2, 1], [3]]


async def test_callers_at_the_same_time_share_the_load_of_an_item(cache: AgentCache, asked: list[list[Any]]) -> None:
    gate = asyncio.Event()

    @cache.memoize_many
    async def embed(texts: list[str]) -> list[str]:
        asked.append(texts)
        await gate.wait()
        return texts

    tasks = [asyncio.create_task(embed(texts)) for texts in (["a", "b"], ["b", "c"])]
    await until(lambda: len(asked) == 2)
    gate.set()
    assert await asyncio.gather(*tasks) == [["a", "b"], ["b", "c"]]
    assert asked == [["a", "b"], ["c"]]


async def test_values_are_read_from_valkey_and_shared_with_memoize(
    make_cache: MakeCache, asked: list[list[Any]]
) -> None:
    one, other = make_cache(name="test"), make_cache(name="test")

    async def lengths(texts: list[str]) -> list[int]:
        asked.append(texts)
        return [len(text) for text in texts]

    assert await one.memoize_many(name="length")(lengths)(["a", "bb"]) == [1, 2]
    await one.flush_writes()
    assert await other.memoize_many(name="length")(lengths)(["bb", "a"]) == [2, 1]

    @other.memoize(name="length")
    async def length(texts: str) -> int:
        return 50

    assert await length("a") == 1
    assert len(asked) == 1


async def test_invalidate_clear_and_tags(cache: AgentCache, asked: list[list[Any]]) -> None:
    @cache.memoize_many(tags=["vectors"], key="text:{texts}")
    async def embed(texts: list[str]) -> list[str]:
        asked.append(texts)
        return texts

    await embed(["a", "b", "c"])
    assert await embed.invalidate(["a", "d"]) == 1
    await embed(["a", "b"])
    assert asked[1:] == [["a"]]
    assert await cache.invalidate_tag("vectors") == 3
    await embed(["a"])
    assert await embed.clear() == 1
    assert embed.key("a").endswith(":1:text:a")


async def test_methods_of_instances(cache: AgentCache, asked: list[list[Any]]) -> None:
    class Embedder:
        def __init__(self, model: str) -> None:
            self.model = model

        @cache.memoize_many(instance_key=lambda self: self.model)
        async def embed(self, texts: list[str]) -> list[str]:
            asked.append([self.model, *texts])
            return [f"{text} {self.model}" for text in texts]

    small, large = Embedder("small"), Embedder("large")
    for _ in range(2):
        assert await small.embed(["a"]) == ["a small"]
        assert await large.embed(["a"]) == ["a large"]
    assert asked == [["small", "a"], ["large", "a"]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (["a"], "embed returned 1 values for 2 items"),
        ({"a": 1}, "embed returned no value for 'b'"),
        ("ab", "embed must return a list or a dict, not str"),
    ],
)
async def test_wrong_number_of_values_is_an_error_and_stores_nothing(
    cache: AgentCache, returned: Any, message: str
) -> None:
    @cache.memoize_many
    async def embed(texts: list[str]) -> list[Any]:
        return returned  # type: ignore[no-any-return]

    with pytest.raises(UsageError, match=message):
        await embed(["a", "b"])
    assert await cache.tier("memo").get_many([embed.key("a").removeprefix("test:__tc:kv:memo:")]) == {
        embed.key("a").removeprefix("test:__tc:kv:memo:"): None
    }


async def test_wrong_decoration_is_refused(memory: AgentCache) -> None:
    async def untyped(texts: list[str]):  # type: ignore[no-untyped-def]
        return texts

    async def text(texts: list[str]) -> str:
        return ""

    async def fine(texts: list[str]) -> list[str]:
        return texts

    for function in (untyped, text):
        with pytest.raises(UsageError, match="must be annotated with what it returns: a list, or a dict"):
            memory.memoize_many(function)  # type: ignore[type-var]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"when": bool}, "memoize_many has no option 'when'"),
        ({"tags": [len]}, "a tag must be a str"),
        ({"key": "{text}"}, "has 'text', and the parameters of the key are: texts"),
    ]
    for options, message in wrong:
        with pytest.raises(UsageError, match=message):
            memory.memoize_many(**options)(fine)
    with pytest.raises(UsageError, match=r"cache\.sync\.memoize_many decorates plain functions"):
        memory.memoize_many(lambda texts: texts)  # type: ignore[arg-type]


def test_plain_function_of_many_items(plain_cache: AgentCache, asked: list[list[Any]]) -> None:
    @plain_cache.sync.memoize_many(ttl=60)
    def embed(texts: list[str]) -> list[int]:
        asked.append(texts)
        return [len(text) for text in texts]

    assert embed(["a", "bb", "a"]) == [1, 2, 1]
    assert embed(["bb"]) == [2]
    assert asked == [["a", "bb"]]
    assert embed.invalidate(["a"]) == 1
    assert embed.clear() == 1
    assert embed.key("a").startswith("test:__tc:kv:memo:")

    async def wrong(texts: list[str]) -> list[int]:
        return []

    with pytest.raises(UsageError, match="is async"):
        plain_cache.sync.memoize_many(wrong)  # type: ignore[type-var]
