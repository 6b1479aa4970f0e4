"""The keys in L1 by group: a drop finds the entries of its group, all of them, and looks at no other entry."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tiercache.engine.entries.entry import Entry, Group
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


class Model(RuleBasedStateMachine):
    """Runs the same random steps on L1 and on an ordered dictionary, which it scans in full."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = L1(L1Options(max_entries=MAX_ENTRIES))
        self.model: OrderedDict[str, tuple[Group, ...]] = OrderedDict()

    keys = st.sampled_from("abcdefgh")

    @rule(key=keys, groups=st.sampled_from(GROUPS))
    def put(self, key: str, groups: tuple[Group, ...]) -> None:
        self.model.pop(key, None)
        if len(self.model) >= MAX_ENTRIES:
            self.model.popitem(last=False)
        self.model[key] = groups
        assert self.l1.put(key, entry(groups))

    @rule(key=keys)
    def drop(self, key: str) -> None:
        assert self.l1.drop(key) == (self.model.pop(key, None) is not None)

    @rule(key=keys, tag=st.sampled_from([RED, BLUE]))
    def add_tag(self, key: str, tag: Group) -> None:
        kept = self.l1.peek(key)
        if kept is not None:
            self.l1.add_tags(key, kept, (tag,))
            groups = self.model.pop(key)
            self.model[key] = groups if tag in groups else (*groups, tag)

    @rule(key=keys)
    def refuse_as_too_large(self, key: str) -> None:
        assert not self.l1.put(key, entry((LLM, MODEL, RED), size=self.l1.max_bytes))
        self.model.clear()

    @rule(group=st.sampled_from(ALL))
    def drop_group(self, group: Group) -> None:
        keys = [key for key, groups in self.model.items() if group in groups]
        assert self.l1.drop_group(group) == len(keys)
        for key in keys:
            del self.model[key]

    @rule()
    def clear(self) -> None:
        self.l1.clear()
        self.model.clear()

    @invariant()
    def groups_have_their_keys(self) -> None:
        for group in ALL:
            assert sorted(self.l1.keys_of_group(group, 0)) == sorted(k for k, gs in self.model.items() if group in gs)
        assert self.l1.entry_count == len(self.model)
        if not self.model:
            assert self.l1.size_bytes == 0


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGroupsMatchModel = Model.TestCase


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


def test_common_tag_is_dropped_in_full_and_takes_no_bytes_for_its_keys() -> None:
    """Of a tag that many entries have, the index knows the number of the entries alone."""
    l1 = L1(L1Options())
    sizes = []
    for number in range(1000):
        l1.put(f"{number}", entry((LLM, MODEL, RED, RED), size=0))
        sizes.append(l1.size_bytes)
    assert sizes[0] == sizes[-1] < sizes[200]
    for number in range(990):
        l1.drop(f"{number}")
    l1.put("blue", entry((LLM, MODEL, BLUE)))
    assert sorted(l1.keys_of_group(RED, 0)) == [f"{number}" for number in range(990, 1000)]
    assert l1.drop_group(RED) == 10
    assert l1.entry_count == 1
    l1.put("red", entry((LLM, MODEL, RED)))
    assert l1.drop_group(RED) == l1.drop_group(BLUE) == 1
    assert l1.size_bytes == 0
