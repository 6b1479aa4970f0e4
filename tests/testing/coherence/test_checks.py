"""The checks on handmade histories: they find each kind of violation, and accept each allowed history."""

from __future__ import annotations

import pytest
from msgspec import structs

from tiercache.testing.coherence.checks import (
    FinalState,
    check_agreement,
    check_all,
    check_bound,
    check_errors,
    check_own,
    check_valkey,
)
from tiercache.testing.coherence.history import (
    FOREIGN,
    Change,
    Event,
    Failure,
    History,
    Joined,
    Load,
    Read,
    Restart,
    Sample,
)

D = 1.0


def read(began: float, version: int | None, replica: str = "a", key: str = "k", source: str = "l1") -> Read:
    return Read(replica, key, began, began + 0.5, version, source, "tool.get_or_load")


def change(
    acked: float | None, version: int, replica: str = "a", key: str = "k", *, stored: bool = False, began: float = 0.0
) -> Change:
    return Change(replica, key, version, "tool.invalidate", began, acked, stored)


def own(*events: Event) -> int:
    return len(check_own(History(events)))


def bound(*events: Event) -> int:
    return len(check_bound(History(events), D))


def l2(*events: Event) -> int:
    return len(check_valkey(History(events)))


def test_own_check_finds_an_older_read_after_the_replicas_own_change() -> None:
    assert own(change(10.0, 5), read(10.1, 4)) == 1
    assert own(change(10.0, 5), read(10.1, 5)) == 0
    assert own(change(10.0, 5), read(10.1, 6)) == 0


def test_own_check_allows_a_read_that_began_before_the_change_returned() -> None:
    # The read ended long after the change.
    assert own(change(10.0, 5), read(9.9, 4)) == 0
    assert own(change(10.0, 5), read(10.0, 4)) == 0


def test_own_check_ignores_other_replicas_other_keys_and_missing_values() -> None:
    assert own(change(10.0, 5), read(10.1, 4, replica="b")) == 0
    assert own(change(10.0, 5), read(10.1, 4, key="other")) == 0
    assert own(change(10.0, 5), read(10.1, None)) == 0


def test_own_check_compares_with_the_newest_earlier_change() -> None:
    # The newer change was acknowledged first.
    changes = change(10.0, 7), change(11.0, 6), change(20.0, 9)
    assert own(*changes, read(12.0, 6)) == 1
    assert own(*changes, read(12.0, 7)) == 0
    assert own(*changes, read(20.1, 7)) == 1


def queued(at: float, acked: float | None, version: int) -> Change:
    """A write-behind store that returned at ``at`` and that a flush at ``acked`` confirmed."""
    return Change("a", "k", version, "tool.store", at - 0.1, acked, stored=True, queued=at)


def test_own_check_counts_a_queued_store_from_its_return_on() -> None:
    assert own(queued(10.0, 20.0, 5), read(10.1, 4)) == 1
    assert own(queued(10.0, None, 5), read(10.1, 4)) == 1
    assert own(queued(10.0, 20.0, 5), read(9.95, 4), read(10.1, 4, replica="b")) == 0


def test_bound_and_valkey_checks_count_a_queued_store_from_its_flush_on() -> None:
    assert bound(queued(10.0, 20.0, 5), read(20.9, 4, replica="b")) == 0
    assert bound(queued(10.0, 20.0, 5), read(21.1, 4, replica="b")) == 1
    assert bound(queued(10.0, None, 5), read(21.1, 4, replica="b")) == 0
    assert l2(queued(10.0, 20.0, 5), Sample("k", 15.0, 4)) == 0
    assert l2(queued(10.0, 20.0, 5), Sample("k", 20.1, 4)) == 1
    assert l2(queued(10.0, None, 5), Sample("k", 20.1, 4)) == 0


def tagged(began: float, version: int, replica: str = "b", tag: str = "t") -> Read:
    """A read that gave a tag and found an entry; it ended half a second after it began."""
    return Read(replica, "k", began, began + 0.5, version, "l2", "tool.get_or_load", tag)


def untag(began: float, acked: float | None, version: int, replica: str = "a") -> Change:
    """An invalidation of the tag of an entry that may or may not have the tag."""
    return Change(replica, "k", version, "invalidate_tag", began, acked, tag="t")


def test_checks_count_an_invalidation_of_a_tag_for_the_version_that_had_the_tag() -> None:
    seen, change_ = tagged(8.0, 4), untag(9.0, 10.0, 5)
    assert own(seen, change_, read(10.1, 4)) == 1
    assert bound(seen, change_, read(11.1, 4, replica="c")) == 1
    assert l2(seen, change_, Sample("k", 10.1, 4)) == 1
    assert own(tagged(8.0, 4, tag="other"), change_, read(10.1, 4)) == 0
    # Another version, no acknowledgement, another replica, a read before the bound.
    assert own(seen, change_, read(10.1, 3)) == 0
    assert own(seen, untag(9.0, None, 5), read(10.1, 4)) == 0
    assert own(seen, change_, read(10.1, 4, replica="c")) == 0
    assert bound(seen, change_, read(10.9, 4, replica="c")) == 0


