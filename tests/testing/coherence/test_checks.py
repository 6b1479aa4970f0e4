"""The checks, on histories made by hand: each kind of violation is found, and what is allowed is not."""

from __future__ import annotations

import pytest

from tiercache.testing.coherence.checks import (
    Final,
    check_agreement,
    check_all,
    check_bound,
    check_errors,
    check_own,
    check_valkey,
)
from tiercache.testing.coherence.history import Change, Event, Failure, History, Load, Read, Restart, Sample

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


def test_a_read_after_an_own_change_must_not_be_older() -> None:
    assert own(change(10.0, 5), read(10.1, 4)) == 1
    assert own(change(10.0, 5), read(10.1, 5)) == 0
    assert own(change(10.0, 5), read(10.1, 6)) == 0


def test_a_read_that_began_before_an_own_change_returned_may_be_older() -> None:
    # It ended long after.
    assert own(change(10.0, 5), read(9.9, 4)) == 0
    assert own(change(10.0, 5), read(10.0, 4)) == 0


def test_an_own_change_says_nothing_of_another_replica_or_key_or_of_nothing() -> None:
    assert own(change(10.0, 5), read(10.1, 4, replica="b")) == 0
    assert own(change(10.0, 5), read(10.1, 4, key="other")) == 0
    assert own(change(10.0, 5), read(10.1, None)) == 0


def test_the_newest_of_the_changes_before_counts() -> None:
    # The newer one was acknowledged first.
    changes = change(10.0, 7), change(11.0, 6), change(20.0, 9)
    assert own(*changes, read(12.0, 6)) == 1
    assert own(*changes, read(12.0, 7)) == 0
    assert own(*changes, read(20.1, 7)) == 1


def test_a_change_that_was_not_acknowledged_promises_nothing() -> None:
    assert own(change(None, 5), read(10.0, 4)) == 0
    assert bound(change(None, 5), read(10.0, 4)) == 0
    assert l2(change(None, 5), Sample("k", 10.0, 4)) == 0


def test_what_others_changed_must_be_seen_after_the_bound() -> None:
    assert bound(change(10.0, 5), read(11.001, 4, replica="b")) == 1
    assert bound(change(10.0, 5), read(11.001, 5, replica="b")) == 0


def test_what_others_changed_need_not_be_seen_before_the_bound() -> None:
    assert bound(change(10.0, 5), read(11.0, 4, replica="b")) == 0
    assert bound(change(10.0, 5), read(10.5, 4, replica="b")) == 0


@pytest.mark.parametrize("source", ["l1", "l2", "loader", "stale"])
def test_the_bound_holds_wherever_a_value_comes_from(source: str) -> None:
    assert bound(change(10.0, 5), read(11.5, 4, replica="b", source=source)) == 1


def test_valkey_must_not_hold_what_is_older_than_a_change() -> None:
    assert l2(change(10.0, 5), Sample("k", 10.1, 4)) == 1
    assert l2(change(10.0, 5), Sample("k", 10.1, 5)) == 0
    assert l2(change(10.0, 5), Sample("k", 10.1, None)) == 0
    assert l2(change(10.0, 5), Sample("k", 9.9, 4)) == 0
    assert l2(change(10.0, 5), Sample("other", 10.1, 4)) == 0


def test_valkey_must_not_hold_what_is_older_than_an_acknowledged_store() -> None:
    assert l2(change(10.0, 5, stored=True), Sample("k", 10.1, 4)) == 1


def test_a_store_that_was_not_acknowledged_may_arrive_late() -> None:
    late = change(None, 4, stored=True)
    assert l2(late, change(10.0, 5, stored=True), Sample("k", 10.1, 4)) == 0
    assert l2(late, change(10.0, 5, stored=True), Sample("k", 10.1, 3)) == 1


def test_what_valkey_forgot_in_a_restart_is_left_out() -> None:
    forgot = Restart(10.5, 11.0, forgot=True)
    assert l2(change(10.0, 5, began=9.9), forgot, Sample("k", 11.1, 4)) == 0
    # Under way when it was killed: the answer may have been on its way since before.
    assert l2(change(11.05, 5, began=10.4), forgot, Sample("k", 11.1, 4)) == 0
    # Seen before the restart.
    assert l2(change(10.0, 5, began=9.9), forgot, Sample("k", 10.2, 4)) == 1
    # Changed after it.
    assert l2(change(11.05, 5, began=11.01), forgot, Sample("k", 11.1, 4)) == 1


def test_what_valkey_has_kept_in_a_restart_counts() -> None:
    assert l2(change(10.0, 5, began=9.9), Restart(10.5, 11.0, forgot=False), Sample("k", 11.1, 4)) == 1


def test_a_call_that_raised_is_a_violation() -> None:
    (violation,) = check_errors(History([Failure("a", "k", 10.0, "Traceback ...\nKeyError: 1")]))
    assert violation.kind == "error"
    assert "KeyError" in violation.text


def agreement(in_valkey: int | None, *versions: int | None, events: tuple[Event, ...] = ()) -> int:
    by_replica = {f"r{number}": {"k": version} for number, version in enumerate(versions)}
    return len(check_agreement(History(events), Final(20.0, by_replica, {"k": in_valkey})))


def test_replicas_must_agree_with_each_other_and_with_valkey() -> None:
    assert agreement(5, 5, 5) == 0
    assert agreement(5, 5, 4) == 1
    assert agreement(5, 4, 4) == 1
    assert agreement(5, 5, None) == 1


def test_replicas_may_agree_on_what_valkey_no_longer_has() -> None:
    assert agreement(None, 5, 5) == 0
    assert agreement(None, None, None) == 0


def test_replicas_must_not_agree_on_what_is_too_old() -> None:
    assert agreement(4, 4, 4, events=(change(10.0, 5),)) == 1
    assert agreement(5, 5, 5, events=(change(10.0, 5),)) == 0
    # Acknowledged after the replicas were asked.
    assert agreement(4, 4, 4, events=(change(21.0, 5),)) == 0


def test_replicas_must_agree_after_an_invalidation_that_was_not_acknowledged() -> None:
    events = (change(10.0, 5), change(None, 6))
    assert agreement(6, 6, 5, events=events) == 1
    assert agreement(6, 6, 6, events=events) == 0
    assert agreement(5, 5, 5, events=events) == 0


def test_an_invalidation_that_was_not_acknowledged_must_have_been_repeated() -> None:
    final = Final(20.0, {"a": {"k": 5}, "b": {"k": 5}}, {"k": 5}, due={"k": 6})
    assert len(check_agreement(History([change(10.0, 5), change(None, 6)]), final)) == 1
    final = Final(20.0, {"a": {"k": 6}, "b": {"k": 6}}, {"k": 6}, due={"k": 6})
    assert not check_agreement(History([change(10.0, 5), change(None, 6)]), final)


def test_replicas_need_not_agree_after_a_store_that_was_not_acknowledged() -> None:
    stores = (change(10.0, 5, stored=True), change(None, 6, stored=True))
    assert agreement(6, 6, 5, events=stores) == 0
    assert agreement(6, 6, 4, events=stores) == 1
    assert agreement(7, 7, 6, events=(*stores, change(11.0, 7, stored=True))) == 1


def test_a_lawful_history_has_no_violation() -> None:
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


def test_violations_come_in_the_order_in_which_they_happened() -> None:
    history = History([change(10.0, 5), Sample("k", 13.0, 4), read(12.0, 4, replica="b"), read(10.1, 4)])
    assert [violation.kind for violation in check_all(history, D)] == ["own", "bound", "l2"]
