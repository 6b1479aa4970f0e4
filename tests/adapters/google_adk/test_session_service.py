"""TierCacheSessionService beside ADK's own services: the same results, whole events, several writers, Valkey lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import valkey

from tests.adapters.installed import needs

needs("google.adk", tox_env="frameworks-adk")

from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event
from google.adk.sessions import BaseSessionService, InMemorySessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.sqlite_session_service import SqliteSessionService

from tests import seams
from tests.adapters.google_adk.services import WHO, event, normal, rich_event
from tests.adapters.mortal_server import MortalServer
from tests.support import until
from tiercache import AgentCache, L2UnavailableError, ResilienceOptions, UsageError
from tiercache.adapters.google_adk import TierCacheSessionService
from tiercache.engine.level2.writes import Run, Write

QUICK = ResilienceOptions(l2_timeout=0.2, breaker_pause=0.05)


@pytest.fixture(params=["valkey", "memory"])
def service(request: pytest.FixtureRequest) -> TierCacheSessionService:
    """Return the service on Valkey, and in process memory."""
    return TierCacheSessionService(request.getfixturevalue("cache" if request.param == "valkey" else "memory"))


# The same operations on every service


async def create_all(service: BaseSessionService) -> list[Any]:
    results = []
    for user, state in (("ann", {"a": 1, "user:u": 1, "app:p": 1, "temp:t": 1}), ("bob", {"user:u": 2}), ("ann", None)):
        session_id = f"s{len(results)}"
        results.append(await service.create_session(app_name="app", user_id=user, state=state, session_id=session_id))
    results.append(await service.create_session(app_name="other", user_id="ann", session_id="s0"))
    return results


async def events_of_a_session(service: BaseSessionService) -> list[Any]:
    session = await service.create_session(**WHO, session_id="s")
    for number in range(5):
        await service.append_event(session, event(f"{number}", number + time.time(), count=number))
    configs = [
        None,
        GetSessionConfig(num_recent_events=2),
        GetSessionConfig(num_recent_events=0),
        GetSessionConfig(num_recent_events=50),
        GetSessionConfig(after_timestamp=session.events[2].timestamp),
        GetSessionConfig(after_timestamp=session.events[1].timestamp, num_recent_events=2),
        GetSessionConfig(after_timestamp=session.events[4].timestamp, num_recent_events=2),
        GetSessionConfig(after_timestamp=session.events[4].timestamp + 1),
    ]
    return [session, *[await service.get_session(**WHO, session_id="s", config=config) for config in configs]]


async def state_by_scope(service: BaseSessionService) -> list[Any]:
    session = await service.create_session(**WHO, session_id="s", state={"a": 0, "user:u": 0})
    other = await service.create_session(**WHO, session_id="other")
    changed = event(a=1, b={"c": [None]}, app__p="x", user__u=None, temp__t=object())
    returned = await service.append_event(session, changed)
    seen = [key for key in session.state if key != "temp:t"]
    return [
        returned is changed,
        sorted(seen),
        "temp:t" in session.state,
        sorted(returned.actions.state_delta),
        other.state,
        await service.get_session(**WHO, session_id="s"),
        await service.get_session(**WHO, session_id="other"),
        await service.create_session(app_name="app", user_id="bob", session_id="b"),
        await service.get_user_state(**WHO),
        await service.get_user_state(app_name="app", user_id="bob"),
    ]


async def absent_sessions(service: BaseSessionService) -> list[Any]:
    await service.create_session(**WHO, session_id="s")
    await service.delete_session(**WHO, session_id="absent")
    return [
        await service.get_session(**WHO, session_id="absent"),
        await service.get_session(app_name="app", user_id="bob", session_id="s"),
        await service.get_session(app_name="other", user_id="ann", session_id="s"),
        await service.list_sessions(app_name="none"),
        await service.list_sessions(app_name="app", user_id="bob"),
        await service.get_user_state(app_name="none", user_id="ann"),
    ]


async def lists(service: BaseSessionService) -> list[Any]:
    sessions = [
        await service.create_session(app_name="app", user_id=user, session_id=f"{user}{number}", state={"n": number})
        for number in range(3)
        for user in ("ann", "bob")
    ]
    base = time.time()
    for at, number in enumerate([3, 0, 4, 1, 5, 2]):
        await service.append_event(sessions[number], event("Hi", base + at, user__n=number, app__a=at, x=at))
    await service.delete_session(app_name="app", user_id="bob", session_id="bob1")
    users = [None, "ann", "bob"]
    return [await service.list_sessions(app_name="app", user_id=user) for user in users]


async def deleted_sessions(service: BaseSessionService) -> list[Any]:
    session = await service.create_session(**WHO, session_id="s", state={"a": 1, "user:u": 1})
    await service.append_event(session, event("old"))
    await service.delete_session(**WHO, session_id="s")
    gone = await service.get_session(**WHO, session_id="s")
    again = await service.create_session(**WHO, session_id="s", state={"b": 1})
    await service.append_event(again, event("new"))
    return [gone, again, await service.get_session(**WHO, session_id="s"), await service.list_sessions(**WHO)]


async def partial_events(service: BaseSessionService) -> list[Any]:
    session = await service.create_session(**WHO, session_id="s")
    partial = event("part", a=1)
    partial.partial = True
    returned = await service.append_event(session, partial)
    return [returned is partial, session, await service.get_session(**WHO, session_id="s")]


OPERATIONS = [
    create_all,
    events_of_a_session,
    state_by_scope,
    absent_sessions,
    lists,
    deleted_sessions,
    partial_events,
]


@pytest.mark.filterwarnings("ignore:Binding 1:DeprecationWarning")  # Of ADK's own service.
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_service_has_the_results_of_the_services_of_adk(
    operation: Callable[[BaseSessionService], Any], service: TierCacheSessionService, tmp_path: Path
) -> None:
    results = [normal(result) for result in await operation(service)]
    assert results == [normal(result) for result in await operation(InMemorySessionService())]
    assert results == [normal(result) for result in await operation(SqliteSessionService(str(tmp_path / "db")))]


async def test_spaces_around_an_id_are_no_part_of_it(service: TierCacheSessionService) -> None:
    made = await service.create_session(**WHO, session_id="  s ")
    assert made.id == "s"
    assert normal(await service.get_session(**WHO, session_id=" s")) == normal(made)
    named = [(await service.create_session(**WHO, session_id=session_id)).id for session_id in (None, "", " ")]
    assert len(set(named)) == 3
    await service.delete_session(**WHO, session_id="s ")
    assert {each.id for each in (await service.list_sessions(**WHO)).sessions} == set(named)


async def new_session(service: BaseSessionService, **state: Any) -> Session:
    return await service.create_session(**WHO, session_id="s", state=state)


async def read(service: BaseSessionService) -> Session:
    session = await service.get_session(**WHO, session_id="s")
    assert session is not None
    return session


# Whole events


async def test_service_returns_whole_events(service: TierCacheSessionService) -> None:
    session = await new_session(service)
    events = [rich_event(), event(), Event(author="empty")]
    for each in events:
        await service.append_event(session, each)
    stored = await read(service)
    assert stored.events == session.events == events
    assert [each.model_dump() for each in stored.events] == [each.model_dump() for each in events]
    assert stored.last_update_time == events[-1].timestamp
    assert stored.events[0] is not session.events[0]


async def test_service_gives_each_caller_its_own_objects(service: TierCacheSessionService) -> None:
    session = await new_session(service, a={"b": []})
    session.state["a"]["b"].append(1)
    first = await read(service)
    first.state["a"]["b"].append(2)
    assert (await read(service)).state == {"a": {"b": []}}


@pytest.mark.parametrize("value", [object(), {1, object()}])
async def test_state_that_is_not_json_is_refused(service: TierCacheSessionService, value: Any) -> None:
    with pytest.raises(UsageError, match="state cannot be written as JSON"):
        await new_session(service, a=value)
    assert (await service.list_sessions(**WHO)).sessions == []
    await new_session(service)


async def test_event_that_is_not_json_is_refused_and_changes_nothing(service: TierCacheSessionService) -> None:
    session = await new_session(service)
    for refused in (event(a=object()), event(**{"app__" + "k" * 600: 1}), event(user__a={1, object()})):
        with pytest.raises(UsageError):
            await service.append_event(session, refused)
    assert session.events == []
    assert session.state == {}
    assert normal(await read(service)) == normal(session)
    await service.append_event(session, event("next"))
    assert len((await read(service)).events) == 1


async def test_state_of_numbers_that_are_none_is_kept(service: TierCacheSessionService) -> None:
    session = await new_session(service, a=float("inf"))
    await service.append_event(session, event(b=float("-inf"), app__c=[float("inf")]))
    assert (await read(service)).state == {"a": float("inf"), "b": float("-inf"), "app:c": [float("inf")]}


async def test_session_that_exists_is_not_created_again(service: TierCacheSessionService) -> None:
    await new_session(service, a=1)
    with pytest.raises(AlreadyExistsError):
        await new_session(service, **{"a": 2, "user:u": 2})
    assert (await read(service)).state == {"a": 1}


# Several writers


def is_append(write: Write) -> bool:
    return "local list = " in repr(write)


def is_change_of_a_head(write: Write) -> bool:
    return "old ~= ARGV[5]" in repr(write)


def is_put_of_an_item(write: Write) -> bool:
    return "HRANDFIELD" in repr(write)


async def test_event_after_a_stale_read_is_refused_and_lost_by_neither_writer(service: TierCacheSessionService) -> None:
    await new_session(service)
    first, second = await read(service), await read(service)
    await service.append_event(first, event("first", a=1))
    late = event("second", a=2, user__u=2)
    with pytest.raises(StaleSessionError):
        await service.append_event(second, late)
    assert second.events == []
    assert (await read(service)).state == {"a": 1}
    second = await read(service)
    await service.append_event(second, late)
    assert [each.content.parts[0].text for each in (await read(service)).events] == ["first", "second"]
    await service.append_event(second, event("third"))
    with pytest.raises(StaleSessionError):
        await service.append_event(first, event("fourth"))


async def test_session_object_that_a_program_has_made_is_stale_if_it_lacks_events(
    service: TierCacheSessionService,
) -> None:
    session = await new_session(service)
    made = Session(id="s", **WHO, last_update_time=session.last_update_time)
    stored = await service.append_event(made, event("first", time.time() + 1))
    with pytest.raises(StaleSessionError):
        await service.append_event(Session(id="s", **WHO), event("second"))
    await service.append_event(Session(id="s", **WHO, events=[stored]), event("second"))
    assert len((await read(service)).events) == 2


async def test_event_of_an_absent_session_is_refused(service: TierCacheSessionService) -> None:
    session = await new_session(service)
    await service.delete_session(**WHO, session_id="s")
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session, event())
    assert await service.get_session(**WHO, session_id="s") is None


async def test_branches_that_share_a_session_object_add_all_their_events(service: TierCacheSessionService) -> None:
    session = await new_session(service)
    await asyncio.gather(*[service.append_event(session, event(f"{number}")) for number in range(20)])
    stored = await read(service)
    assert stored.events == session.events
    assert sorted(int(each.content.parts[0].text) for each in stored.events) == list(range(20))


async def test_event_that_is_delivered_twice_is_stored_once(service: TierCacheSessionService) -> None:
    session = await new_session(service)
    once = event(a=1)
    await service.append_event(session, once)
    assert await service.append_event(session, once) is once
    assert (await read(service)).events == session.events == [once]


async def add(service: TierCacheSessionService, text: str) -> None:
    """Add an event as an application with several writers does."""
    new = event(text, **{f"app__{text}": 1, f"user__{text}": 1, text: 1})
    while True:
        try:
            await service.append_event(await read(service), new)
        except StaleSessionError:
            continue
        return


async def test_writers_of_several_processes_lose_no_event(replicas: tuple[AgentCache, AgentCache]) -> None:
    services = [TierCacheSessionService(cache) for cache in replicas]
    await new_session(services[0])
    texts = [f"{worker}-{number}" for worker in range(2) for number in range(10)]
    await asyncio.gather(*[add(services[int(text[0])], text) for text in texts])
    sessions = [await read(service) for service in services]
    assert normal(sessions[0]) == normal(sessions[1])
    assert sorted(normal(sessions[0])[-1]) == texts
    assert sorted(sessions[0].state) == sorted(f"{scope}{text}" for scope in ("app:", "user:", "") for text in texts)
    (listed,) = (await services[0].list_sessions(**WHO)).sessions
    assert (listed.state, listed.last_update_time) == (sessions[0].state, sessions[0].last_update_time)


async def test_one_of_several_creations_of_a_session_succeeds(replicas: tuple[AgentCache, AgentCache]) -> None:
    services = [TierCacheSessionService(cache) for cache in replicas] * 4
    made = await asyncio.gather(*[new_session(each, a=1) for each in services], return_exceptions=True)
    assert sorted(type(each).__name__ for each in made) == ["AlreadyExistsError"] * 7 + ["Session"]


async def test_event_that_another_writer_overtakes_is_in_no_session(
    replicas: tuple[AgentCache, AgentCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (TierCacheSessionService(cache) for cache in replicas)
    session = await new_session(mine)
    changes = seams.HeldWrites(monkeypatch, is_change_of_a_head, cache=replicas[0])
    adding = asyncio.create_task(mine.append_event(session, event("lost", a=1)))
    await changes.sending.wait()  # The event is in the list, and not in the session.
    assert (await read(theirs)).events == []
    await theirs.append_event(await read(theirs), event("kept"))
    changes.release.set()
    with pytest.raises(StaleSessionError):
        await adding
    assert normal(await read(mine))[-2:] == normal(await read(theirs))[-2:] == ({}, ["kept"])


@pytest.mark.parametrize("held", [is_append, is_change_of_a_head])
async def test_event_of_a_session_that_is_created_again_during_the_call_is_in_no_session(
    held: Callable[[Write], bool],
    replicas: tuple[AgentCache, AgentCache],
    plain: valkey.Valkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, theirs = (TierCacheSessionService(cache) for cache in replicas)
    session = await new_session(mine)
    changes = seams.HeldWrites(monkeypatch, held, cache=replicas[0])
    adding = asyncio.create_task(mine.append_event(session, event("lost")))
    await changes.sending.wait()
    await theirs.delete_session(**WHO, session_id="s")
    await theirs.append_event(await new_session(theirs, new=True), event("kept"))
    changes.release.set()
    with pytest.raises(StaleSessionError):
        await adding
    assert normal(await read(mine))[-2:] == ({"new": True}, ["kept"])
    assert len(plain.keys("test:session:*:events.*")) == 1


# Lists


async def test_list_of_sessions_scans_no_keys_of_others(cache: AgentCache, plain: valkey.Valkey) -> None:
    service = TierCacheSessionService(cache)
    await new_session(service)
    plain.mset({f"foreign:{number}": "x" for number in range(100)})
    plain.config_resetstat()
    assert len((await service.list_sessions(**WHO)).sessions) == 1
    commands = plain.info("commandstats")
    assert not {"cmdstat_scan", "cmdstat_keys"} & set(commands)
    assert commands["cmdstat_eval"]["calls"] == 3


async def test_list_has_the_newest_copy_although_an_older_one_is_put_later(
    replicas: tuple[AgentCache, AgentCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = (TierCacheSessionService(cache) for cache in replicas)
    session = await new_session(slow)
    puts = seams.HeldWrites(monkeypatch, is_put_of_an_item, cache=replicas[0])
    adding = asyncio.create_task(slow.append_event(session, event("older", a=1)))
    await puts.sending.wait()
    await quick.append_event(await read(quick), event("newer", a=2))
    puts.release.set()
    await adding
    (listed,) = (await quick.list_sessions(**WHO)).sessions
    assert listed.state == {"a": 2}


async def test_names_of_any_text_are_kept_apart(service: TierCacheSessionService) -> None:
    names = ["a", "a/b", "a:b", "a%2Fb", "ü", "{a}", "a\0b"]
    for app in names:
        for user in names:
            await service.create_session(app_name=app, user_id=user, session_id=user, state={"at": [app, user]})
    for app in names:
        assert {each.user_id for each in (await service.list_sessions(app_name=app)).sessions} == set(names)
        for user in names:
            session = await service.get_session(app_name=app, user_id=user, session_id=user)
            assert session is not None
            assert session.state == {"at": [app, user]}


# Lifetimes


async def test_window_of_a_session_is_its_ttl(cache: AgentCache, plain: valkey.Valkey) -> None:
    service = TierCacheSessionService(cache, ttl=60)
    session = await service.create_session(**WHO, session_id="s", state={"user:u": 1})
    await service.append_event(session, event())
    keys = plain.keys("test:session:*") + plain.keys("test:__tc:items:*:n:sessions*")
    assert len(keys) == 3
    for use in (lambda: read(service), lambda: service.append_event(session, event())):
        for key in keys:
            plain.pexpire(key, 10_000)
        await use()
        await until(lambda: all(50_000 < plain.pttl(key) <= 60_000 for key in keys))
    (of_user,) = plain.keys("test:__tc:items:*:n:user*")
    assert plain.pttl(of_user) == -1


async def test_session_whose_events_have_ended_counts_as_absent(
    cache: AgentCache, plain: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    service = TierCacheSessionService(cache)
    session = await new_session(service)
    await service.append_event(session, event())
    plain.delete(*plain.keys("test:session:*:events*"))
    assert await service.get_session(**WHO, session_id="s") is None
    assert "has lost its events" in caplog.text


# Valkey


async def test_service_raises_once_valkey_is_killed(mortal_server: MortalServer) -> None:
    async with AgentCache.from_url(mortal_server.url, name="test", resilience=QUICK) as cache:
        service = TierCacheSessionService(cache)
        session = await new_session(service)
        await service.append_event(session, event())
        mortal_server.kill()
        calls: list[Callable[[], Any]] = [
            lambda: read(service),
            lambda: service.append_event(session, event()),
            lambda: service.create_session(**WHO),
            lambda: service.list_sessions(**WHO),
            lambda: service.delete_session(**WHO, session_id="s"),
            lambda: service.get_user_state(**WHO),
        ]
        for call in calls:
            with pytest.raises(L2UnavailableError):
                await call()
        assert len(session.events) == 1


@pytest.mark.parametrize("lost", [is_append, is_change_of_a_head, is_put_of_an_item])
async def test_event_whose_answer_was_lost_is_stored_once_by_a_repetition(
    lost: Callable[[Write], bool], cache: AgentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = TierCacheSessionService(cache)
    session = await new_session(service)
    new = event("once", a=1, user__u=1, temp__t=1)
    replies = seams.LostReplies(monkeypatch, Run, chosen=lost)
    with pytest.raises(L2UnavailableError):
        await service.append_event(session, new)
    assert (session.events, session.state) == ([], {})
    replies.is_on = False
    await service.append_event(session, new)
    stored = await read(service)
    assert stored.events == session.events == [new]
    assert stored.state == {"a": 1, "user:u": 1}
    assert session.state == {**stored.state, "temp:t": 1}
    (listed,) = (await service.list_sessions(**WHO)).sessions
    assert listed.state == stored.state


@pytest.mark.parametrize("text", ["text", "[]", '{"first": 1}', "[[["])
async def test_session_that_other_software_has_written_is_an_error(
    cache: AgentCache, plain: valkey.Valkey, text: str
) -> None:
    service = TierCacheSessionService(cache)
    await new_session(service)
    (key,) = plain.keys("test:session:*:head")
    plain.set(key, text)
    with pytest.raises(UsageError, match="has no session of Google ADK"):
        await read(service)


@pytest.mark.parametrize("argument", [{"cache": "x"}, {"ttl": 0}, {"ttl": "x"}])
async def test_wrong_argument_is_refused(memory: AgentCache, argument: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(argument))):
        TierCacheSessionService(**{"cache": memory, **argument})
