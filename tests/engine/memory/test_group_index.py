"""The keys in L1 by group: a drop finds the entries of its group, all of them, and looks at no other entry."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections import OrderedDict
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tiercache.engine.entries.entry import MATCHING, Entry, Group
from tiercache.engine.entries.freshness import FailedEntry, KeptEntry
from tiercache.engine.memory.group_index import GroupIndex
from tiercache.engine.memory.l1 import L1
from tiercache.options import L1Options

MAX_ENTRIES = 5
LLM, SESSION, MODEL, THREAD = Group("tier", "llm"), Group("tier", "session"), Group("model", "m"), Group("thread", "t")
RED, BLUE = Group("tag", "red"), Group("tag", "blue")
ALL = (LLM, SESSION, MODEL, THREAD, RED, BLUE)
GROUPS = (
    *((), (LLM,), (LLM, MODEL), (SESSION, THREAD), (SESSION, MODEL), (RED,), (LLM, RED)),
    *((LLM, MODEL, RED), (LLM, MODEL, RED, BLUE), (SESSION, THREAD, BLUE)),
    # As another client may have written the tags of a value.
    (LLM, MODEL, RED, RED),
)


def entry(groups: tuple[Group, ...], size: int = 1) -> Entry:
    return Entry("v", deadline=1e9, expires_at=1e9, stored_at=0, began=0, groups=groups, size_bytes=size)


class CountingText(str):
    """A text that counts how often it is compared."""

    __hash__ = str.__hash__
    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingText.compared += 1
        return str(self) is str(other) or str.__eq__(self, other)


@pytest.mark.parametrize("kind", ["model", "tool", "thread", "tag", "tier"])
def test_drop_of_group_looks_at_no_entry_of_another_group(kind: str) -> None:
    l1 = L1(L1Options())
    for number in range(1000):
        other = Group(kind if kind != "tier" else "model", CountingText(f"other {number}"))
        l1.put(f"{number}", entry((Group("tier", CountingText("many")), other)))
    last = Group(kind, CountingText("last"))
    l1.put("last", entry((last,) if kind == "tier" else (LLM, last)))
    CountingText.compared = 0
    assert l1.drop_group(last) == 1
    assert CountingText.compared <= 10
    assert l1.entry_count == 1000


# Seconds at which a live entry, then its stale copy, ends.
DEADLINE, END = 10.0, 20.0


class Kept(NamedTuple):
    """An entry as the model knows it."""

    groups: tuple[Group, ...]
    kind: type[Entry]


class Model(RuleBasedStateMachine):
    """Runs the same random steps on L1 and on an ordered dictionary, which it scans in full."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = L1(L1Options(max_entries=MAX_ENTRIES))
        self.l1.pinned = {"pinned"}
        self.model: OrderedDict[str, Kept] = OrderedDict()

    keys = st.sampled_from([*"abcdefgh", "pinned"])

    @rule(key=keys, groups=st.sampled_from(GROUPS), kind=st.sampled_from([Entry, KeptEntry, FailedEntry]))
    def put(self, key: str, groups: tuple[Group, ...], kind: type[Entry]) -> None:
        made: Entry
        if kind is Entry:
            made = Entry("v", DEADLINE, 0, DEADLINE, 0, groups, 1)
        else:
            deadline = DEADLINE if kind is KeptEntry else -math.inf
            made = kind("v", deadline, 0, DEADLINE, 0, groups, 1, 0, deadline, END)
        self.model.pop(key, None)
        assert self.l1.put(key, made) == (key != "pinned")
        if key == "pinned":
            return
        if len(self.model) >= MAX_ENTRIES:
            self.model.popitem(last=False)
        self.model[key] = Kept(groups, kind)

    @rule(key=keys)
    def drop(self, key: str) -> None:
        kept = self.model.pop(key, None)
        assert self.l1.drop(key) == (kept is not None and kept.kind is not FailedEntry)

    @rule(key=keys, now=st.sampled_from([5.0, 15.0, 25.0]))
    def look(self, key: str, now: float) -> None:
        self.l1.get(key, now)
        kept = self.model.get(key)
        if kept is None:
            return
        if now < DEADLINE and kept.kind is not FailedEntry:
            self.model.move_to_end(key)
        elif now >= END or kept.kind is Entry:
            del self.model[key]

    @rule(key=keys, now=st.sampled_from([5.0, 15.0]))
    def hear_of_change(self, key: str, now: float) -> None:
        self.l1.drop_changed(key, now)
        kept = self.model.get(key)
        # The report may be that of the expiry.
        if kept is not None and not (now >= DEADLINE and kept.kind is KeptEntry):
            del self.model[key]

    @rule(key=keys, tag=st.sampled_from([RED, BLUE]))
    def add_tag(self, key: str, tag: Group) -> None:
        kept = self.l1.peek(key)
        if kept is not None:
            self.l1.add_tags(key, kept, (tag,))
            groups, kind = self.model.pop(key)
            self.model[key] = Kept(groups if tag in groups else (*groups, tag), kind)

    @rule(key=keys, groups=st.sampled_from(GROUPS))
    def refuse_as_too_large(self, key: str, groups: tuple[Group, ...]) -> None:
        assert not self.l1.put(key, entry(groups, size=self.l1.max_bytes + 1))
        self.model.pop(key, None)

    @rule(key=keys)
    def refuse_as_too_large_with_its_tags(self, key: str) -> None:
        assert not self.l1.put(key, entry((LLM, MODEL, RED), size=self.l1.max_bytes))
        if key != "pinned":
            self.model.clear()

    @rule(group=st.sampled_from(ALL))
    def drop_group(self, group: Group) -> None:
        kept = {key: kind for key, (groups, kind) in self.model.items() if group in groups}
        assert self.l1.drop_group(group) == sum(kind is not FailedEntry for kind in kept.values())
        for key in kept:
            del self.model[key]

    @rule(ending=st.sampled_from("ab"))
    def drop_pattern(self, ending: str) -> None:
        kept = self.model.pop(ending, None)
        dropped = self.l1.drop_group(Group(MATCHING, f"*{ending}"))
        assert dropped == (kept is not None and kept.kind is not FailedEntry)

    @rule()
    def clear(self) -> None:
        self.l1.clear()
        self.model.clear()

    @invariant()
    def groups_have_their_keys(self) -> None:
        for group in ALL:
            live = [k for k, (groups, kind) in self.model.items() if group in groups and kind is not FailedEntry]
            assert sorted(self.l1.keys_of_group(group, 0)) == sorted(live)
        assert self.l1.entry_count == len(self.model)
        if not self.model:
            assert self.l1.size_bytes == 0


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGroupsMatchModel = Model.TestCase


