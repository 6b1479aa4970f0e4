"""Announcements as messages: every field arrives, and a message that cannot be decoded is never ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache.engine.entries.entry import MATCHING, Group
from tiercache.engine.entries.key_pattern import LONGEST_PATTERN_BYTES
from tiercache.engine.level2.announcement import Announcement, Received, Unreadable
from tiercache.stores.valkey.messages import decode, encode

KEYS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4).map(tuple)
GROUPS = st.lists(st.builds(Group, st.sampled_from(["tier", "tool", "model", "tag"]), st.text(max_size=5)), max_size=3)


def numbered(announcement: Announcement, number: int | None, origin: str = "me") -> bytes:
    """Return the message with the number that the script on the server puts in."""
    before, after = encode(announcement, origin)
    return before + (b"null" if number is None else b"%d" % number) + after


@pytest.mark.parametrize(
    "announcement",
    [
        Announcement(keys=("a", "é", '"', "\\", "\n", "👍🏽")),
        Announcement(groups=(Group("tier", "kv"), Group("tool", "a b"))),
        Announcement(groups=(Group("tool", "a b"), Group(MATCHING, "a[^b\\]*"), Group(MATCHING, "é?"))),
        Announcement(overtaken=(Group("model", "gpt-4o"),)),
        Announcement(awaited_leases=("k",)),
        Announcement(ended_leases=("k", "l")),
        Announcement(policies=True),
        Announcement(),
        Announcement(("a",), (Group("tag", "t"),), (Group("tier", "x"),), ("w",), ("d",), True),
    ],
)
def test_announcement_keeps_every_field(announcement: Announcement) -> None:
    number = 1_795_267_788_952_209 if announcement.is_change else None
    assert decode(numbered(announcement, number)) == Received(announcement, "me", number)


@given(keys=KEYS, groups=GROUPS, overtaken=GROUPS, awaited=KEYS, ended=KEYS, policies=st.booleans(), origin=st.text())
def test_announcement_keeps_any_content(
    keys: Any, groups: Any, overtaken: Any, awaited: Any, ended: Any, policies: bool, origin: str
) -> None:
    announcement = Announcement(keys, tuple(groups), tuple(overtaken), awaited, ended, policies)
    try:
        message = numbered(announcement, 7, origin)
    except UnicodeEncodeError:  # A lone surrogate, which no name and no key has.
        return
    assert decode(message) == Received(announcement, origin, 7)


def test_announcement_decodes_groups_as_groups() -> None:
    event = decode(numbered(Announcement(groups=(Group("tier", "kv"),)), 1))
    assert isinstance(event, Received)
    assert isinstance(event.announcement.groups[0], Group)


def test_announcement_has_this_form_on_the_wire() -> None:
    announcement = Announcement(("k",), (Group("tool", "t"),), (Group("model", "m"),), ("w",), ("d",), True)
    assert json.loads(numbered(announcement, 7)) == {
        "v": 1,
        "s": 7,
        "o": "me",
        "k": ["k"],
        "g": [["tool", "t"]],
        "f": [["model", "m"]],
        "w": ["w"],
        "d": ["d"],
        "p": True,
    }
    assert numbered(Announcement(awaited_leases=("w",)), None) == b'{"v":1,"s":null,"o":"me","w":["w"]}'


def test_announcement_of_a_pattern_is_unreadable_for_a_version_that_knows_no_patterns() -> None:
    """Among the groups, such a version would take the pattern for a group without entries, and drop nothing."""
    message = json.loads(numbered(Announcement(groups=(Group(MATCHING, "a*"),)), 7))
    assert message == {"v": 1, "s": 7, "o": "me", "m": ["a*"]}


def test_announcement_of_a_pattern_is_believed_within_bounds() -> None:
    longest = Announcement(groups=(Group(MATCHING, "a" * LONGEST_PATTERN_BYTES),))
    assert decode(numbered(longest, 7)) == Received(longest, "me", 7)
    longer = Announcement(groups=(Group(MATCHING, "a" * (LONGEST_PATTERN_BYTES + 1)),))
    assert isinstance(decode(numbered(longer, 7)), Unreadable)
    unclear = Announcement(groups=(Group(MATCHING, "[a-é]"),))
    assert isinstance(decode(numbered(unclear, 7)), Unreadable)


@pytest.mark.parametrize(
    ("announcement", "is_change"),
    [
        (Announcement(keys=("k",)), True),
        (Announcement(groups=(Group("tier", "kv"),)), True),
        (Announcement(overtaken=(Group("tier", "kv"),)), True),
        (Announcement(awaited_leases=("k",), ended_leases=("k",), policies=True), False),
        (Announcement(), False),
    ],
)
def test_announcement_of_a_change_must_have_a_number(announcement: Announcement, is_change: bool) -> None:
    assert announcement.is_change is is_change
    assert isinstance(decode(numbered(announcement, None)), Unreadable) is is_change


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"what is this?",
    "cut off": b'{"v":1,"s":1,"o":"x","k":["a"',
    "followed by more": b'{"v":1,"s":1,"o":"x","k":["a"]}{}',
    "no UTF-8": b'{"v":1,"s":1,"o":"\xff","k":["a"]}',
    "a surrogate": b'{"v":1,"s":1,"o":"\\ud800","k":["a"]}',
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "deep": b"[" * 100_000,
    "deep inside": b'{"v":1,"s":1,"o":"x","later":' + b"[" * 100_000,
    "no version": b'{"s":1,"o":"x","k":["a"]}',
    "an older version": b'{"v":0,"s":1,"o":"x","k":["a"]}',
    "a later version": b'{"v":2,"s":1,"o":"x","k":["a"]}',
    "a later version of another form": b'{"v":2,"sequence":1}',
    "a version that is text": b'{"v":"1","s":1,"o":"x","k":["a"]}',
    "no number": b'{"v":1,"o":"x","k":["a"]}',
    "a change without a number": b'{"v":1,"s":null,"o":"x","k":["a"]}',
    "a number that is text": b'{"v":1,"s":"1","o":"x","k":["a"]}',
    "a fraction": b'{"v":1,"s":1.5,"o":"x","k":["a"]}',
    "no origin": b'{"v":1,"s":1,"k":["a"]}',
    "an origin that is a number": b'{"v":1,"s":1,"o":1,"k":["a"]}',
    "an unknown field": b'{"v":1,"s":1,"o":"x","k":["a"],"later":1}',
    "keys that are text": b'{"v":1,"s":1,"o":"x","k":"a"}',
    "a key that is no text": b'{"v":1,"s":1,"o":"x","k":[1]}',
    "a group that is text": b'{"v":1,"s":1,"o":"x","g":["tool"]}',
    "half a group": b'{"v":1,"s":1,"o":"x","g":[["tool"]]}',
    "a group of three": b'{"v":1,"s":1,"o":"x","g":[["tool","a","b"]]}',
    "half an overtaken group": b'{"v":1,"s":1,"o":"x","f":[["tool"]]}',
    "awaited leases that are text": b'{"v":1,"s":null,"o":"x","w":"a"}',
    "ended leases that are null": b'{"v":1,"s":null,"o":"x","d":null}',
    "settings that are a number": b'{"v":1,"s":null,"o":"x","p":1}',
}


@pytest.mark.parametrize("form", MALFORMED)
def test_message_is_unreadable_if_malformed(form: str) -> None:
    message = decode(MALFORMED[form])
    assert isinstance(message, Unreadable)
    assert message.reason


@given(st.binary())
def test_message_of_any_bytes_never_raises(message: bytes) -> None:
    assert isinstance(decode(message), Unreadable | Received)


def test_announcement_keeps_numbers_of_any_size_in_use() -> None:
    for number in (1, 2**53, 1_795_267_788_952_209, 2**63 - 1):
        event = decode(numbered(Announcement(keys=("k",)), number))
        assert isinstance(event, Received)
        assert event.number == number
