"""The decisions of ``Coherence``, without a server: which events drop which entries, and which extend trust."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.seams import number_of
from tiercache.engine.coherence.coherence import Coherence
from tiercache.engine.coherence.leases import Leases
from tiercache.engine.entries.entry import Entry, Group
from tiercache.engine.entries.overrides import Switches
from tiercache.engine.hooks.calls import HookCalls
from tiercache.engine.hooks.registry import HookRegistry
from tiercache.engine.level2.announcement import Announcement, Pong, Received, TrackedChange, Unreadable
from tiercache.engine.memory.l1 import L1
from tiercache.engine.memory.memory import Memory
from tiercache.engine.memory.pins import PinTable
from tiercache.log import CacheLog
from tiercache.options import CoherenceOptions, L1Options, ResilienceOptions


class Decided:
    """A ``Coherence`` with its L1, fences and leases, subscribed at change 7, and with the entries "k" and "l".

    Attributes:
        watched_keys: The key of the tool policies.
        watched: The reported changes of watched keys.
        changed: The reported changes of other keys.
        policies_changed_count: How often the tool policies were reported as changed.
    """

    def __init__(self) -> None:
        self.l1 = L1(L1Options(max_entries=100, max_bytes=10_000), max_staleness=3)
        self.pins = PinTable(self.l1, "test", is_shared=True)
        hooks = HookCalls(HookRegistry(), CacheLog("test"))
        memory = Memory(self.l1, self.pins, ResilienceOptions(), lambda: 0.0, hooks, Switches())
        self.fences = memory.fences
        self.leases = Leases(None, origin="me", ttl=1)  # type: ignore[arg-type]
        self.policies_changed_count = 0
        self.watched_keys = frozenset(("settings",))
        self.watched: list[str | None] = []
        self.changed: list[str] = []
        self.coherence = Coherence(
            memory, self.leases, self, CoherenceOptions(max_staleness=3), origin="me", log=CacheLog("test")
        )
        self.coherence.subscribed(7)
        self.coherence.apply(Pong(0.0, 7))
        self.put("k", Group("tier", "kv"))
        self.put("l", Group("tier", "llm"))
        self.before = self.l1.distrusted_count

    def policies_changed(self) -> None:
        """Count a report."""
        self.policies_changed_count += 1

    def watched_changed(self, key: str | None) -> None:
        """Record a report."""
        self.watched.append(key)

    def key_changed(self, key: str) -> None:
        """Record a change of an entry."""
        self.changed.append(key)

    def put(self, key: str, *groups: Group) -> None:
        """Keep an entry in L1."""
        entry = Entry("v", deadline=100, began=0, expires_at=100, stored_at=0, groups=groups, size_bytes=10)
        assert self.l1.put(key, entry)

    @property
    def distrusted(self) -> int:
        """How often everything was distrusted since the entries were put."""
        return self.l1.distrusted_count - self.before

    @property
    def kept(self) -> set[str]:
        """The entries that L1 still keeps."""
        return {key for key in ("k", "l") if self.l1.peek(key) is not None}

    def receive(self, number: int | None, origin: str = "other", **content: Any) -> None:
        """Apply a received announcement."""
        self.coherence.apply(Received(Announcement(**content), origin, number))


@pytest.fixture
def decided() -> Decided:
    return Decided()


@pytest.mark.parametrize(("number", "is_gap"), [(8, False), (9, True), (7, True), (6, True), (1, True)])
def test_coherence_distrusts_l1_on_gap_in_numbers(decided: Decided, number: int, is_gap: bool) -> None:
    decided.receive(number, keys=("k",))
    assert decided.distrusted == is_gap
    assert decided.kept == (set() if is_gap else {"l"})
    decided.receive(number + 1, keys=("x",))
    assert decided.distrusted == is_gap


@pytest.mark.parametrize("number", [8, 9])
def test_coherence_counts_own_announcement_and_does_not_apply_it(decided: Decided, number: int) -> None:
    decided.receive(number, "me", keys=("k",))
    assert decided.distrusted == (number == 9)
    assert decided.kept == (set() if number == 9 else {"k", "l"})
    assert decided.l1.heard_count == 0


def test_coherence_drops_entries_and_breaks_fences_of_invalidated_group(decided: Decided) -> None:
    ours, theirs = (decided.fences.open("x", (Group("tier", tier),)) for tier in ("kv", "llm"))
    decided.receive(8, groups=(Group("tier", "kv"),))
    assert decided.kept == {"l"}
    assert (ours.holds, theirs.holds) == (False, True)


def test_coherence_breaks_fences_and_keeps_entries_of_overtaken_group(decided: Decided) -> None:
    fence = decided.fences.open("x", (Group("tier", "kv"),))
    decided.receive(8, overtaken=(Group("tier", "kv"),))
    assert decided.kept == {"k", "l"}
    assert not fence.holds


def test_coherence_accepts_announcement_between_subscription_and_number(decided: Decided) -> None:
    decided.coherence.subscribed(7)
    decided.put("k", Group("tier", "kv"))
    decided.put("l", Group("tier", "llm"))
    for number in (6, 7):
        decided.receive(number, keys=("k",))
    decided.coherence.apply(Pong(1.0, 7))
    decided.receive(8, keys=("x",))
    assert decided.distrusted == 1  # The subscription.
    assert decided.kept == {"l"}  # The announcement is applied.


def test_coherence_distrusts_l1_after_reconnect(decided: Decided) -> None:
    """Also with the same number: not every change has one."""
    decided.coherence.subscribed(7)
    assert decided.distrusted == 1
    assert not decided.kept


@pytest.mark.parametrize(("number", "is_missed"), [(7, False), (6, False), (0, False), (8, True)])
def test_coherence_distrusts_l1_when_pong_carries_later_number(decided: Decided, number: int, is_missed: bool) -> None:
    decided.coherence.apply(Pong(5.0, number))
    assert decided.distrusted == is_missed
    assert decided.l1.trusted_until == 8.0
    decided.receive(max(number, 7) + 1, keys=("x",))
    assert decided.distrusted == is_missed


def test_coherence_keeps_trust_when_older_pong_arrives(decided: Decided) -> None:
    decided.coherence.apply(Pong(5.0, 7))
    decided.coherence.apply(Pong(4.0, 7))
    assert decided.l1.trusted_until == 8.0


@pytest.mark.parametrize("event", [TrackedChange(None), Unreadable("it makes no sense")])
def test_coherence_drops_everything_on_event_without_keys(decided: Decided, event: Any) -> None:
    fence = decided.fences.open("x", ())
    decided.coherence.apply(event)
    assert decided.distrusted == 1
    assert decided.kept == set()
    assert (fence.holds, fence.in_doubt) == (True, True)


def test_coherence_applies_server_invalidation_to_keys_and_policies(decided: Decided) -> None:
    fence = decided.fences.open("k", ())
    decided.coherence.apply(TrackedChange(("k", "settings", "unknown")))
    assert decided.kept == {"l"}
    assert not fence.holds
    assert (decided.watched, decided.distrusted) == (["settings"], 0)
    assert decided.changed == ["k", "unknown"]


def test_coherence_ignores_own_policy_change(decided: Decided) -> None:
    decided.receive(None, "me", policies=True)
    assert decided.policies_changed_count == 0
    decided.receive(None, policies=True)
    assert decided.policies_changed_count == 1


async def test_coherence_wakes_lease_waiter_on_change_and_on_release(decided: Decided) -> None:
    for wake in (
        lambda: decided.receive(int(number_of(decided.coherence)) + 1, keys=("k",)),
        lambda: decided.receive(None, ended_leases=("k",)),
        lambda: decided.coherence.apply(TrackedChange(("k",))),
        lambda: decided.coherence.distrust("no reason"),
    ):
        waiting = asyncio.create_task(decided.leases.wait("k", 60))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        wake()
        async with asyncio.timeout(2):
            await waiting
