"""The backplane on a real server: announcements arrive in order, and the end of a subscription is noticed."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import valkey

from tests.seams import StoreView
from tests.support import until
from tiercache import L2CommandError, L2UnavailableError
from tiercache.embedded import EmbeddedValkey
from tiercache.engine.entries.entry import Group
from tiercache.engine.level2.announcement import Announcement, KeysDeclined, Pong, Received, TrackedChange, Unreadable
from tiercache.engine.level2.writes import Announce, Delete, Release, Track, WriteSet
from tiercache.stores.valkey.backplane import BackplaneNames, ValkeySubscription
from tiercache.stores.valkey.settings import Settings, client_from_url
from tiercache.stores.valkey.store import ValkeyLevel2

SEQUENCE = "test:__tc:sequence"
CHANNEL = "test:__tc:bus:0"
CHANGE = Announce(Announcement(groups=(Group("tool", "t"),)))
KEYS = Announce(Announcement(keys=("k",)))

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


async def receive_all(subscription: ValkeySubscription, count: int) -> list[type]:
    """Return the kinds of the next ``count`` events."""
    return [type(await receive(subscription)) for _ in range(count)]


async def receive(subscription: ValkeySubscription) -> Any:
    async with asyncio.timeout(2):
        return await subscription.receive()


async def test_subscription_receives_an_announcement_with_number_and_origin(
    make_level2: MakeLevel2, subscription: ValkeySubscription
) -> None:
    groups, overtaken = (Group("tool", "a:b"),), (Group("model", "m"),)
    announcement = Announcement(keys=("é",), groups=groups, overtaken=overtaken, policies=True)
    (number,) = await make_level2("another").apply([Announce(announcement)])
    assert await receive(subscription) == Received(announcement, "another", number)


async def test_subscription_receives_an_announcement_without_change_without_number(
    level2: ValkeyLevel2, subscription: ValkeySubscription
) -> None:
    announcement = Announcement(awaited_leases=("k",), ended_leases=("l",))
    assert await level2.apply([Announce(announcement)]) == [1]
    assert await receive(subscription) == Received(announcement, "me", None)
    assert await level2.last_number() == 0


async def test_subscription_receives_concurrent_changes_in_the_order_of_their_numbers(
    make_level2: MakeLevel2, subscription: ValkeySubscription
) -> None:
    writers = [make_level2(str(number)) for number in range(4)]
    await asyncio.gather(*(writer.apply([CHANGE] * 25) for writer in writers))
    numbers = [(await receive(subscription)).number for _ in range(100)]
    assert numbers == list(range(numbers[0], numbers[0] + 100))


async def test_subscription_receives_a_pong_behind_all_earlier_announcements(
    level2: ValkeyLevel2, subscription: ValkeySubscription
) -> None:
    (first,) = await level2.apply([CHANGE])
    await subscription.ping(1.5, first)
    await level2.apply([CHANGE])
    await subscription.ping(math.pi, first + 1)
    events = [await receive(subscription) for _ in range(4)]
    assert [type(event) for event in events].count(Received) == 2
    assert [event for event in events if isinstance(event, Pong)] == [Pong(1.5, first), Pong(math.pi, first + 1)]
    assert events[0].number == first
    assert events.index(Pong(math.pi, first + 1)) == 3


@pytest.mark.parametrize("multiplexed", [True, False])
async def test_subscription_begins_while_messages_arrive(url: str, plain: valkey.Valkey, multiplexed: bool) -> None:
    """A message that follows a SUBSCRIBE at once must not be taken for the answer to another command."""
    settings = Settings.from_client(client_from_url(url), multiplexes=multiplexed)
    level2 = ValkeyLevel2(settings, timeout=2, name="test", origin="me")
    is_done = threading.Event()

    def publish() -> None:
        with valkey.Valkey.from_url(url) as client:
            while not is_done.is_set():
                client.publish(CHANNEL, "x")

    publishing = asyncio.create_task(asyncio.to_thread(publish))
    try:
        for _ in range(50):
            subscription = await level2.subscribe()
            assert isinstance(await receive(subscription), Unreadable)
            await subscription.aclose()
    finally:
        is_done.set()
        await publishing
        await level2.aclose()


async def test_change_is_readable_when_its_announcement_arrives(
    make_level2: MakeLevel2, subscription: ValkeySubscription, plain: valkey.Valkey
) -> None:
    writer = make_level2("another")
    for number in range(20):
        writing = asyncio.ensure_future(writer.apply([WriteSet("k", b"%d" % number, None), CHANGE]))
        await receive(subscription)
        assert plain.get("k") == b"%d" % number
        await writing


@pytest.mark.parametrize("payload", [b"", b"what is this?", b"\xff", b'{"v":9}'])
async def test_subscription_receives_a_malformed_message_as_unreadable(
    subscription: ValkeySubscription, plain: valkey.Valkey, payload: bytes
) -> None:
    plain.publish(CHANNEL, payload)
    assert isinstance(await receive(subscription), Unreadable)


async def test_backplane_is_separate_for_each_database_and_name(
    make_level2: MakeLevel2, subscription: ValkeySubscription, level2: ValkeyLevel2, url: str
) -> None:
    await make_level2("x", at=f"{url}?db=1").apply([CHANGE])
    await make_level2("x", name="test.eu").apply([CHANGE])
    assert await level2.last_number() == 0  # The counters are separate too.
    await level2.apply([CHANGE])
    assert (await receive(subscription)).origin == "me"


def test_backplane_names_are_stable() -> None:
    names = BackplaneNames.of("test", 3)
    assert (names.channel, names.sequence) == ("test:__tc:bus:3", "test:__tc:sequence")
    assert names.tracked == (
        "test:llm:",
        "test:tool:",
        "test:session:",
        "test:__tc:kv:",
        "test:__tc:kvs:",
        "test:__tc:pin:",
        "test:__tc:settings",
        "test:__tool_policies",
        "__betterdb:heartbeat:test",
    )


# The end of a subscription


async def test_subscription_raises_after_the_server_ended_it(
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
        await receive(subscription)


async def test_subscription_raises_in_its_receiver_when_it_is_closed(subscription: ValkeySubscription) -> None:
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.sleep(0.01)
    await subscription.aclose()
    async with asyncio.timeout(2):
        with pytest.raises(L2UnavailableError):
            await receiving
    await subscription.aclose()
    with pytest.raises(L2UnavailableError):
        await subscription.ping(1.0, 1)


async def test_subscription_ping_never_reconnects(subscription: ValkeySubscription, plain: valkey.Valkey) -> None:
    await subscription.aclose()
    with pytest.raises(L2UnavailableError):
        await subscription.ping(1.0, 1)
    await until(lambda: len(plain.client_list()) == 1)  # Only the connection of ``plain`` is left.


async def test_subscription_keeps_later_messages_after_a_cancelled_receive(
    level2: ValkeyLevel2, subscription: ValkeySubscription
) -> None:
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.sleep(0.01)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    try:
        await level2.apply([CHANGE])
        assert isinstance(await receive(subscription), Received)
    except L2UnavailableError:
        pass  # The subscription has ended: the listener then knows that a message may be lost.


async def test_subscription_raises_unavailable_without_a_server(make_level2: MakeLevel2) -> None:
    nowhere = make_level2(at="unix:///tmp/there-is-nothing-here.sock", timeout=0.2)
    with pytest.raises(L2UnavailableError):
        await nowhere.subscribe()


# Tracking invalidations from the server


async def test_tracking_reports_changes_of_other_clients_only(
    level2: ValkeyLevel2, subscription: ValkeySubscription, plain: valkey.Valkey
) -> None:
    assert subscription.id is not None
    (number,) = await level2.apply([Track(subscription.id)])
    assert await level2.apply([Track(subscription.id)]) == [number]  # Tracking has not stopped.
    key = "test:__tc:kv:kv:k"
    placeholder = b"tc:lease:me:1"
    await level2.apply([WriteSet(key, placeholder, 5), WriteSet(key, b"v", 5, replaces=placeholder), Delete((key,))])
    await level2.apply([WriteSet(key, placeholder, 5), Release(key, placeholder)])
    plain.set("unrelated", "x")
    plain.set("test:__tc:idx:tag:x", "x")
    plain.set(key, "x")
    assert await receive(subscription) == TrackedChange((key,))
    plain.flushall()
    assert await receive(subscription) == TrackedChange(None)


async def test_tracking_restarts_under_another_number_after_it_ended(
    level2: ValkeyLevel2, subscription: ValkeySubscription, plain: valkey.Valkey
) -> None:
    assert subscription.id is not None
    (number,) = await level2.apply([Track(subscription.id)])
    assert StoreView(level2).writer_connection_id is not None
    plain.client_kill_filter(_id=StoreView(level2).writer_connection_id)
    while True:  # A write on the connection notices its end.
        try:
            (again,) = await level2.apply([Track(subscription.id)])
            break
        except L2UnavailableError:
            continue
    assert again != number
    plain.set("test:llm:k", "x")
    assert await receive(subscription) == TrackedChange(("test:llm:k",))


# Numbers of changes


async def test_numbers_continue_from_the_last_change(level2: ValkeyLevel2) -> None:
    (number,) = await level2.apply([CHANGE])
    assert await level2.start_numbers() == await level2.start_numbers() == number
    assert await level2.last_number() == number


@pytest.mark.parametrize("junk", [None, b"no number", b"-5", b"1.5", b"\xff", b"", "a hash"])
async def test_numbers_start_at_the_clock_if_the_counter_is_missing(
    level2: ValkeyLevel2, plain: valkey.Valkey, junk: bytes | str | None
) -> None:
    """Then the number of the first change after it is known in advance."""
    if isinstance(junk, bytes):
        plain.set(SEQUENCE, junk)
    elif junk is not None:
        plain.hset(SEQUENCE, "a", "b")
    before = time.time() * 1e6
    number = await level2.start_numbers()
    assert before - 1e6 <= number <= time.time() * 1e6 + 1e6
    assert await level2.apply([CHANGE]) == [number + 1]


@pytest.mark.parametrize("junk", [None, b"no number", b"-5", b"1.5", b"\xff", b""])
async def test_last_number_is_zero_without_a_valid_counter(
    level2: ValkeyLevel2, plain: valkey.Valkey, junk: bytes | None
) -> None:
    if junk is not None:
        plain.set(SEQUENCE, junk)
    assert await level2.last_number() == 0


# Declined announcements of single keys


async def test_keys_are_announced_until_every_subscriber_declines(
    make_level2: MakeLevel2, level2: ValkeyLevel2
) -> None:
    declining, other = await make_level2("x").subscribe(), await make_level2("y").subscribe()
    assert await level2.apply([KEYS]) != [0]
    await declining.decline_keys(True)
    assert await receive_all(declining, 2) == [Received, KeysDeclined]
    assert await level2.apply([KEYS]) != [0]
    await other.decline_keys(True)
    assert await receive_all(other, 3) == [Received, Received, KeysDeclined]
    assert await level2.apply([KEYS]) == [0]
    await other.decline_keys(False)
    assert await receive(other) == KeysDeclined(False)
    assert await level2.apply([KEYS]) != [0]
    for subscription in (declining, other):
        await subscription.aclose()


async def test_subscriber_that_leaves_counts_no_more(
    make_level2: MakeLevel2, level2: ValkeyLevel2, subscription: ValkeySubscription
) -> None:
    other = await make_level2("x").subscribe()
    await subscription.decline_keys(True)
    assert await level2.apply([KEYS]) != [0]
    await other.aclose()

    async def are_declined() -> bool:
        return await level2.apply([KEYS]) == [0]

    await until(are_declined)


async def test_changes_of_more_than_keys_are_announced_to_every_subscriber(
    level2: ValkeyLevel2, subscription: ValkeySubscription
) -> None:
    await subscription.decline_keys(True)
    assert await receive(subscription) == KeysDeclined(True)
    both = Announce(Announcement(keys=("k",), groups=(Group("tool", "t"),)))
    leases = Announce(Announcement(awaited_leases=("k",)))
    await level2.apply([CHANGE, both, leases])
    assert await receive_all(subscription, 3) == [Received, Received, Received]


async def test_keys_are_announced_if_the_server_does_not_count_subscribers(
    make_level2: MakeLevel2, make_user: Callable[..., str], level2: ValkeyLevel2, subscription: ValkeySubscription
) -> None:
    await subscription.decline_keys(True)
    assert await receive(subscription) == KeysDeclined(True)
    blind = make_level2("blind", at=make_user("-pubsub|numsub", channels=("*",)))
    assert await blind.apply([KEYS]) != [0]
    assert isinstance(await receive(subscription), Received)


async def test_keys_are_announced_to_a_user_without_the_channel_of_those_that_decline(
    make_level2: MakeLevel2, make_user: Callable[..., str], level2: ValkeyLevel2
) -> None:
    subscription = await make_level2(at=make_user(channels=(CHANNEL,))).subscribe()
    await subscription.decline_keys(True)
    assert await receive(subscription) == KeysDeclined(False)
    assert await level2.apply([KEYS]) != [0]
    await subscription.aclose()


# Users without a permission


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


async def test_backplane_receives_announcements_only_without_the_tracking_channel(
    make_level2: MakeLevel2, make_user: Callable[..., str], level2: ValkeyLevel2
) -> None:
    subscription = await make_level2(at=make_user(channels=(CHANNEL,))).subscribe()
    assert subscription.id is None
    await level2.apply([CHANGE])
    assert isinstance(await receive(subscription), Received)
    await subscription.aclose()


async def test_backplane_refuses_a_user_without_its_channel(
    make_level2: MakeLevel2, make_user: Callable[..., str]
) -> None:
    with pytest.raises(L2CommandError):
        await make_level2(at=make_user(channels=())).subscribe()


async def test_backplane_receives_announcements_without_client_id(
    make_level2: MakeLevel2, make_user: Callable[..., str], level2: ValkeyLevel2
) -> None:
    subscription = await make_level2(at=make_user("-client", channels=("*",))).subscribe()
    assert subscription.id is None
    await level2.apply([CHANGE])
    assert isinstance(await receive(subscription), Received)
    await subscription.aclose()


async def test_backplane_numbers_changes_without_publish(
    make_level2: MakeLevel2, make_user: Callable[..., str], subscription: ValkeySubscription, level2: ValkeyLevel2
) -> None:
    (number,) = await make_level2("silent", at=make_user(channels=())).apply([CHANGE])
    assert await level2.last_number() == number
    await subscription.ping(1.0, number)
    assert await receive(subscription) == Pong(1.0, number)