@pytest.mark.parametrize("seed", range(6))
def test_groups_match_a_scan_while_tags_become_common_and_rare(seed: int) -> None:
    """A tag is common at 257 entries that have it, if they are an eighth of L1."""
    chance = random.Random(seed)
    l1 = L1(L1Options(max_entries=chance.choice([600, 3000])))
    groups_of: OrderedDict[str, tuple[Group, ...]] = OrderedDict()
    for _ in range(12):
        share_of_red, share_of_blue = chance.choice([0, 0.1, 1]), chance.choice([0, 0.5])
        for _ in range(chance.choice([100, 500, 2000])):
            key = f"{chance.randrange(4000)}"
            tags = [tag for tag, share in ((RED, share_of_red), (BLUE, share_of_blue)) if chance.random() < share]
            groups = (LLM, chance.choice([MODEL, Group("model", key)]), *tags)
            l1.put(key, entry(groups))
            groups_of.pop(key, None)
            groups_of[key] = groups
            if len(groups_of) > l1.max_entries:
                groups_of.popitem(last=False)
        for key in chance.sample(sorted(groups_of), chance.choice([0, len(groups_of) // 2, len(groups_of) - 5])):
            l1.drop(key)
            del groups_of[key]
        for group in chance.sample([LLM, MODEL, RED, BLUE], chance.randrange(5)):
            assert sorted(l1.keys_of_group(group, 0)) == sorted(k for k, has in groups_of.items() if group in has)
        dropped = chance.choice([MODEL, RED, BLUE])
        removed = [key for key, has in groups_of.items() if dropped in has]
        assert l1.drop_group(dropped) == len(removed)
        for key in removed:
            del groups_of[key]
        assert l1.entry_count == len(groups_of)
    assert l1.drop_group(LLM) == len(groups_of)
    assert l1.size_bytes == 0


def test_index_keeps_nothing_of_entries_that_are_gone() -> None:
    index = GroupIndex({})
    kept = {key: index.tags.share(key, groups) for key, groups in zip("abcdefghijk", GROUPS, strict=True)}
    for key, groups in kept.items():
        index.add(key, groups)
    assert len(index) > 0
    for key, groups in kept.items():
        index.remove(key, groups)
    assert len(index) == 0
    assert index.tags.size_bytes == 0


def test_index_refuses_entry_with_a_third_group() -> None:
    """A drop of the third group would not find the entry."""
    index = GroupIndex({})
    with pytest.raises(ValueError, match="unpack"):
        index.add("key", (LLM, MODEL, THREAD))


@pytest.mark.parametrize("kind", ["model", "tag"])
def test_drop_of_group_that_has_shrunk_looks_at_no_other_entry(kind: str) -> None:
    """Most entries had the group once; then others came. The first look at a tag may find that L1 has outgrown it."""
    l1 = L1(L1Options())
    shrunk = Group(kind, CountingText("shrunk"))
    for number in range(3000):
        l1.put(f"{number}", entry((LLM, shrunk)))
    for number in range(2990):
        l1.drop(f"{number}")
    for number in range(1000):
        l1.put(f"other {number}", entry((LLM, Group(kind, CountingText(f"other {number}")))))
    assert l1.keys_of_group(shrunk, 0) == [f"{number}" for number in range(2990, 3000)]
    l1.put("late", entry((LLM, shrunk)))
    bytes_before = l1.size_bytes
    CountingText.compared = 0
    assert l1.drop_group(shrunk) == 11
    assert bytes_before > l1.size_bytes
    assert CountingText.compared <= 100
    assert l1.entry_count == 1000
    assert l1.drop_group(shrunk) == 0


@pytest.mark.parametrize("groups", [(LLM, MODEL), (LLM, RED)], ids=["model", "tag"])
def test_keys_of_group_give_back_their_room(groups: tuple[Group, ...]) -> None:
    keys = [f"{number}" for number in range(5_000)]
    # So many that the tag is not common.
    index = GroupIndex(dict.fromkeys(map(str, range(50_000)), entry(())))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in keys:
            index.add(key, index.tags.share(key, groups))
        most = tracemalloc.get_traced_memory()[0] - before
        for key in keys[:-10]:
            index.remove(key, groups)
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert most > 100_000
    assert left < 10_000
    assert index.keys_of(groups[1]) == keys[-10:]


def test_common_tag_is_dropped_in_full_and_takes_no_bytes_for_its_keys() -> None:
    """Of a tag that many entries have, the index knows the number of the entries alone."""
    l1 = L1(L1Options())
    sizes = []
    for number in range(1000):
        l1.put(f"{number}", entry((LLM, MODEL, RED, RED), size=0))
        sizes.append(l1.size_bytes)
    assert sizes[0] == sizes[-1] < sizes[200]
    assert len(l1.keys_of_group(RED, 0)) == 1000
    assert l1.size_bytes == sizes[-1]
    for number in range(990):
        l1.drop(f"{number}")
    l1.put("blue", entry((LLM, MODEL, BLUE)))
    assert sorted(l1.keys_of_group(RED, 0)) == [f"{number}" for number in range(990, 1000)]
    assert l1.drop_group(RED) == 10
    assert l1.entry_count == 1
    l1.put("red", entry((LLM, MODEL, RED)))
    assert l1.drop_group(RED) == l1.drop_group(BLUE) == 1
    assert l1.size_bytes == 0
