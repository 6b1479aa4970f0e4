"""The items of stores, in Valkey and in memory: reads, order, lifetimes, names, two faces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import valkey

from tests.seams import items_of
from tests.support import MakeCache, until
from tiercache import AgentCache, L2UnavailableError, UsageError
from tiercache.testing import ChaosProxy
from tiercache.tiers.items.key import StoreKeys
from tiercache.tiers.items.store import Append, Find, Get, ItemStore, Namespaces, Put

A, B, BELOW_A = ("a",), ("b",), ("a", "b")


@pytest.fixture(params=["valkey", "memory"])
async def items(request: pytest.FixtureRequest, url: str) -> AsyncIterator[ItemStore]:
    cache = AgentCache.from_url(url, name="test") if request.param == "valkey" else AgentCache.in_memory()
    async with cache:
        yield items_of(cache)


def names(found: Any) -> list[tuple[Any, str]]:
    return [(item.namespace, item.key) for item in found]


async def test_items_are_read_as_they_were_put(items: ItemStore) -> None:
    await items.run([Put(A, "k", b"one"), Put(A, "", b"two", 60), Put((), "k\x00", b" three \n\x00")])
    found: list[Any] = await items.run([Get(A, "k"), Get(A, ""), Get((), "k\x00"), Get(A, "absent"), Get(B, "k")])
    assert [item and item.data for item in found] == [b"one", b"two", b" three \n\x00", None, None]
    assert [item.window for item in found[:3]] == [None, 60, None]


async def test_items_are_found_in_the_order_of_their_first_put(items: ItemStore) -> None:
    places = [(B, "z"), (B, "a"), (A, "k"), (BELOW_A, "k"), (("ab",), "k")]
    await items.run([Put(namespace, key, b"") for namespace, key in places])
    await items.run([Put(B, "z", b"again"), Put(B, "first", None)])
    (everything,) = await items.run([Find(())])
    assert names(everything) == places
    page, below, end, none = await items.run([Find((), 1, 2), Find(A), Find((), 4, 9), Find(("c",))])
    assert names(page) == [(B, "a"), (A, "k")]
    assert names(below) == [(A, "k"), (BELOW_A, "k")]
    assert (names(end), none) == ([(("ab",), "k")], [])
    all_namespaces, of_a = await items.run([Namespaces(), Namespaces(A)])
    assert sorted(all_namespaces) == [A, BELOW_A, ("ab",), B]  # type: ignore[call-overload]
    assert sorted(of_a) == [A, BELOW_A]  # type: ignore[call-overload]


async def test_items_do_the_operations_of_a_call_in_order(items: ItemStore) -> None:
    before, _, after, _, gone = await items.run(
        [Get(A, "k"), Put(A, "k", b"x"), Get(A, "k"), Put(A, "k", None), Get(A, "k")]
    )
    assert (before, after.data, gone) == (None, b"x", None)  # type: ignore[attr-defined]


async def test_item_is_changed_only_if_it_is_as_expected(items: ItemStore) -> None:
    results = await items.run(
        [
            Put(A, "k", b"one", expected=b""),
            Put(A, "k", b"one", expected=None),
            Put(A, "k", b"two", expected=None),
            Put(A, "k", None, expected=b"two"),
            Put(A, "k", b" t\x00\nwo", expected=b"one"),
            Get(A, "k"),
            Put(A, "k", None, expected=b" t\x00\nwo"),
            Put(A, "k", None),
            Put(A, "k", None, expected=None),
            Get(A, "k"),
        ]
    )
    assert results[:5] == [False, True, False, False, True]
    assert results[5].data == b" t\x00\nwo"  # type: ignore[attr-defined]
    assert results[6:] == [True, False, False, None]
    assert await items.run([Namespaces()]) == [[]]


async def test_item_that_has_ended_is_absent_for_a_change(items: ItemStore) -> None:
    await items.run([Put(A, "k", b"[1]", 0.01), Put(A, "list", b"[1]", 0.01), Put(A, "gone", b"", 0.01)])
    await items.run([Put(A, "endless", b"")])

    async def has_ended() -> bool:
        return await items.run([Get(A, "k"), Get(A, "list"), Get(A, "gone")]) == [None] * 3

    await until(has_ended)
    assert await items.run([Put(A, "k", b"x", expected=b"[1]"), Put(A, "gone", None)]) == [False, False]
    assert await items.run([Put(A, "k", b"x", expected=None), Append(A, "list", b"[2]", 60)]) == [True, True]
    (found,) = await items.run([Find(A)])
    assert [(item.key, item.data) for item in found] == [("endless", b""), ("k", b"x"), ("list", b"[2]")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("before", [None, b"[]", b"[1]", b'["]",\n{}]'])
@pytest.mark.parametrize("added", [b"[]", b"[2]", b'["[",[3]]'])
async def test_elements_are_appended_to_the_list_of_an_item(
    items: ItemStore, before: bytes | None, added: bytes
) -> None:
    await items.run([Put(A, "k", before)])
    done, item = await items.run([Append(A, "k", added, 60), Get(A, "k")])
    assert done is True
    assert json.loads(item.data) == [*json.loads(before or b"[]"), *json.loads(added)]  # type: ignore[attr-defined]
    assert item.window == 60  # type: ignore[attr-defined]


@pytest.mark.parametrize("before", [b"", b"{}", b"[", b"x]"])
async def test_elements_are_not_appended_to_an_item_without_a_list(items: ItemStore, before: bytes) -> None:
    await items.run([Put(A, "k", before)])
    done, item = await items.run([Append(A, "k", b"[1]"), Get(A, "k")])
    assert (done, item.data) == (False, before)  # type: ignore[attr-defined]


async def test_elements_of_many_writers_are_all_appended(make_cache: MakeCache) -> None:
    stores = [items_of(make_cache(name="test")) for _ in range(3)]
    await asyncio.gather(*(stores[i % 3].run([Append(A, "k", b"[%d]" % i)]) for i in range(60)))
    (item,) = await stores[0].run([Get(A, "k")])
    assert sorted(json.loads(item.data)) == list(range(60))  # type: ignore[attr-defined]


async def test_items_end_after_their_window(items: ItemStore) -> None:
    # Beside an endless item, and alone in a namespace.
    await items.run([Put(A, "short", b"", 0.05), Put(A, "endless", b""), Put(B, "short", b"", 0.05)])
    await items.run([Put(BELOW_A, "long", b"", 3600)])

    async def have_ended() -> bool:
        return await items.run([Get(A, "short"), Get(B, "short")]) == [None, None]

    await until(have_ended)
    found, all_namespaces = await items.run([Find(()), Namespaces()])
    assert names(found) == [(A, "endless"), (BELOW_A, "long")]
    assert sorted(all_namespaces) == [A, BELOW_A]  # type: ignore[call-overload]


async def test_items_that_are_put_after_their_end_come_last(items: ItemStore) -> None:
    await items.run([Put(A, "short", b"", 0.01), Put(A, "endless", b"")])

    async def has_ended() -> bool:
        return await items.run([Get(A, "short")]) == [None]

    await until(has_ended)
    await items.run([Put(A, "short", b"again")])
    (found,) = await items.run([Find(())])
    assert names(found) == [(A, "endless"), (A, "short")]


async def test_items_in_valkey_end_with_the_last_one_that_is_left(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    items = items_of(make_cache(name="test"))
    for change in (Put(A, "long", None), Put(A, "long", b"", 600)):
        await items.run([Put(A, "long", b"", 3600), Put(A, "short", b"", 600)])
        assert plain.pttl("test:__tc:items:{test}:n:a\0") > 600_000
        await items.run([change])
        assert 0 < plain.pttl("test:__tc:items:{test}:n:a\0") <= 600_000


async def test_items_raise_while_valkey_does_not_answer(proxy: ChaosProxy) -> None:
    async with AgentCache.from_url(proxy.url, name="test") as cache:
        await items_of(cache).run([Put(A, "k", b"x", 60)])
        proxy.refuse()
        proxy.kill()
        for operation in (Get(A, "k", renew=True), Find(()), Namespaces(), Put(A, "k", b"y"), Put(A, "k", None)):
            with pytest.raises(L2UnavailableError):
                await items_of(cache).run([operation])
        proxy.heal()
        proxy.refuse(False)


async def test_items_of_many_writers_are_all_kept(make_cache: MakeCache, plain: valkey.Valkey) -> None:
    stores = [items_of(make_cache(name="test")) for _ in range(3)]
    writes = [[Put((f"n{i % 5}",), f"k{i}", b"", 60 if i % 2 else None)] for i in range(60)]
    await asyncio.gather(*(store.run(write) for i, write in enumerate(writes) for store in (stores[i % 3],)))
    (found,) = await stores[0].run([Find(())])
    assert len(found) == 60  # type: ignore[arg-type]
    deletes = [[Put(write[0].namespace, write[0].key, None)] for write in writes]
    await asyncio.gather(*(stores[i % 3].run(delete) for i, delete in enumerate(deletes)))
    assert plain.keys("*:items:*") == []


@pytest.mark.parametrize(
    "namespace", [("a\x00", "b"), ("\x01\x02",), ("\x01", "\x02"), ("\x00",), ("", "x"), ("é",), ()]
)
def test_namespace_is_read_from_its_text(namespace: tuple[str, ...]) -> None:
    assert StoreKeys.namespace(StoreKeys.text(namespace).encode()) == namespace


@pytest.mark.parametrize("store", ["", "a:b", "a{", "x" * 129, 1, None])
def test_store_has_a_plain_name(store: Any) -> None:
    with pytest.raises(UsageError, match="the name of a store"):
        StoreKeys("test", store)