def test_checks_ignore_an_invalidation_of_a_tag_for_an_entry_without_the_tag() -> None:
    change_ = untag(9.0, 10.0, 5)
    assert own(change_, read(8.0, 4), read(10.1, 4)) == 0
    # The tag came while the invalidation was in progress, and after it.
    assert own(change_, tagged(8.9, 4), read(10.1, 4)) == 0
    assert own(change_, tagged(10.2, 4), read(11.0, 4)) == 0
    assert bound(change_, read(12.0, 4)) == 0
    assert l2(change_, Sample("k", 10.1, 4)) == 0


def test_checks_tell_the_entries_of_two_loads_of_one_version_apart() -> None:
    seen, change_ = structs.replace(tagged(8.0, 4), entry=1), untag(9.0, 10.0, 5)
    for entry, count in ((1, 1), (2, 0)):
        assert own(seen, change_, structs.replace(read(10.1, 4), entry=entry)) == count
        assert bound(seen, change_, structs.replace(read(11.1, 4, replica="c"), entry=entry)) == count
        assert l2(seen, change_, Sample("k", 10.1, 4, entry)) == count


@pytest.mark.parametrize(("began", "ended"), [(8.6, 8.9), (8.2, 8.4), (9.1, 9.2)])
def test_checks_ignore_a_tag_that_a_restart_may_have_removed(began: float, ended: float) -> None:
    events = tagged(8.0, 4), untag(9.0, 10.0, 5), read(10.1, 4)
    assert own(*events, Restart(began, ended, forgot=False)) == 1
    assert own(*events, Restart(began, ended, forgot=True)) == 0
    assert own(*events, Restart(7.0, 7.5, forgot=True), tagged(6.0, 4)) == 1


def test_checks_ignore_an_unacknowledged_change() -> None:
    assert own(change(None, 5), read(10.0, 4)) == 0
    assert bound(change(None, 5), read(10.0, 4)) == 0
    assert l2(change(None, 5), Sample("k", 10.0, 4)) == 0


def by_others(acked: float | None, version: int) -> Change:
    """A change by software other than tiercache."""
    return Change(FOREIGN, "k", version, "SET", 0.0, acked, stored=True)


def test_bound_check_counts_changes_by_other_software() -> None:
    assert bound(by_others(10.0, 5), read(11.1, 4)) == 1
    assert bound(by_others(10.0, 5), read(10.9, 4), read(11.1, 5)) == 0
    assert bound(by_others(None, 5), read(11.1, 4)) == 0
    assert own(by_others(10.0, 5), read(11.1, 4)) == 0
    assert l2(by_others(10.0, 5), Sample("k", 10.1, 4)) == 1


def test_bound_check_counts_no_change_by_other_software_for_replicas_that_do_not_track() -> None:
    joined = Joined("a", 1.0, "off"), Joined("b", 1.0, "interest")
    assert bound(*joined, by_others(10.0, 5), read(11.1, 4)) == 0
    assert bound(*joined, by_others(10.0, 5), read(11.1, 4, replica="b")) == 1
    # Of a replica: any process follows.
    assert bound(*joined, change(10.0, 5, replica="b"), read(11.1, 4)) == 1


def test_bound_check_counts_no_change_by_other_software_for_copies_past_their_ttl() -> None:
    assert bound(by_others(10.0, 5), read(11.1, 4, source="stale")) == 0
    assert bound(change(10.0, 5), read(11.1, 4, source="stale")) == 1


def test_bound_check_finds_an_older_read_after_the_bound() -> None:
    assert bound(change(10.0, 5), read(11.001, 4, replica="b")) == 1
    assert bound(change(10.0, 5), read(11.001, 5, replica="b")) == 0


def test_bound_check_allows_an_older_read_before_the_bound() -> None:
    assert bound(change(10.0, 5), read(11.0, 4, replica="b")) == 0
    assert bound(change(10.0, 5), read(10.5, 4, replica="b")) == 0


@pytest.mark.parametrize("source", ["l1", "l2", "loader", "stale"])
def test_bound_check_applies_to_every_source(source: str) -> None:
    assert bound(change(10.0, 5), read(11.5, 4, replica="b", source=source)) == 1


def test_l2_check_finds_an_older_entry_in_valkey() -> None:
    assert l2(change(10.0, 5), Sample("k", 10.1, 4)) == 1
    assert l2(change(10.0, 5), Sample("k", 10.1, 5)) == 0
    assert l2(change(10.0, 5), Sample("k", 10.1, None)) == 0
    assert l2(change(10.0, 5), Sample("k", 9.9, 4)) == 0
    assert l2(change(10.0, 5), Sample("other", 10.1, 4)) == 0


