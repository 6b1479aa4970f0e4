"""ListField and SyncListField: the items in their order, several writers, the window, wrong fields and items."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.adapters.mortal_server import MortalServer
from tests.support import MakeCache
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.adapters.list_field import ListField, SyncListField

ITEMS: list[Any] = [{"b": 1, "a": ["é", 1.5, None]}, "text", 5]


async def test_list_has_the_items_in_their_order(cache: AgentCache) -> None:
    field = ListField(cache, "thread-1", "messages")
    assert await field.read() == []
    assert [await field.append(item) for item in ITEMS] == [1, 2, 3]
    found = await ListField(cache, "thread-1", "messages").read()
    assert found == ITEMS
    assert list(found[0]) == ["b", "a"]
    assert await ListField(cache, "thread-1", "other").read() == []
    assert await field.delete()
    assert not await field.delete()
    assert await field.read() == []


@pytest.mark.parametrize("place", ["plain_cache", "plain_memory"])
def test_list_of_plain_code_has_the_items_in_their_order(place: str, request: pytest.FixtureRequest) -> None:
    field = SyncListField(request.getfixturevalue(place), "thread-1", "messages")
    assert [field.append(item) for item in ITEMS] == [1, 2, 3]
    assert field.change(list.pop) == 5
    assert field.read() == ITEMS[:2]
    assert field.delete()
    assert field.read() == []


async def test_change_keeps_the_order_of_keys_and_returns_the_result(cache: AgentCache) -> None:
    field = ListField(cache, "thread-1", "messages")
    await field.change(lambda items: items.extend(ITEMS))
    assert await field.change(lambda items: items.pop(1)) == "text"
    assert list((await field.read())[0]) == ["b", "a"]


async def test_change_that_leaves_the_list_as_it_is_writes_nothing(cache: AgentCache) -> None:
    field = ListField(cache, "thread-1", "messages")
    assert await field.change(len) == 0
    assert await cache.session.get("thread-1", "messages", fresh=True) is None
    await cache.session.set("thread-1", "messages", "[1, 2]")
    assert await field.change(len) == 2
    assert await cache.session.get("thread-1", "messages", fresh=True) == "[1, 2]"


async def test_writers_of_two_processes_lose_no_item_and_take_none_twice(make_cache: MakeCache) -> None:
    fields = [ListField(make_cache(name="test"), "thread-1", "messages") for _ in range(2)]
    taken: list[int] = []

    async def work(worker: int) -> None:
        for number in range(20):
            await fields[worker].append(worker * 100 + number)
            taken.append(await fields[worker].change(list.pop))
            await fields[worker].change(lambda items, item=worker * 1000 + number: items.insert(0, item))

    await asyncio.gather(work(0), work(1))
    left = await fields[0].read()
    expected = [worker * scale + number for worker in range(2) for scale in (100, 1000) for number in range(20)]
    assert sorted(taken + left) == sorted(expected)


def test_threads_of_plain_code_take_no_item_twice(plain_cache: AgentCache) -> None:
    field = SyncListField(plain_cache, "thread-1", "messages")
    field.change(lambda items: items.extend(range(40)))
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(field.change(list.pop) for _ in range(20))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))


async def test_change_and_append_give_the_window(cache: AgentCache, plain: Any) -> None:
    field = ListField(cache, "thread-1", "messages", ttl=60)
    for write in (lambda: field.append(1), lambda: field.change(lambda items: items.append(1))):
        await write()
        (key,) = plain.keys("test:session:*")
        assert 0 < plain.pttl(key) <= 60_000
        await field.delete()


@pytest.mark.parametrize("stored", ["text", "{}", "5", "[" * 100_000])
async def test_field_without_a_list_is_an_error_and_stays(cache: AgentCache, stored: str) -> None:
    field = ListField(cache, "thread-1", "messages")
    await cache.session.set("thread-1", "messages", stored)
    with pytest.raises(UsageError, match="field 'messages' of thread 'thread-1' holds no JSON list"):
        await field.read()
    with pytest.raises(UsageError, match="holds no JSON list"):
        await field.change(list.clear)
    assert await cache.session.get("thread-1", "messages", fresh=True) == stored


async def test_item_that_json_cannot_hold_changes_nothing(cache: AgentCache) -> None:
    field = ListField(cache, "thread-1", "messages")
    await field.append(1)
    for item in (object(), {1, 2}, {(1, 2): 3}):
        with pytest.raises(UsageError):
            await field.change(lambda items, item=item: items.append(item))
        with pytest.raises(UsageError):
            await field.append(item)  # type: ignore[arg-type]
    assert await field.read() == [1]


async def test_list_is_unavailable_without_valkey(mortal_server: MortalServer) -> None:
    resilience = ResilienceOptions(drain_timeout=0.5)
    async with AgentCache.from_url(mortal_server.url, resilience=resilience) as cache:
        field = ListField(cache, "thread-1", "messages")
        await field.append(1)
        mortal_server.kill()
        for call in (field.read, lambda: field.append(2), lambda: field.change(list.pop), field.delete):
            with pytest.raises(L2UnavailableError):
                await call()


def test_wrong_arguments_are_refused(plain_cache: AgentCache) -> None:
    for kind in (ListField, SyncListField):
        for thread_id, field, options in (("", "a", {}), (5, "a", {}), ("a", "", {}), ("a", "a", {"ttl": -1})):
            with pytest.raises(UsageError):
                kind(plain_cache, thread_id, field, **options)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="cache must be an AgentCache"):
            kind(None, "a", "a")  # type: ignore[arg-type]
