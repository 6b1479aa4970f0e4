"""The backplane on a real server: what is said is heard in order, and the end of a subscription is noticed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import valkey

from tests.support import until
from tiercache import L2CommandError, L2UnavailableError
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.entries.entry import Group
from tiercache.engine.level2.announcement import Announcement, Pong, Received, TrackedChange, Unreadable
from tiercache.engine.level2.level2 import Position
from tiercache.engine.level2.writes import Announce, Delete, Release, Track, WriteSet
from tiercache.stores.valkey.backplane import BusNames, ValkeySubscription
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2

SEQUENCE = "test:__tc:sequence"
CHANNEL = "test:__tc:bus:0"
CHANGE = Announce(Announcement(keys=("k",)))

MakeLevel2 = Callable[..., ValkeyLevel2]


@pytest.fixture
async def make_level2(url: str) -> AsyncIterator[MakeLevel2]:
    """Make stores of the cache ``test``, closed at the end of the test."""
    made: list[ValkeyLevel2] = []

    def make(origin: str = "me", *, at: str = url, name: str = "test", timeout: float = 2) -> ValkeyLevel2:
        made.append(ValkeyLevel2(Settings.from_client(client_from_url(at)), timeout=timeout, name=name, origin=origin))
        return made[-1]

    yield make
    for level2 in made:
        await level2.aclose()


@pytest.fixture
async def level2(make_level2: MakeLevel2) -> ValkeyLevel2:
    return make_level2()


@pytest.fixture
async def subscription(level2: ValkeyLevel2) -> AsyncIterator[ValkeySubscription]:
    subscription = await level2.subscribe()
    yield subscription
    await subscription.aclose()


async def hear(subscription: ValkeySubscription) -> Any:
    async with asyncio.timeout(2):
        return await subscription.receive()


async def test_what_is_said_is_heard_with_its_number_and_by_whom(
    make_level2: MakeLevel2, subscription: ValkeySubscription
) -> None:
    said = Announcement(keys=("é",), groups=(Group("tool", "a:b"),), overtaken=(Group("model", "m"),), settings=True)
    (number,) = await make_level2("somebody").apply([Announce(said)])
    assert await hear(subscription) == Received(said, "somebody", number)


async def test_what_is_no_change_has_no_number(level2: ValkeyLevel2, subscription: ValkeySubscription) -> None:
    said = Announcement(wanted=("k",), settled=("l",))
    assert await level2.apply([Announce(said)]) == [1]
    assert await hear(subscription) == Received(said, "me", None)
    assert await level2.last_number() == 0


async def test_what_many_say_at_once_is_heard_in_the_order_of_its_numbers(
    make_level2: MakeLevel2, subscription: ValkeySubscription
) -> None:
    writers = [make_level2(str(number)) for number in range(4)]
    await asyncio.gather(*(writer.apply([CHANGE] * 25) for writer in writers))
    numbers = [(await hear(subscription)).number for _ in range(100)]
    assert numbers == list(range(numbers[0], numbers[0] + 100))


async def test_an_answer_comes_behind_all_that_was_said_before_the_ping(
    level2: ValkeyLevel2, subscription: ValkeySubscription
) -> None:
    (first,) = await level2.apply([CHANGE])
    await subscription.ping(1.5, first)
    await level2.apply([CHANGE])
    await subscription.ping(math.pi, first + 1)
    heard = [await hear(subscription) for _ in range(4)]
    assert [type(event) for event in heard].count(Received) == 2
    assert [event for event in heard if isinstance(event, Pong)] == [Pong(1.5, first), Pong(math.pi, first + 1)]
    assert heard[0].number == first
    assert heard.index(Pong(math.pi, first + 1)) == 3


async def test_whoever_hears_of_a_change_finds_it_made(
    make_level2: MakeLevel2, subscription: ValkeySubscription, plain: valkey.Valkey
) -> None:
    writer = make_level2("somebody")
    for number in range(20):
        writing = asyncio.ensure_future(writer.apply([WriteSet("k", b"%d" % number, None), CHANGE]))
        await hear(subscription)
        assert plain.get("k") == b"%d" % number
        await writing


@pytest.mark.parametrize("payload", [b"", b"what is this?", b"\xff", b'{"v":9}'])
async def test_what_makes_no_sense_is_said_to_be_unreadable(
    subscription: ValkeySubscription, plain: valkey.Valkey, payload: bytes
) -> None:
    plain.publish(CHANNEL, payload)
    assert isinstance(await hear(subscription), Unreadable)


async def test_databases_and_names_have_channels_of_their_own(
    make_level2: MakeLevel2, subscription: ValkeySubscription, level2: ValkeyLevel2, url: str
) -> None:
    await make_level2("x", at=f"{url}?db=1").apply([CHANGE])
    await make_level2("x", name="test.eu").apply([CHANGE])
    assert await level2.last_number() == 0  # Counters too.
    await level2.apply([CHANGE])
    assert (await hear(subscription)).origin == "me"


def test_the_names() -> None:
    names = BusNames.of("test", 3)
    assert (names.channel, names.sequence) == ("test:__tc:bus:3", "test:__tc:sequence")
    assert names.tracked == (
        "test:llm:",
        "test:tool:",
        "test:session:",
        "test:__tc:kv:",
        "test:__tool_policies",
    )


# Its end


async def test_a_subscription_that_the_server_ends_raises(
    subscription: ValkeySubscription, plain: valkey.Valkey
) -> None:
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.sleep(0)
    plain.client_kill_filter(_id=subscription.id)
    async with asyncio.timeout(2):
        with pytest.raises(L2UnavailableError):
            await receiving
    with pytest.raises(L2UnavailableError):
        await subscription.ping(1.0, 1)
    with pytest.raises(L2UnavailableError):
        await hear(subscription)


async def test_a_subscription_that_is_closed_while_somebody_receives_raises(subscription: ValkeySubscription) -> None:
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.sleep(0.01)
    await subscription.aclose()
    async with asyncio.timeout(2):
        with pytest.raises(L2UnavailableError):
            await receiving
    await subscription.aclose()
    with pytest.raises(L2UnavailableError):
        await subscription.ping(1.0, 1)


async def test_no_ping_connects_a_subscription_anew(subscription: ValkeySubscription, plain: valkey.Valkey) -> None:
    await subscription.aclose()
    with pytest.raises(L2UnavailableError):
        await subscription.ping(1.0, 1)
    await until(lambda: len(plain.client_list()) == 1)  # The one that asks.


async def test_cancelling_who_receives_loses_nothing_of_a_later_message(
    level2: ValkeyLevel2, subscription: ValkeySubscription
) -> None:
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.sleep(0.01)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    try:
        await level2.apply([CHANGE])
        assert isinstance(await hear(subscription), Received)
    except L2UnavailableError:
        pass  # Ended, which says that something may be lost.


async def test_a_server_that_is_not_there_is_unavailable(make_level2: MakeLevel2) -> None:
    nowhere = make_level2(at="unix:///tmp/there-is-nothing-here.sock", timeout=0.2)
    with pytest.raises(L2UnavailableError):
        await nowhere.subscribe()


# What the server's own word says


async def test_the_server_tells_what_others_change_and_not_what_the_writer_does(
    level2: ValkeyLevel2, subscription: ValkeySubscription, plain: valkey.Valkey
) -> None:
    assert subscription.id is not None
    (number,) = await level2.apply([Track(subscription.id)])
    assert await level2.apply([Track(subscription.id)]) == [number]  # It has never stopped.
    key = "test:__tc:kv:kv:k"
    placeholder = b"tc:lease:me:1"
    await level2.apply([WriteSet(key, placeholder, 5), WriteSet(key, b"v", 5, replaces=placeholder), Delete((key,))])
    await level2.apply([WriteSet(key, placeholder, 5), Release(key, placeholder)])
    plain.set("unrelated", "x")
    plain.set("test:__tc:idx:tag:x", "x")
    plain.set(key, "x")
    assert await hear(subscription) == TrackedChange((key,))
    plain.flushall()
    assert await hear(subscription) == TrackedChange(None)


async def test_tracking_that_has_ended_is_turned_on_again_under_another_number(
    level2: ValkeyLevel2, subscription: ValkeySubscription, plain: valkey.Valkey
) -> None:
    assert subscription.id is not None
    (number,) = await level2.apply([Track(subscription.id)])
    assert level2._writer._line_id is not None
    plain.client_kill_filter(_id=level2._writer._line_id)
    while True:  # The connection's end is noticed by who writes on it.
        try:
            (again,) = await level2.apply([Track(subscription.id)])
            break
        except L2UnavailableError:
            continue
    assert again != number
    plain.set("test:llm:k", "x")
    assert await hear(subscription) == TrackedChange(("test:llm:k",))


# Positions


async def test_a_position_is_the_servers_run_and_the_last_number(level2: ValkeyLevel2, plain: valkey.Valkey) -> None:
    run_id = plain.info("server")["run_id"]
    (number,) = await level2.apply([CHANGE])
    assert await level2.position() == await level2.position() == Position(run_id, number)
    assert await level2.last_number() == number


@pytest.mark.parametrize("junk", [None, b"no number", b"-5", b"1.5", b"\xff", b"", "a hash"])
async def test_asking_for_the_position_begins_a_counter_that_is_none_at_the_clock(
    level2: ValkeyLevel2, plain: valkey.Valkey, junk: bytes | str | None
) -> None:
    """So that the first change after it has a number that is known beforehand."""
    if isinstance(junk, bytes):
        plain.set(SEQUENCE, junk)
    elif junk is not None:
        plain.hset(SEQUENCE, "a", "b")
    before = time.time() * 1e6
    position = await level2.position()
    assert before - 1e6 <= position.number <= time.time() * 1e6 + 1e6
    assert await level2.apply([CHANGE]) == [position.number + 1]


@pytest.mark.parametrize("junk", [None, b"no number", b"-5", b"1.5", b"\xff", b""])
async def test_a_counter_that_is_none_counts_nothing(
    level2: ValkeyLevel2, plain: valkey.Valkey, junk: bytes | None
) -> None:
    if junk is not None:
        plain.set(SEQUENCE, junk)
    assert await level2.last_number() == 0


def test_only_the_same_position_proves_that_nothing_was_missed() -> None:
    position = Position("run", 7)
    assert position.proves_nothing_missed(Position("run", 7))
    for other in (None, Position("run", 6), Position("run", 8), Position("another", 7), Position(None, 7)):
        assert not position.proves_nothing_missed(other)
    assert not Position(None, 7).proves_nothing_missed(Position(None, 7))


# Users who may not


@pytest.fixture
def make_user(server: EmbeddedValkey, plain: valkey.Valkey) -> Iterator[Callable[..., str]]:
    def make(*without: str, channels: tuple[str, ...]) -> str:
        plain.acl_setuser(
            "limited",
            enabled=True,
            passwords=["+secret"],
            keys=["*"],
            channels=list(channels),
            commands=["+@all", *without],
            reset=True,
            reset_channels=True,
        )
        path = server.url.removeprefix("unix://")
        return f"unix://limited@{path}?password=secret"

    yield make
    plain.acl_deluser("limited")


async def test_a_user_of_the_bus_alone_hears_it_and_not_the_server(
    make_level2: MakeLevel2, make_user: Callable[..., str], level2: ValkeyLevel2
) -> None:
    subscription = await make_level2(at=make_user(channels=(CHANNEL,))).subscribe()
    assert subscription.id is None
    await level2.apply([CHANGE])
    assert isinstance(await hear(subscription), Received)
    await subscription.aclose()


async def test_a_user_without_the_bus_is_refused(make_level2: MakeLevel2, make_user: Callable[..., str]) -> None:
    with pytest.raises(L2CommandError):
        await make_level2(at=make_user(channels=())).subscribe()


async def test_a_user_without_an_id_hears_the_bus(
    make_level2: MakeLevel2, make_user: Callable[..., str], level2: ValkeyLevel2
) -> None:
    subscription = await make_level2(at=make_user("-client", channels=("*",))).subscribe()
    assert subscription.id is None
    await level2.apply([CHANGE])
    assert isinstance(await hear(subscription), Received)
    await subscription.aclose()


async def test_a_user_who_may_not_ask_for_the_run_proves_nothing(
    make_level2: MakeLevel2, make_user: Callable[..., str]
) -> None:
    limited = make_level2(at=make_user("-info", channels=("*",)))
    (number,) = await limited.apply([CHANGE])
    assert await limited.position() == Position(None, number)


async def test_who_may_not_publish_numbers_the_change_all_the_same(
    make_level2: MakeLevel2, make_user: Callable[..., str], subscription: ValkeySubscription, level2: ValkeyLevel2
) -> None:
    (number,) = await make_level2("silent", at=make_user(channels=())).apply([CHANGE])
    assert await level2.last_number() == number
    await subscription.ping(1.0, number)
    assert await hear(subscription) == Pong(1.0, number)
