"""L1, compared with a simple model: bounds, order of eviction, deadlines."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tiercache.engine.entries.entry import Entry, Group
from tiercache.engine.memory.l1 import L1
from tiercache.options import L1Options

MAX_ENTRIES = 4
MAX_BYTES = 100
A, B = Group("model", "a"), Group("model", "b")


def entry(value: object = "v", *, deadline: float = 1e9, size: int = 1, groups: tuple[Group, ...] = ()) -> Entry:
    return Entry(value, deadline=deadline, expires_at=deadline, stored_at=0, began=0, groups=groups, size_bytes=size)


def test_l1_evicts_least_recently_used_entry() -> None:
    l1 = L1(L1Options(max_entries=2, max_bytes=1000))
    l1.put("a", entry())
    l1.put("b", entry())
    assert l1.get("a", 0) is not None
    l1.put("c", entry())
    assert l1.get("b", 0) is None
    assert l1.get("a", 0) is not None
    assert l1.evicted_count == 1


def test_l1_serves_entry_until_its_deadline() -> None:
    l1 = L1(L1Options(max_entries=2, max_bytes=1000))
    l1.put("a", entry(deadline=10))
    assert l1.get("a", 9.999) is not None
    assert l1.get("a", 10) is None
    assert l1.entry_count == 0


def test_l1_refuses_oversized_value_and_drops_older_value() -> None:
    l1 = L1(L1Options(max_entries=2, max_bytes=10))
    l1.put("a", entry("old"))
    assert not l1.put("a", entry("new", size=11))
    assert l1.get("a", 0) is None
    assert l1.size_bytes == 0


def test_l1_keeps_eviction_order_when_group_is_dropped() -> None:
    l1 = L1(L1Options(max_entries=3, max_bytes=1000))
    for key in "abc":
        l1.put(key, entry(groups=(A,)))
    assert l1.get("a", 0) is not None  # Order now: b, c, a.
    assert l1.drop_group(B) == 0
    l1.put("d", entry())
    assert l1.get("b", 0) is None
    assert l1.drop_group(A) == 2
    assert l1.entry_count == 1


class Model(RuleBasedStateMachine):
    """Runs the same random steps on L1 and on an ordered dictionary, which it scans in full."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.l1 = L1(L1Options(max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES))
        self.model: OrderedDict[str, Entry] = OrderedDict()

    keys = st.sampled_from("abcdefg")

    @rule(
        key=keys,
        size=st.integers(0, MAX_BYTES + 5),
        life=st.floats(0.1, 10),
        groups=st.sampled_from([(), (A,), (B,), (A, B)]),
    )
    def put(self, key: str, size: int, life: float, groups: tuple[Group, ...]) -> None:
        new = entry(object(), deadline=self.now + life, size=size, groups=groups)
        kept = self.l1.put(key, new)
        assert kept == (size <= MAX_BYTES)
        self.model.pop(key, None)
        if kept:
            while self.model and (
                len(self.model) >= MAX_ENTRIES or sum(e.size_bytes for e in self.model.values()) + size > MAX_BYTES
            ):
                self.model.popitem(last=False)
            self.model[key] = new

    @rule(key=keys)
    def get(self, key: str) -> None:
        expected = self.model.get(key)
        if expected is not None and self.now >= expected.deadline:
            del self.model[key]
            expected = None
        if expected is not None:
            self.model.move_to_end(key)
        assert self.l1.get(key, self.now) is expected

    @rule(key=keys)
    def drop(self, key: str) -> None:
        assert self.l1.drop(key) == (self.model.pop(key, None) is not None)

    @rule(group=st.sampled_from([A, B]))
    def drop_group(self, group: Group) -> None:
        keys = [key for key, e in self.model.items() if group in e.groups]
        assert self.l1.drop_group(group) == len(keys)
        for key in keys:
            del self.model[key]

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def clear(self) -> None:
        assert self.l1.clear() == len(self.model)
        self.model.clear()

    @invariant()
    def bounds_hold(self) -> None:
        assert self.l1.entry_count == len(self.model) <= MAX_ENTRIES
        assert self.l1.size_bytes == sum(e.size_bytes for e in self.model.values()) <= MAX_BYTES


Model.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestL1MatchesModel = Model.TestCase


def test_l1_settles_before_the_next_lookup_and_only_then() -> None:
    l1 = L1(L1Options())
    settled: list[str] = []
    l1.settle_first(lambda: settled.append("first"))
    assert settled == []
    assert l1.glance("k") is None
    assert settled == [], "a glance settles nothing"
    assert l1.get("k", 0.0) is None
    assert l1.get("k", 0.0) is None
    assert settled == ["first"]


def test_l1_settles_again_after_a_request_that_came_while_it_settled() -> None:
    """The race: another thread queues a change after the last look at the queue, and before the lookup goes on."""
    l1 = L1(L1Options())
    settled: list[int] = []

    def settle() -> None:
        settled.append(len(settled))
        if len(settled) == 1:
            l1.settle_first(settle)

    l1.settle_first(settle)
    for _ in range(3):
        assert l1.peek("k") is None
    assert settled == [0, 1]
