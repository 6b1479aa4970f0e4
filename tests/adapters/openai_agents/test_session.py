"""TierCacheSession beside SQLiteSession, in runs of agents, with several writers, and without Valkey."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.installed import needs

needs("agents")

from agents import Runner, SessionSettings, SQLiteSession, function_tool
from agents.memory import OpenAIResponsesCompactionSession, Session

from tests.adapters.mortal_server import MortalServer
from tests.adapters.openai_agents.models import QUIET, CallingModel, agent_of
from tests.support import MakeCache
from tiercache import NO_EXPIRY, AgentCache, L2UnavailableError, ResilienceOptions, SessionOptions, UsageError
from tiercache.adapters.openai_agents import TierCacheSession


def item(text: str) -> Any:
    return {"role": "user", "content": text}


ITEMS = st.dictionaries(
    st.text(max_size=5), st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists)
)
LIMITS = st.none() | st.integers(-2, 6)
OPERATIONS = st.one_of(
    st.tuples(st.just("get_items"), LIMITS),
    st.tuples(st.just("add_items"), st.lists(ITEMS, max_size=4)),
    st.tuples(st.just("pop_item")),
    st.tuples(st.just("clear_session")),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(operations=st.lists(OPERATIONS, max_size=12), limit=LIMITS, is_in_memory=st.booleans())
def test_session_gives_the_results_of_the_session_in_sqlite(
    url: str, operations: list[tuple[Any, ...]], limit: int | None, is_in_memory: bool
) -> None:
    async def run() -> None:
        cache = AgentCache.in_memory() if is_in_memory else AgentCache.from_url(url, name="test")
        options = SessionSettings(limit=limit)
        expected = SQLiteSession("s", session_settings=options)
        async with cache:
            session = TierCacheSession("s", cache, session_settings=options)
            await session.clear_session()
            for name, *arguments in [*operations, ("get_items", None)]:
                assert await getattr(session, name)(*arguments) == await getattr(expected, name)(*arguments)
        expected.close()

    asyncio.run(run())


def test_session_is_a_session_of_the_framework(memory: AgentCache) -> None:
    session = TierCacheSession("s", memory)
    assert isinstance(session, Session)
    assert (session.session_id, session.session_settings) == ("s", SessionSettings())


@pytest.mark.parametrize("streamed", [False, True])
async def test_agent_goes_on_where_the_run_before_ended(make_cache: MakeCache, streamed: bool) -> None:
    @function_tool
    def search(query: str) -> str:
        """Search for a text."""
        return "found"

    for number in (0, 5, 7):
        # Each run is one of another process, as far as the cache can tell.
        async with make_cache(name="agents") as cache:
            model = CallingModel(("search", {"query": "a"}))
            agent = agent_of(model, search)
            session = TierCacheSession("chat", cache)
            if streamed:
                result = Runner.run_streamed(agent, "Hi", session=session, run_config=QUIET)
                async for _ in result.stream_events():
                    pass
            else:
                await Runner.run(agent, "Hi", session=session, run_config=QUIET)
            assert len(model.inputs[0]) == max(1, number)
            assert len(await session.get_items()) == (4 if number == 0 else number + 1)


async def test_sessions_of_different_ids_share_nothing(cache: AgentCache) -> None:
    first, second = TierCacheSession("a", cache), TierCacheSession("b", cache)
    await first.add_items([item("1")])
    assert await second.get_items() == []
    await second.clear_session()
    assert await first.get_items() == [item("1")]


async def test_items_come_back_as_they_were(cache: AgentCache) -> None:
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]},
        {"type": "function_call", "name": "f", "arguments": '{"a": 1.0}', "call_id": "1", "id": None},
        {"type": "reasoning", "summary": [], "encrypted_content": "\u2028\ud7ff \U0001f600"},
        {"type": "x", "number": 12345678901234567890, "float": 1e-7, "empty": {}, "list": []},
    ]
    session = TierCacheSession("s", cache)
    await session.add_items(items)
    (read,) = [await TierCacheSession("s", cache).get_items()]
    assert repr(read) == repr(items)


async def test_additions_of_many_workers_lose_no_item(make_cache: MakeCache) -> None:
    workers = [TierCacheSession("s", make_cache(name="agents")) for _ in range(4)]
    added = [item(f"{worker}:{number}") for worker in range(4) for number in range(20)]

    async def add(worker: int) -> None:
        for number in range(0, 20, 2):
            await workers[worker].add_items(added[worker * 20 + number : worker * 20 + number + 2])

    await asyncio.gather(*map(add, range(4)))
    found = await workers[0].get_items()
    assert sorted(map(str, found)) == sorted(map(str, added))
    # The items of one call stay together.
    for i in range(0, 80, 2):
        place = found.index(added[i])
        assert found[place + 1] == added[i + 1]


async def test_item_is_popped_by_one_worker_alone(make_cache: MakeCache) -> None:
    workers = [TierCacheSession("s", make_cache(name="agents")) for _ in range(4)]
    await workers[0].add_items([item(str(number)) for number in range(30)])

    async def pop(worker: TierCacheSession) -> list[Any]:
        popped = []
        while (found := await worker.pop_item()) is not None:
            popped.append(found)
        return popped

    popped = await asyncio.gather(*map(pop, workers))
    assert sorted(str(found) for own in popped for found in own) == sorted(str(item(str(i))) for i in range(30))


async def test_pop_takes_no_item_that_is_added_meanwhile(make_cache: MakeCache) -> None:
    adding, popping = (TierCacheSession("s", make_cache(name="agents")) for _ in range(2))
    added = [item(str(number)) for number in range(40)]
    popped: list[Any] = []

    async def add() -> None:
        for each in added:
            await adding.add_items([each])

    async def pop() -> None:
        while len(popped) < 20:
            found = await popping.pop_item()
            popped.extend([] if found is None else [found])

    await asyncio.gather(add(), pop())
    assert sorted(map(str, [*popped, *await adding.get_items()])) == sorted(map(str, added))


async def test_window_is_that_of_the_session_or_of_the_tier(url: str, plain: valkey.Valkey) -> None:
    async with AgentCache.from_url(url, name="test", session=SessionOptions(ttl=60)) as cache:
        for number, ttl, least, most in ((0, None, 1, 60_000), (1, 500, 60_001, 500_000), (2, NO_EXPIRY, -1, -1)):
            await TierCacheSession(f"s{number}", cache, ttl=ttl).add_items([item("a")])
            assert least <= plain.pttl(f"test:session:s{number}:openai_agents.items") <= most


async def test_thread_that_is_destroyed_has_no_items(cache: AgentCache) -> None:
    session = TierCacheSession("s", cache)
    await session.add_items([item("a")])
    assert await cache.session.destroy_thread("s") == 1
    assert await session.get_items() == []


async def test_compaction_of_the_framework_works_on_the_session(cache: AgentCache) -> None:
    underlying = TierCacheSession("s", cache)
    session = OpenAIResponsesCompactionSession("s", underlying, client=object())  # type: ignore[arg-type]
    await session.add_items([item("a"), item("b")])
    assert await session.pop_item() == item("b")
    assert await underlying.get_items() == [item("a")]
    await session.clear_session()
    assert await underlying.get_items() == []


@pytest.mark.parametrize("bad", [["text"], [{"a": object()}], [{"a": "\ud800"}]], ids=["text", "object", "surrogate"])
async def test_item_that_is_no_json_object_is_refused_and_nothing_is_added(cache: AgentCache, bad: list[Any]) -> None:
    session = TierCacheSession("s", cache)
    await session.add_items([item("a")])
    with pytest.raises(UsageError):
        await session.add_items([item("b"), *bad])
    assert await session.get_items() == [item("a")]


@pytest.mark.parametrize(
    ("arguments", "options", "reason"),
    [
        (("", None), {}, "thread_id must not be empty"),
        ((7, None), {}, "thread_id"),
        (("s", object()), {}, "cache must be an AgentCache"),
        (("s", None), {"ttl": -1}, "ttl"),
        (("s", None), {"session_settings": {"limit": 3}}, "session_settings"),
    ],
)
def test_wrong_argument_is_refused(memory: AgentCache, arguments: Any, options: Any, reason: str) -> None:
    session_id, cache = arguments
    with pytest.raises(UsageError, match=reason):
        TierCacheSession(session_id, cache or memory, **options)


async def test_field_of_other_software_is_an_error_and_stays(cache: AgentCache) -> None:
    session = TierCacheSession("s", cache)
    for text in ("text", '{"a":1}', '["a"]', "[[]]", '[["a"]]'):
        await cache.session.set("s", "openai_agents.items", text)
        for call in (session.get_items, session.pop_item):
            with pytest.raises(UsageError, match="thread 's'"):
                await call()
        assert await cache.session.get("s", "openai_agents.items") == text


async def test_session_is_an_error_without_valkey_and_keeps_its_items(mortal_server: MortalServer) -> None:
    async with AgentCache.from_url(mortal_server.url, resilience=ResilienceOptions(drain_timeout=0.5)) as cache:
        session = TierCacheSession("s", cache)

        @function_tool
        def search(query: str) -> str:
            """Search for a text."""
            mortal_server.kill()
            return "found"

        agent = agent_of(CallingModel(("search", {"query": "a"})), search)
        with pytest.raises(L2UnavailableError):
            await Runner.run(agent, "Hi", session=session, run_config=QUIET)
        for call in (
            session.get_items,
            session.pop_item,
            session.clear_session,
            lambda: session.add_items([item("a")]),
        ):
            with pytest.raises(L2UnavailableError):
                await call()
