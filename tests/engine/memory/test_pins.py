"""The table of pins: changes, reads and listings that overlap."""

from __future__ import annotations

import pytest

from tests.seams import set_pin_limits
from tiercache import L1Options
from tiercache.engine.entries.entry import Entry
from tiercache.engine.memory.l1 import L1
from tiercache.engine.memory.pins import PinTable

KEY, PIN = "test:llm:k", "test:__tc:pin:llm:k"


@pytest.fixture
def l1() -> L1:
    """Return an L1 whose entries are trusted for 10 seconds."""
    return L1(L1Options(), max_staleness=10.0)


@pytest.fixture
def table(l1: L1) -> PinTable:
    """Return a table that has listed no pin at second 0."""
    table = PinTable(l1, "test", is_shared=True)
    table.end_listing(table.begin_listing(), {}, 0.0)
    return table


def data_of(table: PinTable, key: str = KEY) -> bytes | None:
    slot = table.slots.get(key)
    return slot.data if slot is not None and slot.is_current else None


def entry() -> Entry:
    return Entry("value", 1e9, 0.0, 1e9, 0.0, (), 10)


def test_pin_keeps_entry_out_of_l1(table: PinTable, l1: L1) -> None:
    l1.put(KEY, entry())
    table.set(KEY, b"approved")
    assert l1.peek(KEY) is None
    assert not l1.put(KEY, entry())
    table.remove(KEY)
    assert l1.put(KEY, entry())


def test_noted_change_makes_pin_unknown_and_drops_entry(table: PinTable, l1: L1) -> None:
    l1.put(KEY, entry())
    assert table.note(PIN) == KEY
    assert l1.peek(KEY) is None
    assert table.may_answer(KEY, 0.0)
    assert table.note("test:llm:k") is None


def test_older_read_keeps_newer_pin(table: PinTable) -> None:
    table.note(PIN)
    slot = table.slots[KEY]
    table.set(KEY, b"newer")
    table.answered(KEY, slot, b"older")
    assert data_of(table) == b"newer"


def test_change_during_listing_wins_over_listing(table: PinTable) -> None:
    table.set(KEY, b"old")
    version = table.begin_listing()
    table.set(KEY, b"new")
    table.set("test:llm:other", b"set meanwhile")
    table.end_listing(version, {KEY: b"old"}, 1.0)
    assert data_of(table) == b"new"
    assert data_of(table, "test:llm:other") == b"set meanwhile"


def test_removal_during_listing_wins_over_listing(table: PinTable) -> None:
    table.set(KEY, b"old")
    version = table.begin_listing()
    table.remove(KEY)
    table.end_listing(version, {KEY: b"old"}, 1.0)
    assert KEY not in table.slots


def test_listing_drops_entry_of_pin_that_it_finds(table: PinTable, l1: L1) -> None:
    l1.put(KEY, entry())
    table.end_listing(table.begin_listing(), {KEY: b"approved"}, 1.0)
    assert l1.peek(KEY) is None
    assert data_of(table) == b"approved"


def test_listing_is_due_after_l1_was_cleared_or_trust_ended(table: PinTable, l1: L1) -> None:
    assert table.is_listed(9.0)
    assert not table.is_listed(10.0)
    l1.trusted_until = 100.0
    assert table.is_listed(99.0)
    l1.clear()
    assert not table.is_listed(99.0)


def test_listing_that_began_before_a_doubt_is_not_enough(table: PinTable, l1: L1) -> None:
    for doubt in (table.doubt, l1.clear):
        version = table.begin_listing()
        doubt()
        table.end_listing(version, {}, 1.0)
        assert not table.is_listed(1.0)


def test_notes_without_end_make_listing_due(table: PinTable) -> None:
    for number in range(1100):
        table.note(f"test:__tc:pin:llm:{number}")
    assert len(table.slots) < 1100
    assert not table.is_listed(0.0)


def test_answers_beyond_the_bound_are_read_again(table: PinTable, monkeypatch: pytest.MonkeyPatch) -> None:
    set_pin_limits(monkeypatch, most_bytes=10)
    for key in ("a", "b", "c"):
        table.set(f"test:llm:{key}", b"12345")
    assert [data_of(table, f"test:llm:{key}") for key in ("a", "b", "c")] == [None, b"12345", b"12345"]
    assert table.may_answer("test:llm:a", 0.0)