def test_l2_check_finds_an_entry_older_than_an_acknowledged_store() -> None:
    assert l2(change(10.0, 5, stored=True), Sample("k", 10.1, 4)) == 1


def test_l2_check_allows_a_late_unacknowledged_store() -> None:
    late = change(None, 4, stored=True)
    assert l2(late, change(10.0, 5, stored=True), Sample("k", 10.1, 4)) == 0
    assert l2(late, change(10.0, 5, stored=True), Sample("k", 10.1, 3)) == 1


def test_l2_check_ignores_changes_before_a_restart_that_emptied_valkey() -> None:
    forgot = Restart(10.5, 11.0, forgot=True)
    assert l2(change(10.0, 5, began=9.9), forgot, Sample("k", 11.1, 4)) == 0
    # In flight at the kill: Valkey may have executed the change before the restart.
    assert l2(change(11.05, 5, began=10.4), forgot, Sample("k", 11.1, 4)) == 0
    # The sample is from before the restart.
    assert l2(change(10.0, 5, began=9.9), forgot, Sample("k", 10.2, 4)) == 1
    # The change is from after the restart.
    assert l2(change(11.05, 5, began=11.01), forgot, Sample("k", 11.1, 4)) == 1


def test_l2_check_counts_changes_before_a_restart_that_kept_the_data() -> None:
    assert l2(change(10.0, 5, began=9.9), Restart(10.5, 11.0, forgot=False), Sample("k", 11.1, 4)) == 1


def test_error_check_finds_a_call_that_raised() -> None:
    (violation,) = check_errors(History([Failure("a", "k", 10.0, "Traceback ...\nKeyError: 1")]))
    assert violation.kind == "error"
    assert "KeyError" in violation.text


def agreement(in_valkey: int | None, *versions: int | None, events: tuple[Event, ...] = ()) -> int:
    by_replica = {f"r{number}": {"k": version} for number, version in enumerate(versions)}
    return len(check_agreement(History(events), FinalState(20.0, by_replica, {"k": in_valkey})))


def test_agree_check_finds_replicas_that_differ_from_each_other_or_from_valkey() -> None:
    assert agreement(5, 5, 5) == 0
    assert agreement(5, 5, 4) == 1
    assert agreement(5, 4, 4) == 1
    assert agreement(5, 5, None) == 1


def test_agree_check_allows_a_missing_entry_in_valkey() -> None:
    assert agreement(None, 5, 5) == 0
    assert agreement(None, None, None) == 0


def test_agree_check_finds_a_common_version_that_is_too_old() -> None:
    assert agreement(4, 4, 4, events=(change(10.0, 5),)) == 1
    assert agreement(5, 5, 5, events=(change(10.0, 5),)) == 0
    # The acknowledgement came after the replicas were read.
    assert agreement(4, 4, 4, events=(change(21.0, 5),)) == 0


def test_agree_check_applies_after_an_unacknowledged_invalidation() -> None:
    events = (change(10.0, 5), change(None, 6))
    assert agreement(6, 6, 5, events=events) == 1
    assert agreement(6, 6, 6, events=events) == 0
    assert agreement(5, 5, 5, events=events) == 0


def test_agree_check_finds_an_unacknowledged_invalidation_that_was_not_repeated() -> None:
    final = FinalState(20.0, {"a": {"k": 5}, "b": {"k": 5}}, {"k": 5}, due={"k": 6})
    assert len(check_agreement(History([change(10.0, 5), change(None, 6)]), final)) == 1
    final = FinalState(20.0, {"a": {"k": 6}, "b": {"k": 6}}, {"k": 6}, due={"k": 6})
    assert not check_agreement(History([change(10.0, 5), change(None, 6)]), final)


def test_agree_check_allows_differences_after_an_unacknowledged_store() -> None:
    stores = (change(10.0, 5, stored=True), change(None, 6, stored=True))
    assert agreement(6, 6, 5, events=stores) == 0
    assert agreement(6, 6, 4, events=stores) == 1
    assert agreement(7, 7, 6, events=(*stores, change(11.0, 7, stored=True))) == 1


def test_checks_find_no_violation_in_a_correct_history() -> None:
    history = History(
        [
            Load("b", "k", 0.0, 2.0, 0),
            read(0.0, 0, replica="b", source="loader"),
            Load("a", "k", 0.5, 1.5, 0),
            change(1.0, 1, began=0.9),
            Sample("k", 1.1, None),
            read(1.1, 1, source="loader"),
            read(1.5, 0, replica="b"),
            Sample("k", 2.0, 1),
            read(2.1, 1, replica="b", source="l2"),
        ]
    )
    assert check_all(history, D) == []


def test_checks_return_violations_in_their_order_in_time() -> None:
    history = History([change(10.0, 5), Sample("k", 13.0, 4), read(12.0, 4, replica="b"), read(10.1, 4)])
    assert [violation.kind for violation in check_all(history, D)] == ["own", "bound", "l2"]
